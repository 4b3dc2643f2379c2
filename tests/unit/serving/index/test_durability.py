"""A shard under `kill -9`: what was acknowledged is there, what was not is whole or absent."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from serving.index.metric import Vectors
from serving.index.shard import Shard
from tests.unit.serving.index.write_until_killed import IDS, vector

RandomVectors = Callable[..., Vectors]
MakeGeneration = Callable[..., Path]

SCRIPT = Path(__file__).with_name("write_until_killed.py")
ROUNDS = 20
OLD = 0  # the version of rows of the generation
Held = dict[int, int | None]  # by id the version that a row is of, None when it is not there


@contextmanager
def writers(generation: Path, state: Path) -> Iterator[Callable[[int, int], list[list[str]]]]:
    """Runs a writer from a version on until it said so many lines and is killed; all that it said."""
    with subprocess.Popen(
        [sys.executable, SCRIPT, generation, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout

        def run(version: int, lines: int) -> list[list[str]]:
            assert process.stdin
            assert process.stdout
            process.stdin.write(f"{version}\n".encode())
            process.stdin.flush()
            said: list[list[str]] = []
            for line in process.stdout:
                said.append(line.decode().split())
                if said[-1] == ["killed"]:
                    return said[:-1]
                if len(said) == lines:
                    os.kill(int(said[0][1]), signal.SIGKILL)
            raise AssertionError("the writer could not be started")

        yield run
        process.stdin.close()


def expected_after(held: Held, said: list[list[str]]) -> tuple[Held, Held]:
    """What is there for sure, and what instead if the last, unacknowledged write was kept."""
    sure = dict(held)
    perhaps: Held = {}
    for word, *values in said:
        if word == "try":
            version, operation, *ids = values
            kept = int(version) if operation == "upsert" else None
            perhaps = {int(row_id): kept for row_id in ids}
        if word == "done":
            sure |= perhaps
            perhaps = {}
    return sure, sure | perhaps


def held_by(generation: Path, state: Path, before: Held, after: Held) -> Held:
    """What the shard holds now: all as `before` or all as `after`, bit for bit."""
    shard = Shard(generation, 0, state)
    rows, found = shard.lookup(np.arange(IDS))
    searched = shard.search(rows[:1], IDS).ids[0]
    counts = shard.counts()
    shard.close()
    ids = set(np.flatnonzero(found).tolist())
    assert set(searched[searched >= 0].tolist()) == ids
    assert counts.rows == len(ids)
    for held in (before, after):
        there = {row_id: version for row_id, version in held.items() if version is not None}
        if there.keys() == ids and all(
            np.array_equal(rows[row_id], vector(row_id, version))
            for row_id, version in there.items()
        ):
            return held
    raise AssertionError(f"neither {before} nor {after}: {sorted(ids)}")


def test_after_each_of_20_kills_all_that_was_acknowledged_is_there_and_nothing_by_half(
    make_generation: MakeGeneration, tmp_path: Path
) -> None:
    base = np.stack([vector(row_id, OLD) for row_id in range(0, IDS, 2)])
    generation = make_generation(base, np.arange(0, IDS, 2))
    state = tmp_path / "state"
    held: Held = {row_id: None if row_id % 2 else OLD for row_id in range(IDS)}
    chosen = random.Random(1)
    compacted = version = 0
    with writers(generation, state) as run:
        for _ in range(ROUNDS):
            said = run(version, lines=chosen.randint(1, 150))
            held = held_by(generation, state, *expected_after(held, said))
            version += sum(words[0] == "try" for words in said) + 1
            compacted += sum(words == ["compacted"] for words in said)
    assert version > ROUNDS
    assert compacted > 0
