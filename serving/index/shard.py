"""One replica of one shard: a segment, what changed since, and the log that keeps it.

    search = segment (without what is hidden) + deltas
    write  = log, fsync, delta, hide the old row

While a compaction runs there are two deltas: the frozen one goes into the new segment, the other follows it.
"""

import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.files import sha256_file
from serving.errors import CorruptIndexError
from serving.index.delta import Delta, apply
from serving.index.faiss_index import MISSING, Bitmap, selected
from serving.index.generation import (
    SEGMENT_NAME,
    Generation,
    read_generation,
    read_segment_record,
    shard_directory,
)
from serving.index.log import Change, Log, Operation, read_log
from serving.index.memory import give_back
from serving.index.merge import Hits, merge
from serving.index.metric import Ids, Vectors, best_first, exact_scores
from serving.index.recall import View
from serving.index.segment import NEVER_WRITTEN, Segment, open_segment
from serving.index.state import (
    State,
    lock,
    log_numbers,
    log_path,
    open_state,
    remove_leftovers,
    segment_path,
    write_state,
)
from serving.index.unfiltered import Clone, clone_or_none

# Up to so many ids a filtered search scores each of them exactly: quicker than an index that has to look
# through everything for a few, and it finds them all.
SMALL_FILTER = 10_000


@dataclass(frozen=True)
class Counts:
    """How much a replica holds. `changes` are those since its segment was made."""

    rows: int
    changes: int
    sequence: int
    segment: str


