"""Writes to a shard until it is killed, a process anew for each line of standard input, forked to be quick.

A process says what it is about to write and, once the shard said that it is safe, that it is. Vectors follow
from an id and a version, so that whoever reads what was said knows them.
"""

import os
import random
import sys
import threading
from pathlib import Path

import numpy as np

from serving.index.compact import compact
from serving.index.metric import Vectors
from serving.index.shard import Shard

IDS, DIM = 300, 8


def vector(row_id: int, version: int) -> Vectors:
    """What an id is upserted with by the write of this version."""
    return np.random.default_rng((row_id, version)).normal(size=DIM).astype(np.float32)


def work(generation: Path, state: Path, version: int) -> None:
    chosen = random.Random(version)
    shard = Shard(generation, 0, state)
    compacting = threading.Thread()
    say("open", os.getpid())
    while True:
        version += 1
        ids = chosen.sample(range(IDS), chosen.randint(1, 40))
        operation = chosen.choice(["upsert", "upsert", "delete"])
        say("try", version, operation, *ids)
        vectors = np.stack([vector(row_id, version) for row_id in ids])
        shard.write([(operation, version, np.array(ids), vectors)])
        say("done", version)
        if not compacting.is_alive() and chosen.random() < 0.2:
            compacting = threading.Thread(target=compact_once, args=(shard,))
            compacting.start()


def compact_once(shard: Shard) -> None:
    logs, destination = shard.begin_compaction()
    old = shard.directory / shard.state.segment if shard.state.segment else shard.base
    compact(shard.base.parent, old, logs, destination)
    shard.adopt(destination)
    say("compacted")


def say(*words: object) -> None:
    """One write(2): a line is never half there."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def main() -> None:
    generation, state = map(Path, sys.argv[1:])
    for line in sys.stdin:
        process = os.fork()
        if not process:
            work(generation, state, int(line))
        os.waitpid(process, 0)
        say("killed")


if __name__ == "__main__":
    main()
