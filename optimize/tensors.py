"""Tensors as a Triton configuration declares them, against those of a graph, an engine or another model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tritonclient.grpc import model_config_pb2 as pb

VARIES = -1


@dataclass(frozen=True)
class Problem:
    """What is wrong, and what to do about it."""

    words: str
    fix: str


@dataclass(frozen=True)
class TensorSpec:
    """`data_type` is one of Triton's; `dims` begin with the batch where there is one; VARIES is any size."""

    name: str
    data_type: int
    dims: tuple[int, ...]


def declared(config: pb.ModelConfig, tensors: Sequence[pb.ModelInput]) -> list[TensorSpec]:
    """Inputs or outputs of a configuration, with the batch dimension that it leaves out."""
    batch = (VARIES,) if config.max_batch_size > 0 else ()
    return [TensorSpec(t.name, t.data_type, (*batch, *t.dims)) for t in tensors]


def fits(ours: Sequence[int], theirs: Sequence[int]) -> bool:
    """Whether two lists of dims can be those of one tensor."""
    return len(ours) == len(theirs) and all(
        VARIES in pair or pair[0] == pair[1] for pair in zip(ours, theirs, strict=True)
    )


def type_name(data_type: int) -> str:
    """A type as it is written in a configuration."""
    return str(pb.DataType.Name(data_type))


def interface_problems(
    config: pb.ModelConfig,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    owner: str,
) -> Iterator[Problem]:
    """Where the declared tensors are not those that `owner` ("the graph", "the engine") has."""
    for kind, ours, theirs in (
        ("input", declared(config, config.input), inputs),
        ("output", declared(config, config.output), outputs),
    ):
        found = {tensor.name: tensor for tensor in theirs}
        for tensor in ours:
            if tensor.name in found:
                yield from tensor_problems(config, tensor, found[tensor.name], owner)
            else:
                names = ", ".join(found)
                yield Problem(
                    f"{owner} has no {kind} {tensor.name}, which is declared",
                    f"name one of {names}",
                )
    for name in sorted({t.name for t in inputs} - {tensor.name for tensor in config.input}):
        yield Problem(f"{owner}'s input {name} is not declared", "declare it")


def tensor_problems(
    config: pb.ModelConfig, ours: TensorSpec, theirs: TensorSpec, owner: str
) -> Iterator[Problem]:
    """One declared tensor: its type, its batch dimension and the others."""
    if ours.data_type != theirs.data_type:
        yield Problem(
            f"{ours.name} is {type_name(ours.data_type)} and {owner} says {type_name(theirs.data_type)}",
            f"declare {owner}'s type",
        )
    batched = config.max_batch_size > 0
    if batched and theirs.dims and theirs.dims[0] != VARIES:
        yield Problem(
            f"max_batch_size {config.max_batch_size}, but {ours.name} has a fixed first dimension of "
            f"{theirs.dims[0]}",
            "export with a dynamic batch dimension, or set max_batch_size 0",
        )
    own, other = (spec.dims[1:] if batched else spec.dims for spec in (ours, theirs))
    if not fits(own, other):
        yield Problem(
            f"{ours.name} has dims {list(own)} and {owner}{', without the batch,' if batched else ''} "
            f"{list(other)}",
            f"declare {owner}'s dims",
        )
