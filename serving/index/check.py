"""What is wrong with vectors and ids, in words: the same for building, writing and searching."""

import numpy as np

from serving.index.metric import Ids, Metric, Vectors


def problem_of_vectors(vectors: Vectors, dim: int, metric: Metric) -> str | None:
    """The first vector [N, dim] that cannot be indexed or searched for, and why; None: all can."""
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        return f"vectors have {vectors.shape[-1]} components and {dim} are needed"
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.einsum("nd,nd->n", vectors, vectors)
    if np.isfinite(norms).all() and (metric == "l2" or norms.all()):
        return None
    bad = ~np.isfinite(norms) | (norms == 0 if metric == "inner_product" else False)
    row = int(np.flatnonzero(bad)[0])
    if np.isnan(vectors[row]).any():
        return f"vector {row} holds NaN"
    if np.isinf(vectors[row]).any():
        return f"vector {row} holds an infinite component"
    if norms[row] == 0:
        return f"vector {row} is zero: it has no direction, an inner product says nothing about it"
    return f"vector {row} is too long: its squared length is no finite float32"


def problem_of_ids(ids: Ids) -> str | None:
    """The first id that cannot be stored; None: all can."""
    negative = np.flatnonzero(ids < 0)
    return f"id {ids[negative[0]]} is negative: ids are 0 or larger" if len(negative) else None