class Shard:
    """An open replica. One thread searches and writes; `adopt` may be called from another."""

    def __init__(
        self,
        generation_directory: Path,
        shard: int,
        state_directory: Path,
        clone: Clone | None = None,
    ) -> None:
        """Open the replica whose own files are in `state_directory`; see open_shard.

        `clone` puts the index of a segment on a GPU; what it raises is raised, after a compaction logged.
        """
        self._clone: Clone = clone or (lambda _: None)
        self.generation: Generation = read_generation(generation_directory)
        self.base = shard_directory(generation_directory, shard)
        self.directory = state_directory
        self._lock = lock(state_directory)
        self._changing = threading.RLock()
        try:
            self._open()
        except BaseException:
            self._lock.close()
            raise

    def _open(self) -> None:
        read_segment_record(self.base)  # or it is refused by name
        self.state = open_state(self.directory, sha256_file(self.base / SEGMENT_NAME))
        segment = self._open_segment(self.state)
        self.segment = replace(segment, clone=self._clone(segment.index))
        self.sequence = self.state.first_sequence
        self._live = np.ones(len(self.segment), dtype=np.uint8)
        self._members: Bitmap | None = None
        self._deltas = [self._new_delta()]
        numbers = log_numbers(self.directory, self.state) or [self.state.first_log]
        for number in numbers:
            self._replay(log_path(self.directory, number))
        self._number = numbers[-1]
        self._log = Log(log_path(self.directory, self._number))
        remove_leftovers(self.directory, self.state)  # last: what is refused is left as it is

    def close(self) -> None:
        """Close the log and let others open the replica."""
        self._log.close()
        self._lock.close()

    def counts(self) -> Counts:
        """How much it holds."""
        live = int(self._live.sum()) + sum(len(delta) for delta in self._deltas)
        changes = sum(len(delta.touched) for delta in self._deltas)
        return Counts(live, changes, self.sequence, self.state.segment)

    def search(self, queries: Vectors, k: int, effort: int = 0) -> Hits:
        """The best k of everything, for queries [N, dim]; `effort` 0 is the layout's own."""
        with self._changing:
            parts = [self.segment.search(queries, k, effort, self._selector())]
            parts += [delta.search(queries, k) for delta in self._deltas if len(delta)]
        if len(parts) == 1 and parts[0].ids.shape[1] == k:  # as most searches end
            return parts[0]
        return merge(parts, k, self.generation.metric)

    def view(self) -> View:
        """The segment as it is now, for a comparison in the background."""
        with self._changing:
            return View(self.segment, self._selector())

    def search_among(self, query: Vectors, among: Ids, k: int, effort: int = 0) -> Hits:
        """The best k of the rows with these ids, for one query [dim]; ids that are not here do not count."""
        queries = query[None, :]
        with self._changing:
            positions = self.segment.positions_of(np.unique(among))
            positions = positions[positions != MISSING]
            positions = positions[self._live[positions] == 1]
            parts = [delta.search(queries, k, among) for delta in self._deltas]
            if len(positions) <= SMALL_FILTER:
                parts.append(self._score(queries, positions, k))
            else:
                members = selected(positions, len(self.segment))
                parts.append(self.segment.on_cpu().search(queries, k, effort, members))
        return merge(parts, k, self.generation.metric)

    def lookup(self, ids: Ids) -> tuple[Vectors, NDArray[np.bool_]]:
        """Rows [m, dim] by id, zeros where `found` [m] is false."""
        rows = np.zeros((len(ids), self.generation.dim), dtype=np.float32)
        with self._changing:
            positions = self.segment.positions_of(ids)
            found = positions != MISSING
            found[found] = self._live[positions[found]] == 1
            rows[found] = self.segment.rows[positions[found]]
            for delta in self._deltas:
                for at, row_id in enumerate(ids.tolist() if len(delta) else ()):
                    slot = delta.slots.get(row_id)
                    if slot is not None:
                        rows[at], found[at] = delta.vectors[slot], True
        return rows, found

    def write(self, changes: Sequence[tuple[Operation, int, Ids, Vectors]]) -> int:
        """Log these (operation, version_ns, ids, vectors), wait until they are safe, then let them be seen.

        Returns the sequence number of the last. When the disk refuses, nothing is seen of any. Rows that were
        written with a larger version_ns before, perhaps before a compaction, stay as they are.
        """
        with self._changing:
            numbered = []
            for at, (operation, version_ns, ids, vectors) in enumerate(changes, 1):
                newer = self._versions_of(ids) <= version_ns
                kept = vectors[newer] if operation == "upsert" else vectors
                numbered.append(Change(operation, self.sequence + at, version_ns, ids[newer], kept))
            self._log.append_all(numbered)
            for change in numbered:
                self._apply(change)
            return self.sequence

    def begin_compaction(self) -> tuple[list[Path], Path]:
        """Freeze what changed so far: the logs to take in, and where the new segment belongs.

        Raises RuntimeError while one is under way.
        """
        with self._changing:
            if len(self._deltas) > 1:
                raise RuntimeError("a compaction is under way")
            logs = [log_path(self.directory, n) for n in log_numbers(self.directory, self.state)]
            self._open_next_log()
            self._frozen_sequence = self.sequence
            self._deltas.append(self._new_delta())
            return logs, segment_path(self.directory, self._number)

    def abandon_compaction(self) -> None:
        """Go on as if it had not begun: both deltas are one again."""
        with self._changing:
            if len(self._deltas) == 1:  # it was adopted, and failed in what follows
                return
            frozen, newer = self._deltas
            for row_id, version_ns in newer.touched.items():
                slot = newer.slots.get(row_id)
                if slot is None:
                    frozen.delete(row_id, version_ns)
                else:
                    frozen.upsert(row_id, newer.vectors[slot], version_ns)
            self._deltas = [frozen]
        for unfinished in self.directory.glob(".segment-*"):
            shutil.rmtree(unfinished)

    def adopt(self, segment_directory: Path) -> None:
        """Serve the segment that a compaction made, in place of the old one and the frozen delta."""
        state = State(
            segment=segment_directory.name,
            first_log=self._number,
            first_sequence=self._frozen_sequence,
            base=self.state.base,
        )
        # The process that wrote it has just read it again for its checksums.
        segment = self._open_segment(state, verify=False)
        segment = replace(segment, clone=clone_or_none(self._clone, segment.index))
        live = np.ones(len(segment), dtype=np.uint8)
        # What is written from here on is in the logs that the new state keeps.
        write_state(self.directory, state)
        with self._changing:
            replaced = self.segment
            newer = self._deltas[-1]
            hide(segment, live, np.fromiter(newer.touched, dtype=np.int64))
            self.state, self.segment, self._deltas = state, segment, [newer]
            self._live, self._members = live, None
        del replaced  # freeing it takes a while: not while searches wait
        give_back()
        remove_leftovers(self.directory, state)

    def _open_segment(self, state: State, *, verify: bool = True) -> Segment:
        directory = self.directory / state.segment if state.segment else self.base
        segment = open_segment(directory, self.generation, verify=verify)
        if segment.rows.shape != (len(segment), self.generation.dim):
            raise CorruptIndexError(
                f"{directory} does not hold {self.generation.dim} components per id: build the generation "
                "again"
            )
        return segment

    def _new_delta(self) -> Delta:
        return Delta(self.generation.dim, self.generation.metric)

    def _open_next_log(self) -> None:
        following = Log(log_path(self.directory, self._number + 1))
        self._log.close()
        self._log = following
        self._number += 1

    def _replay(self, path: Path) -> None:
        if not path.exists():
            return
        for change in read_log(path):
            if change.sequence != self.sequence + 1:
                raise CorruptIndexError(
                    f"{path} goes on with change {change.sequence} after {self.sequence}: a log is missing "
                    "or of another replica, restore the whole directory"
                )
            self._apply(change)

    def _apply(self, change: Change) -> None:
        """Let a change be seen."""
        apply(change, self._deltas)
        if hide(self.segment, self._live, change.ids):
            self._members = None
        self.sequence = change.sequence

    def _versions_of(self, ids: Ids) -> NDArray[np.int64]:
        """The versions [m] that these ids [m] were last written with."""
        versions = self.segment.versions_of(ids)
        for delta in self._deltas:
            touched = [delta.touched.get(row_id, NEVER_WRITTEN) for row_id in ids.tolist()]
            versions = np.maximum(versions, np.array(touched, dtype=np.int64))
        return versions

    def _selector(self) -> Bitmap | None:
        """The rows of the segment that are not hidden; None: all of them."""
        if self._members is None and not self._live.all():
            self._members = np.packbits(self._live, bitorder="little")
        return self._members

    def _score(self, queries: Vectors, positions: NDArray[np.int64], k: int) -> Hits:
        """The best k of these rows of the segment, exactly."""
        rows = np.asarray(self.segment.rows[positions])[None]  # [1, m, dim]
        ids = self.segment.ids[positions][None]
        scores = exact_scores(queries, rows, self.generation.metric).astype(np.float32)
        order = best_first(ids, scores, self.generation.metric)[:, :k]
        return Hits(
            np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
        )


def hide(segment: Segment, live: NDArray[np.uint8], ids: Ids) -> bool:
    """Take rows of a segment out of its live ones; whether there was any."""
    positions = segment.positions_of(ids)
    positions = positions[positions != MISSING]
    live[positions] = 0
    return bool(len(positions))
