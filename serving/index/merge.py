"""Partial results into one: what the delta adds to a shard, and what shards add to an answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.index.metric import NO_ID, Ids, Metric, Vectors, best_first, worst_score


@dataclass(frozen=True)
class Hits:
    """`ids` [N, k], NO_ID where there are fewer than k; `scores` [N, k], best first."""

    ids: Ids
    scores: Vectors


def merge(parts: Sequence[Hits], k: int, metric: Metric) -> Hits:
    """The best k of several results [N, k_i] for the same N queries.

    An id stands in one part only: shards and the two halves of a shard are disjoint.
    """
    ids = np.concatenate([part.ids for part in parts], axis=1)
    scores = np.concatenate([part.scores for part in parts], axis=1)
    order = best_first(ids, scores, metric)[:, :k]
    return pad(
        Hits(np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)),
        k,
        metric,
    )


def pad(hits: Hits, k: int, metric: Metric) -> Hits:
    """The same results in exactly k columns."""
    rows, columns = hits.ids.shape
    if columns >= k:
        return hits
    ids = np.full((rows, k), NO_ID, dtype=np.int64)
    scores = np.full((rows, k), worst_score(metric), dtype=np.float32)
    ids[:, :columns], scores[:, :columns] = hits.ids, hits.scores
    return Hits(ids, scores)


def no_hits(rows: int, k: int, metric: Metric) -> Hits:
    """What an empty index answers."""
    empty = Hits(np.empty((rows, 0), np.int64), np.empty((rows, 0), np.float32))
    return pad(empty, k, metric)
