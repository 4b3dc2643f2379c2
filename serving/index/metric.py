"""The two metrics, and everything that depends on which one is meant."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Metric = Literal["inner_product", "l2"]
Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]

NO_ID = -1  # FAISS' own word for "there is no such result"


def worst_score(metric: Metric) -> float:
    """The score of a result that is not there: smaller or larger than any real one."""
    return -np.inf if metric == "inner_product" else np.inf


def best_first(ids: Ids, scores: Vectors, metric: Metric) -> NDArray[np.intp]:
    """The order [N, M] that puts the best score of each row first; equal scores by id, missing ones last.

    Inner product keeps the largest, L2 (squared distances, as FAISS gives them) the smallest.
    """
    worse = -scores if metric == "inner_product" else scores
    worse = np.where(ids == NO_ID, np.inf, worse)
    order: NDArray[np.intp] = np.lexsort((ids, worse), axis=1)
    return order


def exact_scores(queries: Vectors, rows: Vectors, metric: Metric) -> Vectors:
    """The true scores [N, M] of queries [N, D] against candidates of their own [N, M, D]."""
    if metric == "inner_product":
        scores: Vectors = np.einsum("nd,nmd->nm", queries, rows)
    else:
        difference = rows - queries[:, None, :]  # [N, M, D]
        scores = np.einsum("nmd,nmd->nm", difference, difference)
    return scores
