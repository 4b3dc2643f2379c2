"""The repository of a GPU node: the same model name and tensors as on a CPU, as an ensemble of

<name>-tokenizer (python, CPU)  ->  <name>-core (ONNX Runtime or TensorRT, GPU)
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from models.manifest import INPUTS, OUTPUTS, TOKEN_COUNT_OUTPUT
from models.triton.text_encoder.tokens import open_tokenizer, padded_inputs
from optimize.engine import Profile
from optimize.errors import PackageError
from optimize.graph_facts import GraphFacts
from optimize.proof import Proof
from optimize.recipe import Recipe
from optimize.sections import TensorRT
from optimize.triton_config import WARMUP_TEXT, text_warmup, with_interface

SHORTEST_BUCKET = 16
# Where the container keeps the engines that it builds; docker/compose.gpu.yaml mounts a volume there.
ENGINE_CACHE = "/tmp/tensorrt-engines"


def tokenizer_name(name: str) -> str:
    """The model that tokenizes for `name`."""
    return f"{name}-tokenizer"


def core_name(name: str) -> str:
    """The model that computes for `name`."""
    return f"{name}-core"


def buckets_of(max_tokens: int) -> list[int]:
    """The lengths that texts are padded to: doubling from SHORTEST_BUCKET up to the limit itself."""
    buckets = [SHORTEST_BUCKET]
    while buckets[-1] * 2 < max_tokens:
        buckets.append(buckets[-1] * 2)
    return [*(bucket for bucket in buckets if bucket < max_tokens), max_tokens]


def ensemble_configs(
    recipe: Recipe, proof: Proof, graph: GraphFacts, profiles: Sequence[Profile]
) -> list[pb.ModelConfig]:
    """The configurations of the ensemble, the tokenizer and the core, in this order.

    `profiles` are the shapes that a TensorRT core is built for.
    """
    if recipe.serving.vectors != "fp32":
        raise PackageError(
            "serving.vectors other than fp32 needs target: cpu, where the model runs in Python: the "
            "core of an ensemble sends what the graph gives"
        )
    return [
        ensemble_config(recipe, proof, graph.feed),
        tokenizer_config(recipe, graph.feed),
        core_config(recipe, proof, graph, profiles),
    ]


def ensemble_config(recipe: Recipe, proof: Proof, feed: Sequence[str]) -> pb.ModelConfig:
    """What clients ask: texts through the tokenizer and the core."""
    config = with_interface(recipe, proof, pb.ModelConfig(name=recipe.name, platform="ensemble"))
    tokenize = config.ensemble_scheduling.step.add(
        model_name=tokenizer_name(recipe.name), model_version=-1
    )
    core = config.ensemble_scheduling.step.add(model_name=core_name(recipe.name), model_version=-1)
    for name in INPUTS[recipe.task]:
        tokenize.input_map[name] = name
    for name in feed:
        tokenize.output_map[name] = name
        core.input_map[name] = name
    tokenize.output_map[TOKEN_COUNT_OUTPUT] = TOKEN_COUNT_OUTPUT
    core.output_map[OUTPUTS[recipe.task]] = OUTPUTS[recipe.task]
    return config


def tokenizer_config(recipe: Recipe, feed: Sequence[str]) -> pb.ModelConfig:
    """Texts to token ids, on the CPU; one instance per core of the tokenizing would starve the GPU's."""
    config = pb.ModelConfig(
        name=tokenizer_name(recipe.name),
        backend="python",
        max_batch_size=recipe.serving.max_batch_size,
    )
    config.version_policy.latest.num_versions = 1
    for name in INPUTS[recipe.task]:
        config.input.add(name=name, data_type=pb.TYPE_STRING, dims=[1])
    for name in feed:
        config.output.add(name=name, data_type=pb.TYPE_INT64, dims=[-1])
    config.output.add(name=TOKEN_COUNT_OUTPUT, data_type=pb.TYPE_INT32, dims=[1])
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=2)
    config.model_warmup.append(text_warmup(1, INPUTS[recipe.task]))
    return config


