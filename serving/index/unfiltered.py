"""Searching where rows cannot be left out, as on a GPU: more is asked for, and what is hidden is dropped.

Every result that stays is better than all that did not come back. So as soon as enough stay, they are what a
search among the live rows alone would have found; where too few stay, the query is answered elsewhere.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.errors import ServingError
from serving.index.faiss_index import MISSING, Bitmap
from serving.index.metric import Ids, Vectors

log = logging.getLogger(__name__)

MOST_RESULTS = 2048  # of a query, on a GPU: GPU_MAX_SELECTION_K in faiss/gpu/utils/DeviceDefs.cuh
SPARE = 32  # fetched beside twice what is wanted, when rows are hidden


class Searcher(Protocol):
    """Finds the best rows of a segment, hidden ones too."""

    device: int
    """Number of the GPU that it is on."""

    def search(self, queries: Vectors, k: int, effort: int) -> tuple[Ids, Vectors] | None:
        """Positions [N, k], MISSING where there are fewer, and scores [N, k] of the best; None: it cannot."""


Clone = Callable[[Any], Searcher | None]  # of a FAISS index; None: there is nothing to search


@dataclass(frozen=True)
class Answer:
    """`positions` and `scores` [N, k]; of queries that are `short` [N], too few of those found are live."""

    positions: Ids
    scores: Vectors
    short: NDArray[np.bool_]


def clone_or_none(clone: Clone, index: Any) -> Searcher | None:
    """A clone where there can be one; else why not is logged, and the CPU searches."""
    try:
        return clone(index)
    except ServingError as error:
        log.warning("the CPU searches from now on: %s", error)
        return None


def search_live(
    searcher: Searcher, queries: Vectors, k: int, effort: int, members: Bitmap | None, rows: int
) -> Answer | None:
    """The best k of those of all `rows` whose bit is set in `members` (None: all); None: ask elsewhere."""
    asked = fetched(k, members is not None, rows)
    found = searcher.search(queries, asked, effort) if asked else None
    if found is None:
        return None
    enough = np.zeros(len(queries), dtype=bool)
    if members is None:
        return Answer(*found, short=enough)
    answer = keep_live(*found, members, k)
    return answer if asked < rows else replace(answer, short=enough)  # there are no more rows


def fetched(k: int, some_are_hidden: bool, rows: int) -> int:
    """How many results to ask for, so that k are live for nearly every query; 0: more than can be."""
    if k > MOST_RESULTS:
        return 0
    return min(2 * k + SPARE if some_are_hidden else k, MOST_RESULTS, rows)


def keep_live(positions: Ids, scores: Vectors, members: Bitmap, k: int) -> Answer:
    """The first k of these results [N, asked] that are live, in their order."""
    there = positions != MISSING
    live = there & is_set(members, np.maximum(positions, 0))
    order = np.argsort(~live, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(live, order, axis=1)
    return Answer(
        positions=np.where(kept, np.take_along_axis(positions, order, axis=1), MISSING),
        scores=np.take_along_axis(scores, order, axis=1),
        short=there.all(axis=1) & (live.sum(axis=1) < k),  # else its lists hold no more
    )


def is_set(bits: Bitmap, positions: Ids) -> NDArray[np.bool_]:
    """Whether the bits of these positions are set in a bitmap as faiss_index.selected makes it."""
    found: NDArray[np.bool_] = (bits[positions >> 3] >> (positions & 7) & 1).astype(bool)
    return found
