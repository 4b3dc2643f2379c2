"""ONNX graph -> TensorRT engines, by one of two builders behind one function.

`tensorrt` builds on the GPU that the engine is for, and Triton's tensorrt backend loads the result.
`tensorrt_rtx` builds ahead of time on any machine, also without a GPU, for GeForce, RTX and L-class cards
(compute capability 7.5 to 12.1); Triton's tensorrt backend cannot load those.
"""

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx

from models.files import write_atomically
from models.manifest import Engine
from optimize.engine import Profile, Tensor, write_engine
from optimize.errors import EngineError
from optimize.graph_facts import graph_facts
from optimize.sections import TensorRT

MODULES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx_bindings"}
INSTALL = {
    "tensorrt": "run this in NVIDIA's TensorRT or Triton SDK container on the GPU it is for",
    "tensorrt_rtx": "run `pip install 'farshore[rtx]'`",
}
RTX_CAPABILITIES = {
    "7.5": "SM75",
    "8.0": "SM80",
    "8.6": "SM86",
    "8.9": "SM89",
    "12.0": "SM120",
    "12.1": "SM121",
}
# Operators of quantized graphs for ONNX Runtime on CPUs; TensorRT quantizes in its own way.
CPU_OPERATORS = ("DynamicQuantizeLinear", "MatMulInteger", "DynamicQuantizeMatMul")
LENGTH_STEP = 16  # profiles end at multiples: kernels are chosen per tile


def export_tensorrt(
    graph: Path, section: TensorRT, profiles: Sequence[Profile], destination: Path
) -> None:
    """Build an engine for each compute capability asked, in the graph's own precision.

    Writes sm_<capability>.plan and .json to `destination`, and keeps the timing cache of `tensorrt` in
    `destination`'s parent. Raises EngineError.
    """
    refuse_foreign_operators(graph)
    library = import_builder(section)
    for capability in capabilities_of(section):
        build_engine(library, graph, section, capability, profiles, destination)


