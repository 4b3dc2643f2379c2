"""A generation that is served, with all that was written to it, as the source of the next one."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from serving.index.delta import Delta, apply
from serving.index.generation import (
    Generation,
    read_generation,
    read_ids,
    read_rows,
    shard_directory,
)
from serving.index.log import read_log
from serving.index.metric import Ids, Vectors
from serving.index.state import log_numbers, log_path, read_state
from serving.index.writer import CHUNK_ROWS


@dataclass(frozen=True)
class FollowedShard:
    """What one shard holds at one moment: rows of a segment that still count, and what changed since."""

    segment: Path
    kept: Ids
    delta: Delta
    sequence: int

    def chunks(self) -> Iterator[tuple[Ids, Vectors]]:
        """All of its rows."""
        ids, rows = read_ids(self.segment), read_rows(self.segment)
        for start in range(0, len(self.kept), CHUNK_ROWS):
            at = self.kept[start : start + CHUNK_ROWS]
            yield ids[at], np.asarray(rows[at])
        yield self.delta.ids, self.delta.vectors


@dataclass(frozen=True)
class FollowedGeneration:
    """`directory` of the generation; `states` of one replica of each shard, in order.

    Shards may be served meanwhile: what is written after a shard was looked at is not in here, which
    `includes` tells whoever switches.
    """

    directory: Path
    states: tuple[Path, ...]

    @cached_property
    def generation(self) -> Generation:
        """Its description."""
        return read_generation(self.directory)

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return self.generation.dim

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(len(shard.kept) + len(shard.delta) for shard in self.shards)

    @property
    def identity(self) -> str:
        """What must be unchanged for a build to go on."""
        return f"{self.directory.resolve()} {self.includes}"

    @property
    def includes(self) -> tuple[int, ...]:
        """The changes of each shard that are in here."""
        return tuple(shard.sequence for shard in self.shards)

    @cached_property
    def shards(self) -> list[FollowedShard]:
        """Each shard as it was when it was looked at."""
        return [self._look(number, state) for number, state in enumerate(self.states)]

    def chunks(self, start: int) -> Iterator[tuple[Ids, Vectors]]:
        """Ids and vectors from row `start` on."""
        for shard in self.shards:
            for ids, vectors in shard.chunks():
                skipped = min(start, len(ids))
                start -= skipped
                if skipped < len(ids):
                    yield ids[skipped:], vectors[skipped:]

    def _look(self, number: int, directory: Path) -> FollowedShard:
        base = shard_directory(self.directory, number)
        delta = Delta(self.generation.dim, self.generation.metric)
        if not directory.is_dir():
            return FollowedShard(base, np.arange(len(read_ids(base))), delta, 0)
        state = read_state(directory)
        sequence = state.first_sequence
        for log in log_numbers(directory, state):
            for change in read_log(log_path(directory, log)):
                apply(change, [delta])
                sequence = change.sequence
        segment = directory / state.segment if state.segment else base
        touched = np.fromiter(delta.touched, dtype=np.int64)
        kept = np.flatnonzero(~np.isin(read_ids(segment), touched))
        return FollowedShard(segment, kept, delta, sequence)
