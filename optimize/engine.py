"""TensorRT engines on disk: each lies beside a JSON file that says what it is and where it may run.

sm_8.9.plan     the engine, as it was built       model.plan     as it is packaged
sm_8.9.json     its builder, compute capability,  model.json
                profiles, tensors and the graph it was made from
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from tritonclient.grpc import model_config_pb2 as pb

from models.files import sha256_file
from models.manifest import Engine, Record
from optimize.errors import EngineError
from optimize.tensors import Problem, TensorSpec, interface_problems

Profile = dict[str, list[int]]  # `min`, `opt` and `max` shape [batch, tokens]

# Which builder's engines a Triton backend can load.
BACKEND_OF = {"tensorrt": "tensorrt", "tensorrt_rtx": "ONNX Runtime's NvTensorRTRTX provider"}
# TensorRT's names of types.
TYPES = {
    "float": pb.TYPE_FP32,
    "half": pb.TYPE_FP16,
    "bf16": pb.TYPE_BF16,
    "int64": pb.TYPE_INT64,
    "int32": pb.TYPE_INT32,
    "int8": pb.TYPE_INT8,
    "uint8": pb.TYPE_UINT8,
    "bool": pb.TYPE_BOOL,
}


class Tensor(Record):
    """An input or output of an engine; -1 is a dimension that profiles bound."""

    name: str
    data_type: str
    shape: list[int]
    is_input: bool


class EngineFile(Record):
    """What the JSON file beside an engine holds."""

    engine: Engine
    engine_sha256: str
    graph_sha256: str
    tensors: list[Tensor]

    def specs(self, inputs: bool) -> list[TensorSpec]:
        """Its inputs, or its outputs, in Triton's types."""
        return [
            TensorSpec(t.name, TYPES.get(t.data_type, pb.TYPE_INVALID), tuple(t.shape))
            for t in self.tensors
            if t.is_input == inputs
        ]


@dataclass(frozen=True)
class Place:
    """What an engine is put behind. `token_lengths` are all that texts are padded to; what is empty or
    None is not known and not checked.
    """

    backend: str
    config: pb.ModelConfig | None = None
    token_lengths: Sequence[int] = ()
    compute_capability: str | None = None
    graph_sha256: str | None = None


def write_engine(
    folder: Path, plan: bytes, engine: Engine, graph_sha256: str, tensors: list[Tensor]
) -> None:
    """Write an engine to its own path below `folder`, and what read_engine looks for beside it."""
    path = folder / engine.path
    path.write_bytes(plan)
    described = EngineFile(
        engine=engine,
        engine_sha256=sha256_file(path),
        graph_sha256=graph_sha256,
        tensors=tensors,
    )
    path.with_suffix(".json").write_text(described.model_dump_json(indent=2) + "\n")


def read_engine(plan: Path) -> EngineFile:
    """The metadata of an engine, checked against its bytes. Raises EngineError."""
    path = plan.with_suffix(".json")
    try:
        found = EngineFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise EngineError(
            f"{plan.name} has no {path.name} that says what it was built for ({type(error).__name__})",
            "build it with Farshore, nobody can tell otherwise which GPU it runs on",
        ) from error
    if found.engine_sha256 != sha256_file(plan):
        raise EngineError(
            f"{plan.name} is not the engine that {path.name} describes", "build it again"
        )
    return found


def check_engine(found: EngineFile, place: Place) -> None:
    """Refuse an engine that does not fit its place. Raises EngineError with the first reason."""
    for problem in engine_problems(found, place):
        raise EngineError(problem.words, problem.fix)


def engine_problems(found: EngineFile, place: Place) -> Iterator[Problem]:
    """Why an engine cannot be loaded at a place or could not answer there, the most basic first."""
    yield from target_problems(found.engine, place)
    if place.graph_sha256 is not None and found.graph_sha256 != place.graph_sha256:
        yield Problem(
            f"{found.engine.path} was built from another graph (sha256 {found.graph_sha256[:12]}, not "
            f"{place.graph_sha256[:12]})",
            "build it again from the graph of this variant",
        )
    if place.config is not None:
        yield from profile_problems(found.engine, place.config, place.token_lengths)
        inputs, outputs = found.specs(inputs=True), found.specs(inputs=False)
        yield from interface_problems(place.config, inputs, outputs, "the engine")


def target_problems(engine: Engine, place: Place) -> Iterator[Problem]:
    """Its builder, the version of it and the GPU."""
    if place.backend == "tensorrt" and engine.builder != "tensorrt":
        yield Problem(
            f"{engine.path} was built by {engine.builder} {engine.builder_version}, for "
            f"{BACKEND_OF[engine.builder]}, and Triton's tensorrt backend cannot load it",
            "build with tensorrt.builder: tensorrt",
        )
    if not engine.builder_version:
        yield Problem(
            f"{engine.path} does not say which version of TensorRT built it, and opens only in that one",
            "build it again with Farshore",
        )
    if place.compute_capability not in (None, engine.compute_capability):
        yield Problem(
            f"{engine.path} is for compute capability {engine.compute_capability} and the node has "
            f"{place.compute_capability}",
            "build an engine for it",
        )


def profile_problems(
    engine: Engine, config: pb.ModelConfig, token_lengths: Sequence[int]
) -> Iterator[Problem]:
    """Batches that Triton may form and no profile takes, and profiles that it asks for in vain."""
    largest = config.max_batch_size
    # Where nobody says how long texts may be, any length of a profile will do.
    lengths = token_lengths or [profile["opt"][1] for profile in engine.profiles[:1]]
    batches = sorted({1, largest}) if largest > 0 else []
    unserved = [
        (batch, tokens)
        for batch in batches
        for tokens in lengths
        if not any(takes(profile, batch, tokens) for profile in engine.profiles)
    ]
    if unserved:
        batch, tokens = max(unserved)
        ends = ", ".join(f"{p['max'][0]} x {p['max'][1]}" for p in engine.profiles) or "nowhere"
        yield Problem(
            f"no profile of {engine.path} takes {batch} texts of {tokens} tokens, its profiles end at "
            f"{ends}",
            "build it again for this max_batch_size and max_tokens, or lower them",
        )
    asked = {name for group in config.instance_group for name in group.profile}
    if unknown := sorted(asked - set(map(str, range(len(engine.profiles))))):
        yield Problem(
            f"instances ask for profile {', '.join(unknown)} of {engine.path}, which has "
            f"{len(engine.profiles)}",
            "name those that it has in instance_group.profile, counted from 0",
        )


def takes(profile: Profile, batch: int, tokens: int) -> bool:
    """Whether a profile's shapes include this one."""
    low, high = profile["min"], profile["max"]
    return low[0] <= batch <= high[0] and low[1] <= tokens <= high[1]
