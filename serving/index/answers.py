"""What a router answers: rows and results, and how whole they are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serving.index.merge import Hits
from serving.index.metric import Vectors


@dataclass(frozen=True)
class Found:
    """Results of a search [N, k] and how whole they are.

    `coverage` is the share of the shards asked that answered; `missing` names the others.
    """

    hits: Hits
    generation: str
    coverage: float
    missing: tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """Rows [m, dim] by id. `found` [m]; where `asked` [m] is false the id's shard did not answer."""

    vectors: Vectors
    found: NDArray[np.bool_]
    asked: NDArray[np.bool_]
    generation: str
    coverage: float


def part_of(found: Found, rows: slice, k: int) -> Found:
    """The results of some of the queries, the first k of each."""
    return replace(found, hits=Hits(found.hits.ids[rows, :k], found.hits.scores[rows, :k]))


def coverage(asked: Sequence[object], missing: Sequence[int]) -> float:
    """The share of shards that an answer is made of."""
    return 1 - len(missing) / max(len(asked), 1)
