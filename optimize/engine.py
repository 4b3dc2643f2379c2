"""TensorRT engines on disk: each lies beside a JSON file that says what it is and where it may run.

sm_8.9.plan     the engine
sm_8.9.json     its builder, compute capability, profiles, tensors and the graph it was made from
"""

from pathlib import Path

from pydantic import ValidationError

from models.files import sha256_file
from models.manifest import Engine, Record
from optimize.errors import EngineError

# Which builder's engines a Triton backend can load.
BACKEND_OF = {"tensorrt": "tensorrt", "tensorrt_rtx": "ONNX Runtime's NvTensorRTRTX provider"}


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


def read_engine(plan: Path) -> EngineFile:
    """The metadata of an engine, checked against its bytes. Raises EngineError."""
    path = plan.with_suffix(".json")
    try:
        found = EngineFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise EngineError(
            f"{plan.name} has no {path.name} that says what it was built for ({type(error).__name__}): "
            "build it with Farshore, nobody can tell otherwise which GPU it runs on"
        ) from error
    if found.engine_sha256 != sha256_file(plan):
        raise EngineError(
            f"{plan.name} is not the engine that {path.name} describes: build it again"
        )
    return found


def check_engine(found: EngineFile, backend: str, compute_capability: str | None = None) -> None:
    """Refuse an engine that a backend, or the GPU of a node, cannot load. Raises EngineError."""
    engine = found.engine
    if backend == "tensorrt" and engine.builder != "tensorrt":
        raise EngineError(
            f"{engine.path} was built by {engine.builder} {engine.builder_version}, for "
            f"{BACKEND_OF[engine.builder]}: Triton's tensorrt backend cannot load it, build with "
            "tensorrt.builder: tensorrt"
        )
    if compute_capability is not None and engine.compute_capability != compute_capability:
        raise EngineError(
            f"{engine.path} is for compute capability {engine.compute_capability} and the node has "
            f"{compute_capability}: build an engine for it"
        )
