"""The immutable part of a shard: an index over rows that lie on disk in the order of their ids."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.index import faiss_index
from serving.index.faiss_index import MISSING, Bitmap
from serving.index.generation import (
    INDEX_NAME,
    Generation,
    read_ids,
    read_rows,
    read_segment_record,
    read_versions,
    verify_segment,
)
from serving.index.layout import FLOAT_BYTES
from serving.index.merge import Hits, no_hits
from serving.index.metric import NO_ID, Ids, Vectors, best_first, exact_scores, worst_score
from serving.index.unfiltered import Searcher, search_live

RESCORED_BYTES = 16 * 2**20  # rows of candidates that are looked at together
NEVER_WRITTEN = np.iinfo(np.int64).min  # older than any version


@dataclass(frozen=True)
class Segment:
    """`ids` [n] ascending; `rows` [n, dim] memory-mapped; `index` holds row i at position i.

    `versions` [2, m]: ids, ascending, and when each was last written, as far as that is known.
    `clone`, where there is one, is the index on a GPU and searched first.
    """

    generation: Generation
    ids: Ids
    rows: Vectors
    index: Any
    versions: Ids
    clone: Searcher | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def on_cpu(self) -> "Segment":
        """The same, searched on the CPU: for searches in which few rows may be found."""
        return replace(self, clone=None)

    def positions_of(self, ids: Ids) -> NDArray[np.int64]:
        """Where these ids [m] are, MISSING for the others."""
        return positions_in(self.ids, ids)

    def versions_of(self, ids: Ids) -> NDArray[np.int64]:
        """The versions [m] that these ids [m] were last written with, NEVER_WRITTEN where none is known."""
        known, versions = self.versions
        at = positions_in(known, ids)
        found = np.full(len(ids), NEVER_WRITTEN, dtype=np.int64)
        found[at != MISSING] = versions[at[at != MISSING]]
        return found

    def search(self, queries: Vectors, k: int, effort: int, members: Bitmap | None) -> Hits:
        """The best k of the rows whose bit is set in `members`."""
        parts = [self.search_part(part, k, effort, members) for part in self.parts_of(queries, k)]
        if len(parts) == 1:
            return parts[0]
        return Hits(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.scores for part in parts]),
        )

    def parts_of(self, queries: Vectors, k: int) -> list[Vectors]:
        """The queries [N, dim] in parts whose candidates are rescored in RESCORED_BYTES, one at the least."""
        candidates = max(1, k * self.generation.layout.rescore)
        at_once = max(1, RESCORED_BYTES // (candidates * FLOAT_BYTES * self.generation.dim))
        if not self.generation.layout.rescore or len(queries) <= at_once:
            return [queries]
        return [queries[start : start + at_once] for start in range(0, len(queries), at_once)]

    def search_part(self, queries: Vectors, k: int, effort: int, members: Bitmap | None) -> Hits:
        """The same for so few queries that all is done at once."""
        generation = self.generation
        wanted = min(k * max(generation.layout.rescore, 1), len(self))
        if not wanted:
            return no_hits(len(queries), k, generation.metric)
        positions, scores = self.find(queries, wanted, effort, members)
        missing = positions == MISSING
        scores[missing] = worst_score(generation.metric)
        if generation.layout.rescore:
            positions, scores = self.rescore(queries, positions, k)
            missing = positions == MISSING
        ids = np.where(missing, NO_ID, self.ids[positions])
        return Hits(ids, scores)

    def find(
        self, queries: Vectors, wanted: int, effort: int, members: Bitmap | None
    ) -> tuple[Ids, Vectors]:
        """Positions [N, wanted], MISSING where there are fewer, and the index's scores of them."""
        index, layout = self.index, self.generation.layout
        found = None
        if self.clone is not None:
            found = search_live(self.clone, queries, wanted, effort, members, len(self))
        if found is None:
            return faiss_index.search(index, layout, queries, wanted, effort, members)
        if found.short.any():
            again = faiss_index.search(index, layout, queries[found.short], wanted, effort, members)
            found.positions[found.short], found.scores[found.short] = again
        return found.positions, found.scores

    def rescore(self, queries: Vectors, positions: Ids, k: int) -> tuple[Ids, Vectors]:
        """The best k of these candidates [N, m] by their exact rows."""
        metric = self.generation.metric
        rows = self.rows[np.maximum(positions, 0)]  # [N, m, dim]
        scores = exact_scores(queries, rows, metric).astype(np.float32)
        scores[positions == MISSING] = worst_score(metric)
        order = best_first(positions, scores, metric)[:, :k]
        return (
            np.take_along_axis(positions, order, axis=1),
            np.take_along_axis(scores, order, axis=1),
        )


def positions_in(ascending: Ids, ids: Ids) -> NDArray[np.int64]:
    """Where these ids [m] are in ascending ones [n], MISSING for the others."""
    if not len(ascending):
        return np.full(len(ids), MISSING, dtype=np.int64)
    found = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    return np.where(ascending[found] == ids, found, MISSING)


def open_segment(directory: Path, generation: Generation, *, verify: bool = True) -> Segment:
    """Check and open a segment. Raises CorruptIndexError."""
    record = read_segment_record(directory)
    if verify:
        verify_segment(directory, record)
    layout = generation.layout
    return Segment(
        generation=generation,
        ids=read_ids(directory),
        rows=read_rows(directory),
        index=faiss_index.load(directory / INDEX_NAME, on_disk=layout.on_disk),
        versions=read_versions(directory),
    )
