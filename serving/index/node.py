"""A node: one Triton with the shards that were given to it, within the memory that it has.

<directory>/models/     the Triton repository, one model per replica
<directory>/state/      logs and compacted segments, by generation and shard
<directory>/compacting  held by the one shard that compacts
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from models.manifest import Record
from serving.errors import DoesNotFitError, PlacementError
from serving.index.footprint import SERVER_BYTES, Footprint, footprint, mib
from serving.index.generation import (
    Generation,
    read_generation,
    read_segment_record,
    shard_directory,
)
from serving.index.gpu import NO_GPU, GpuSettings
from serving.index.gpu_devices import gpu_uses
from serving.index.repository import Mount, write_model
from serving.triton.launch import RunningTriton, run_triton


class NodeOrder(Record):
    """Which shards a node holds, where it keeps what is its own, and what it may take."""

    generation: Path
    """The generation's directory."""
    shards: tuple[int, ...]
    """The shards it holds a replica of."""
    directory: Path
    """What belongs to the node alone."""
    state: Path | None = None
    """Where logs and compacted segments lie; below `directory` if None."""
    memory_bytes: int
    """Memory of the node."""
    host: str = "127.0.0.1"
    """Address to listen on: loopback or the cluster's network, nothing public."""
    grpc_port: int | None = None
    """A free one if None."""
    http_port: int | None = None
    """Where /v2/health/ready is asked; a free one if None."""
    threads: int = 1
    """Threads of one search of one shard."""
    gpu: GpuSettings = NO_GPU
    """Which GPUs search, if any."""
    ready_timeout_s: float = 600.0
    """How long it may take to verify and read everything."""


@contextmanager
def run_node(order: NodeOrder) -> Iterator[RunningTriton]:
    """A node that answers for its shards, until the context ends.

    Raises DoesNotFitError or GpuError before anything is loaded, and what run_triton raises.
    """
    mounts = mounts_of(order)
    shutil.rmtree(order.directory / "models", ignore_errors=True)  # of what it held before
    for mount in mounts:
        write_model(order.directory / "models", mount)
    with (
        run_triton(
            order.directory / "models",
            host=order.host,
            grpc_port=order.grpc_port,
            http_port=order.http_port,
            log_path=order.directory / "triton.log",
            ready_timeout_s=order.ready_timeout_s,
            unverified=True,  # the models are configuration that was just written; each verifies its files
            explicit=True,
        ) as triton
    ):
        yield triton


def mounts_of(order: NodeOrder) -> list[Mount]:
    """The replicas of a node, each with its part of the memory and its GPU, if any.

    Raises DoesNotFitError, PlacementError or GpuError.
    """
    generation = read_generation(order.generation)
    strange = [shard for shard in order.shards if not 0 <= shard < generation.shards]
    if strange or not order.shards:
        raise PlacementError(
            f"{generation.name} has the shards 0 to {generation.shards - 1}, not {strange or 'none'}: name "
            "those that the node holds"
        )
    needs = needs_of(order.generation, generation, order.shards)
    check_node_fits(needs, order.memory_bytes, order.directory.name)
    gpus = gpu_uses(order.gpu, generation, rows_of(order.generation, order.shards))
    spare = order.memory_bytes - SERVER_BYTES - sum(need.total_bytes for need in needs)
    states = order.state or order.directory / "state"
    return [
        Mount(
            generation=order.generation.resolve(),
            shard=shard,
            state=shard_directory(states / generation.name, shard).resolve(),
            budget_bytes=need.total_bytes + spare // len(needs),
            threads=order.threads,
            turn=(order.directory / "compacting").resolve(),
            gpu=gpu,
        )
        for shard, need, gpu in zip(order.shards, needs, gpus, strict=True)
    ]


def needs_of(directory: Path, generation: Generation, shards: Sequence[int]) -> list[Footprint]:
    """What each of these shards takes in memory."""
    layout, dim, metric = generation.layout, generation.dim, generation.metric
    return [footprint(layout, dim, count, metric) for count in rows_of(directory, shards)]


def rows_of(directory: Path, shards: Sequence[int]) -> list[int]:
    """How many rows each of these shards was built with."""
    return [read_segment_record(shard_directory(directory, shard)).rows for shard in shards]


def check_node_fits(needs: Sequence[Footprint], memory_bytes: int, node: str) -> None:
    """Raise DoesNotFitError when a node's shards need more than it has."""
    needed = SERVER_BYTES + sum(need.total_bytes for need in needs)
    if needed > memory_bytes:
        raise DoesNotFitError(
            f"{node} has {mib(memory_bytes)} MiB and its {len(needs)} shards need {mib(needed)} MiB: it is "
            f"{mib(needed - memory_bytes)} MiB over; give it fewer shards, or plan another layout with "
            "`python -m serving.index plan`"
        )


def forget_generation(directory: Path, name: str) -> None:
    """Remove the models and the state of a generation that is no longer served."""
    for path in (directory / "models").glob(f"*-{name}-[0-9][0-9][0-9][0-9]"):
        shutil.rmtree(path)
    shutil.rmtree(directory / "state" / name, ignore_errors=True)
