"""The default placement: every shard on one Triton of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serving.errors import PlacementError
from serving.index.generation import GENERATION_NAME, read_generation
from serving.index.gpu import NO_GPU, GpuSettings
from serving.index.node import NodeOrder, run_node
from serving.index.placement import (
    PLACEMENT_NAME,
    Placement,
    place,
    read_placement,
    write_placement,
)
from serving.triton.launch import RunningTriton

NODE_NAME = "node"
REPLICAS_NAME = "replicas"  # what was written to an index on many machines; see replica_states.py


@dataclass(frozen=True)
class RunningIndex:
    """A local index that answers."""

    placement: Placement
    triton: RunningTriton


@contextmanager
def run_local(
    index: Path,
    generation: str | None,
    memory_bytes: int,
    threads: int = 1,
    gpu: GpuSettings = NO_GPU,
) -> Iterator[RunningIndex]:
    """Serve all shards of a generation, and say where in placement.json, until the context ends.

    Raises PlacementError, DoesNotFitError, GpuError, and what run_triton raises.
    """
    directory = index / "generations" / (generation or generation_to_serve(index))
    described = read_generation(directory)
    check_not_placed(index, described.name)
    order = NodeOrder(
        generation=directory,
        shards=tuple(range(described.shards)),
        directory=index / NODE_NAME,
        memory_bytes=memory_bytes,
        threads=threads,
        gpu=gpu,
    )
    with run_node(order) as triton:
        placement = place(described, [[triton.grpc_url]] * described.shards)
        write_placement(index / PLACEMENT_NAME, placement)
        yield RunningIndex(placement, triton)


def check_not_placed(index: Path, generation: str) -> None:
    """Raise PlacementError for a generation that was written to on many machines: it would miss that."""
    states = index / REPLICAS_NAME / "0" / generation
    if states.is_dir():
        raise PlacementError(
            f"{generation} was served on a Ray cluster and what was written to it lies in {states}: go on "
            "with `python -m serving.index ray-serve`, or build the next one with --from-generation and "
            "serve that"
        )


def generation_to_serve(index: Path) -> str:
    """The generation that was served last, else the newest. Raises PlacementError when there is none."""
    if (index / PLACEMENT_NAME).is_file():
        return read_placement(index / PLACEMENT_NAME).generation
    built = [
        read_generation(path.parent) for path in index.glob(f"generations/[!.]*/{GENERATION_NAME}")
    ]
    if not built:
        raise PlacementError(
            f"{index} holds no generation: build one with `python -m serving.index build {index} --name g1`"
        )
    return max(built, key=lambda generation: generation.created_at).name
