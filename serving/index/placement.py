"""Where the shards of an index run: one small file that routers watch.

    <index>/placement.json

Whoever places shards (a person, Kubernetes, Ray) replaces the file as a whole; a router takes it over between
two answers. So a generation is switched, and a shard moved, without an answer that mixes two of them.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from models.files import write_atomically
from models.manifest import Record
from serving.errors import PlacementError
from serving.index.generation import Generation
from serving.index.metric import Metric

PLACEMENT_NAME = "placement.json"


class Placement(Record):
    """The generation that is served and the addresses (host:port, gRPC) of each shard's replicas."""

    index: str
    generation: str
    dim: int = Field(gt=0)
    metric: Metric
    space: str = ""
    replicas: tuple[tuple[str, ...], ...] = Field(min_length=1)
    """By shard; a shard without any is missing from every answer, which says so."""
    closed: tuple[int, ...] = ()
    """Shards that take no writes for now: a replica of them is away and would miss them."""

    def why_no_writes(self, shards: Sequence[int]) -> str | None:
        """Why these shards cannot be written to now; None when they can."""
        nowhere = [shard for shard in shards if not self.replicas[shard]]
        if nowhere:
            return f"shards {nowhere} run nowhere now"
        closed = [shard for shard in shards if shard in self.closed]
        return f"a replica of the shards {closed} is away and would miss it" if closed else None


def place(
    generation: Generation, replicas: list[list[str]], closed: tuple[int, ...] = ()
) -> Placement:
    """The placement of a generation. Raises PlacementError unless every shard is given a list."""
    if len(replicas) != generation.shards:
        raise PlacementError(
            f"{generation.name} has {generation.shards} shards and {len(replicas)} are placed: place each"
        )
    return Placement(
        index=generation.index,
        generation=generation.name,
        dim=generation.dim,
        metric=generation.metric,
        space=generation.space,
        replicas=tuple(map(tuple, replicas)),
        closed=closed,
    )


def read_placement(path: Path) -> Placement:
    """Raises PlacementError when there is none or it cannot be read."""
    try:
        return Placement.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise PlacementError(
            f"{path} is missing: start the index with `python -m serving.index serve`, or write where its "
            "shards run"
        ) from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise PlacementError(f"{path} cannot be read: {first_problem(error)}") from error
    except OSError as error:
        raise PlacementError(f"{path} cannot be read: {error.strerror}") from error


def write_placement(path: Path, placement: Placement) -> None:
    """Replace the placement; routers see the old one or the new one."""
    write_atomically(path, placement.model_dump_json(indent=2).encode() + b"\n")


def stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced, or written where it is; None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def first_problem(error: Exception) -> str:
    """What a person can correct."""
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False)[0]
        return ": ".join(filter(None, (".".join(map(str, found["loc"])), found["msg"])))
    return "it is not UTF-8"