def profiles_of(lengths: Sequence[int], max_tokens: int, max_batch_size: int) -> list[Profile]:
    """Shapes [batch, tokens] that kernels are tuned for: most texts, and the long rest. `lengths` are the
    tokens of real texts.

    The first profile ends at the 95th percentile of the lengths and is best at their median; the second
    ends at `max_tokens`. One is enough where they would be the same.
    """
    counts = np.asarray(lengths)
    middle, most = (
        min(max_tokens, round_up(float(np.percentile(counts, share)))) for share in (50, 95)
    )
    typical_batch = max(1, max_batch_size // 4)
    short = {"min": [1, 1], "opt": [typical_batch, middle], "max": [max_batch_size, most]}
    if most >= max_tokens:
        return [short]
    half_way = min(max_tokens, round_up((most + max_tokens) / 2))
    rest = {"min": [1, 1], "opt": [typical_batch, half_way], "max": [max_batch_size, max_tokens]}
    return [short, rest]


def round_up(tokens: float) -> int:
    """The next multiple of LENGTH_STEP."""
    return math.ceil(tokens / LENGTH_STEP) * LENGTH_STEP


def refuse_foreign_operators(graph: Path) -> None:
    """Raise EngineError naming operators that only ONNX Runtime has."""
    nodes = onnx.load(graph, load_external_data=False).graph.node
    foreign = {n.op_type for n in nodes if n.domain not in ("", "ai.onnx")}
    foreign |= {node.op_type for node in nodes if node.op_type in CPU_OPERATORS}
    if foreign:
        raise EngineError(
            f"TensorRT cannot take the operators {', '.join(sorted(foreign))}",
            "build it from the fp32 or fp16 variant, not from int8 or -fused ones",
        )


def import_builder(section: TensorRT) -> ModuleType:
    """The builder's Python package."""
    try:
        return importlib.import_module(MODULES[section.builder])
    except ImportError as error:
        raise EngineError(
            f"the builder {section.builder} is not installed here", INSTALL[section.builder]
        ) from error


def capabilities_of(section: TensorRT) -> Sequence[str]:
    """The compute capabilities to build for, in the form 8.9."""
    asked = section.compute_capabilities
    if section.builder == "tensorrt":
        here = capability_here()
        if others := [capability for capability in asked if capability != here]:
            raise EngineError(
                f"the tensorrt builder builds for the GPU at hand ({here}), not for {', '.join(others)}",
                "run it on such a GPU",
            )
        return [here]
    if unknown := [capability for capability in asked if capability not in RTX_CAPABILITIES]:
        raise EngineError(
            f"TensorRT-RTX has no kernels for compute capability {', '.join(unknown)}, it knows "
            f"{', '.join(RTX_CAPABILITIES)}",
            "for datacenter GPUs use builder: tensorrt",
        )
    return asked or [capability_here()]


def capability_here() -> str:
    """This machine's GPU."""
    import torch

    if not torch.cuda.is_available():
        raise EngineError(
            "this machine has no GPU to build for",
            "name tensorrt.compute_capabilities with builder: tensorrt_rtx, or build on the node",
        )
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"


def build_engine(
    library: ModuleType,
    graph: Path,
    section: TensorRT,
    capability: str,
    profiles: Sequence[Profile],
    destination: Path,
) -> None:
    """One engine with its metadata."""
    trt: Any = library
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = parse(trt, builder, graph)
    config = configure(trt, builder, section, capability)
    for shapes in profiles:
        config.add_optimization_profile(optimization_profile(builder, network, shapes))
    cache = destination.parent / f"timing-{trt.__version__}.cache"
    plan = serialize(builder, network, config, cache if section.builder == "tensorrt" else None)
    if plan is None:
        raise build_failure(f"{section.builder} {trt.__version__}", graph, capability)
    facts = graph_facts(graph)
    engine = Engine(
        path=f"sm_{capability}.plan",
        builder=section.builder,
        builder_version=trt.__version__,
        compute_capability=capability,
        fp16=facts.fp16,
        profiles=list(profiles),
    )
    write_engine(destination, plan, engine, facts.sha256, tensors_of(network))


def build_failure(builder: str, graph: Path, capability: str) -> EngineError:
    """What to do when the library gives no engine; its own messages stand on standard error."""
    return EngineError(
        f"{builder} could not build {graph.name} for {capability}",
        "its messages above say why: with OutOfMemory raise tensorrt.workspace_mib or lower "
        "serving.max_batch_size, else try the fp32 variant",
    )


def serialize(builder: Any, network: Any, config: Any, timing_cache: Path | None) -> bytes | None:
    """The engine; None when it cannot be built. TensorRT-RTX measures nothing ahead of time and has no
    timing cache.
    """
    if timing_cache is not None:
        use_timing_cache(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if timing_cache is not None and plan is not None:
        keep_timing_cache(config, timing_cache)
    return None if plan is None else bytes(plan)


def configure(trt: Any, builder: Any, section: TensorRT, capability: str) -> Any:
    """What the builder is told beside the network and its shapes."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, section.workspace_mib * 2**20)
    if section.builder == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        target = getattr(trt.ComputeCapability, RTX_CAPABILITIES[capability])
        config.set_compute_capability(target, 0)
    return config


def parse(trt: Any, builder: Any, graph: Path) -> Any:
    """The graph as a network; its own types are kept, so an FP16 graph gives an FP16 engine."""
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flag)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    if not parser.parse(graph.read_bytes()):
        problems = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise EngineError(
            f"TensorRT cannot read {graph.name} ({problems})",
            "export it with another opset, or without these operators",
        )
    return network


def optimization_profile(builder: Any, network: Any, shapes: Profile) -> Any:
    """The same shapes [batch, tokens] for every input."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        name = network.get_input(index).name
        profile.set_shape(name, shapes["min"], shapes["opt"], shapes["max"])
    return profile


def use_timing_cache(config: Any, path: Path) -> None:
    """Measurements of kernels from earlier builds; those of another GPU are refused by the library."""
    stored = path.read_bytes() if path.is_file() else b""
    config.set_timing_cache(config.create_timing_cache(stored), ignore_mismatch=False)


def keep_timing_cache(config: Any, path: Path) -> None:
    """Keep what this build measured for the next."""
    cache = config.get_timing_cache()
    if cache is not None:
        write_atomically(path, bytes(cache.serialize()))


def tensors_of(network: Any) -> list[Tensor]:
    """The inputs and outputs of a network."""
    inputs = [(network.get_input(i), True) for i in range(network.num_inputs)]
    outputs = [(network.get_output(i), False) for i in range(network.num_outputs)]
    return [
        Tensor(
            name=tensor.name,
            data_type=tensor.dtype.name.lower(),
            shape=list(tensor.shape),
            is_input=is_input,
        )
        for tensor, is_input in [*inputs, *outputs]
    ]