def core_config(
    recipe: Recipe, proof: Proof, graph: GraphFacts, profiles: Sequence[Profile]
) -> pb.ModelConfig:
    """Token ids to the task's output, on the GPU, with dynamic batching."""
    serving = recipe.serving
    config = pb.ModelConfig(
        name=core_name(recipe.name),
        max_batch_size=serving.max_batch_size,
        **(
            {"platform": "tensorrt_plan", "backend": "tensorrt"}
            if serving.core == "tensorrt"
            else {"platform": "onnxruntime_onnx", "backend": "onnxruntime"}
        ),
    )
    config.version_policy.latest.num_versions = 1
    for name in graph.feed:
        config.input.add(name=name, data_type=pb.TYPE_INT64, dims=[-1])
    config.output.add(name=OUTPUTS[recipe.task], data_type=pb.TYPE_FP32, dims=[proof.output_dim])
    batching = config.dynamic_batching
    batching.max_queue_delay_microseconds = serving.max_queue_delay_us
    batching.preferred_batch_size.extend(serving.preferred_batch_sizes)
    group = config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_GPU, count=serving.instances)
    if serving.core == "tensorrt":
        group.profile.extend(str(index) for index in range(len(profiles)))
    if serving.core == "onnxruntime_tensorrt":
        accelerate(config, recipe.tensorrt or TensorRT(), graph, profiles)
    config.model_warmup.extend(core_warmup(recipe, graph.feed))
    return config


def accelerate(
    config: pb.ModelConfig, section: TensorRT, graph: GraphFacts, profiles: Sequence[Profile]
) -> None:
    """TensorRT inside the ONNX Runtime backend: an engine is built at the first start and kept.

    Source of the keys: the table in the README of triton-inference-server/onnxruntime_backend.
    """
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(
        name="tensorrt"
    )
    # ONNX Runtime runs the first profile only: one that takes every shape, best at most texts'.
    shapes = {"min": profiles[0]["min"], "opt": profiles[0]["opt"], "max": profiles[-1]["max"]}
    accelerator.parameters.update(
        {f"trt_profile_{kind}_shapes": every(graph.feed, shape) for kind, shape in shapes.items()}
    )
    accelerator.parameters.update(
        {
            "precision_mode": "FP16" if graph.fp16 else "FP32",
            "max_workspace_size_bytes": str(section.workspace_mib * 2**20),
            "trt_engine_cache_enable": "true",
            "trt_engine_cache_path": ENGINE_CACHE,
            # ONNX Runtime's own key leaves the weights out: another student would get this one's engine.
            "trt_engine_cache_prefix": graph.sha256[:16],
            "trt_timing_cache_enable": "true",
            "trt_timing_cache_path": ENGINE_CACHE,
        }
    )


def every(feed: Sequence[str], shape: Sequence[int]) -> str:
    """The same shape [batch, tokens] for every input, in ONNX Runtime's notation."""
    return ",".join(f"{name}:{shape[0]}x{shape[1]}" for name in feed)


def core_warmup(recipe: Recipe, feed: Sequence[str]) -> list[pb.ModelWarmup]:
    """A run in every length that texts are padded to, alone and in each batch that is preferred."""
    serving = recipe.serving
    sizes = sorted({1, *serving.preferred_batch_sizes, serving.max_batch_size})
    lengths = buckets_of(recipe.max_tokens)
    return [ids_warmup(size, tokens, feed) for tokens in lengths for size in sizes]


def ids_warmup(batch_size: int, tokens: int, feed: Sequence[str]) -> pb.ModelWarmup:
    """One warm-up run: Triton sends the stored token ids `batch_size` times as one batch."""
    sample = pb.ModelWarmup(name=f"batch-{batch_size}-tokens-{tokens}", batch_size=batch_size)
    for name in feed:
        tensor = sample.inputs[name]
        tensor.data_type = pb.TYPE_INT64
        tensor.dims.append(tokens)
        tensor.input_data_file = ids_file(name, tokens)
    return sample


def ids_file(name: str, tokens: int) -> str:
    """Where the warm-up values of one input in one length are stored."""
    return f"{name}-{tokens}.bin"


def write_ids_warmup(tokenizer: Path, feed: Sequence[str], max_tokens: int, folder: Path) -> None:
    """The files that ids_warmup names: real text that fills each length, little-endian INT64."""
    folder.mkdir(parents=True)
    for tokens in buckets_of(max_tokens):
        text = " ".join([WARMUP_TEXT] * tokens)
        encodings = open_tokenizer(tokenizer, tokens).encode_batch_fast([text])
        tensors = padded_inputs(encodings, tokens)
        for name in feed:
            (folder / ids_file(name, tokens)).write_bytes(tensors[name].astype("<i8").tobytes())


def tokenizer_settings(recipe: Recipe, feed: Sequence[str]) -> bytes:
    """What tokenizer_model.py reads."""
    settings = {
        "max_tokens": recipe.max_tokens,
        "buckets": buckets_of(recipe.max_tokens),
        "inputs": list(INPUTS[recipe.task]),
        "feed": list(feed),
    }
    return json.dumps(settings, indent=2).encode() + b"\n"
