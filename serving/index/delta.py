"""What changed since a shard's segment was made, in memory: searched exactly, together with the segment."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from serving.index import faiss_index
from serving.index.log import Change
from serving.index.merge import Hits, no_hits
from serving.index.metric import Ids, Metric, Vectors

FIRST_CAPACITY = 1024


@dataclass
class Delta:
    """Rows are dense: `ids[:n]` and `vectors[:n]` are those that live; `touched` says what else changed.

    `touched` maps every id that was upserted or deleted to the version of its last change.
    """

    dim: int
    metric: Metric
    slots: dict[int, int] = field(default_factory=dict)
    touched: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ids: Ids = np.empty(FIRST_CAPACITY, dtype=np.int64)
        self._vectors: Vectors = np.empty((FIRST_CAPACITY, self.dim), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def ids(self) -> Ids:
        """Ids [n] of the rows."""
        return self._ids[: len(self)]

    @property
    def vectors(self) -> Vectors:
        """The rows [n, dim]."""
        return self._vectors[: len(self)]

    def upsert(self, row_id: int, vector: Vectors, version_ns: int) -> None:
        """Put a row in place of the one with its id, or behind the others."""
        slot = self.slots.get(row_id)
        if slot is None:
            slot = len(self)
            self._reserve(slot + 1)
            self.slots[row_id] = slot
            self._ids[slot] = row_id
        self._vectors[slot] = vector
        self.touched[row_id] = version_ns

    def delete(self, row_id: int, version_ns: int) -> None:
        """Take a row out and remember that it is gone."""
        self.hide(row_id)
        self.touched[row_id] = version_ns

    def hide(self, row_id: int) -> None:
        """Take a row out because something newer holds it; the last row moves into its slot."""
        slot = self.slots.pop(row_id, None)
        last = len(self)
        if slot is None or slot == last:
            return
        moved = int(self._ids[last])
        self._ids[slot], self._vectors[slot] = moved, self._vectors[last]
        self.slots[moved] = slot

    def search(self, queries: Vectors, k: int, among: Ids | None = None) -> Hits:
        """The best k, exactly; `among` are the ids that may be found."""
        ids, vectors = self.ids, self.vectors
        if among is not None:
            chosen = np.isin(ids, among)
            ids, vectors = ids[chosen], vectors[chosen]
        if not len(ids):
            return no_hits(len(queries), k, self.metric)
        positions, scores = faiss_index.brute_force(queries, vectors, k, self.metric)
        return Hits(ids[positions], scores)

    def _reserve(self, rows: int) -> None:
        if rows <= len(self._ids):
            return
        capacity = max(rows, 2 * len(self._ids))
        ids, vectors = self._ids, self._vectors
        self._ids = np.empty(capacity, dtype=np.int64)
        self._vectors = np.empty((capacity, self.dim), dtype=np.float32)
        self._ids[: len(ids)], self._vectors[: len(vectors)] = ids, vectors


def apply(change: Change, deltas: Sequence[Delta]) -> None:
    """Take a change into the last of `deltas`, unless something newer is known of a row."""
    newest, others = deltas[-1], deltas[:-1]
    version_ns = change.version_ns
    for at, row_id in enumerate(change.ids.tolist()):
        if any(version_ns < delta.touched.get(row_id, version_ns) for delta in deltas):
            continue
        for delta in others:
            delta.hide(row_id)
        if change.operation == "upsert":
            newest.upsert(row_id, change.vectors[at], version_ns)
        else:
            newest.delete(row_id, version_ns)
