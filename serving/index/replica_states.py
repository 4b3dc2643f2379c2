"""What was written to the replicas of an index on many machines, on the file system that they share.

    <index>/replicas/<replica>/<generation>/shard-0000/      the state of one replica of one shard

A replica that moves to another machine finds there what was written to it. A write is acknowledged when every
replica has it, so a new replica may begin as a copy of the first one.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.errors import IndexBusyError
from serving.index.generation import Generation, shard_directory
from serving.index.local import NODE_NAME, REPLICAS_NAME
from serving.index.state import lock

BUSY_S = (
    60.0  # a node that was stopped, or whose machine died, lets go of its state within this time
)
RETRY_S = 0.2


def replica_states(index: Path, replica: int) -> Path:
    """Where a replica of the index keeps its states, by generation."""
    return index / REPLICAS_NAME / str(replica)


def written_states(index: Path, generation: str) -> Path:
    """Where what was written to a generation lies, by shard: the first replica's, or the local node's."""
    placed = replica_states(index, 0) / generation
    return placed if placed.is_dir() else index / NODE_NAME / "state" / generation


def prepare_states(index: Path, generation: Generation, replicas: int) -> None:
    """Have every replica of every shard begin with what was written before, also to the node of one machine.

    Nothing may serve the generation meanwhile. Raises IndexBusyError.
    """
    local = index / NODE_NAME / "state" / generation.name
    for shard in range(generation.shards):
        first, *others = (
            shard_directory(replica_states(index, replica) / generation.name, shard)
            for replica in range(replicas)
        )
        copy_state(shard_directory(local, shard), first)
        for other in others:
            copy_state(first, other)
    for directory in (index / REPLICAS_NAME).glob("[0-9]*"):
        if int(directory.name) >= replicas:  # it would miss what is written from now on
            shutil.rmtree(directory / generation.name, ignore_errors=True)


def copy_state(source: Path, destination: Path) -> None:
    """A state that begins with what another one holds; one that has begun is left as it is."""
    if destination.exists() or not source.exists():
        return
    copying = destination.with_name(f".{destination.name}")
    shutil.rmtree(copying, ignore_errors=True)  # of a copy that was stopped
    with held(source):
        shutil.copytree(source, copying)
    copying.rename(destination)


@contextmanager
def held(state: Path) -> Iterator[None]:
    """Nobody writes to a state meanwhile. Raises IndexBusyError when someone does for long."""
    end_s = time.monotonic() + BUSY_S
    while True:
        try:
            with lock(state):
                yield
            return
        except IndexBusyError:
            if time.monotonic() > end_s:
                raise
        time.sleep(RETRY_S)
