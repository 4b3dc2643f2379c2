"""The repository of a GPU node: the same model name and tensors as on a CPU, as an ensemble of

<name>-tokenizer (python, CPU)  ->  <name>-core (ONNX Runtime or TensorRT, GPU)
"""

import json
from collections.abc import Sequence
from pathlib import Path

import onnx
from tritonclient.grpc import model_config_pb2 as pb

from models.manifest import INPUTS, OUTPUTS, TOKEN_COUNT_OUTPUT
from models.triton.text_encoder.tokens import FEED, open_tokenizer, padded_inputs
from optimize.errors import PackageError
from optimize.proof import Proof
from optimize.recipe import Recipe
from optimize.sections import TensorRT
from optimize.triton_config import (
    WARMUP_TEXT,
    text_warmup,
    warmup_batch_sizes,
    with_interface,
)

SHORTEST_BUCKET = 16


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


def graph_inputs(graph: Path) -> list[str]:
    """Which of the BERT inputs a graph takes, in the tokenizer's order."""
    model = onnx.load(graph, load_external_data=False)
    names = {node.name for node in model.graph.input}
    return [name for name in FEED if name in names]


def ensemble_configs(recipe: Recipe, proof: Proof, feed: Sequence[str]) -> list[pb.ModelConfig]:
    """The configurations of the ensemble, the tokenizer and the core, in this order."""
    if recipe.serving.vectors != "fp32":
        raise PackageError(
            "serving.vectors other than fp32 needs target: cpu, where the model runs in Python: the "
            "core of an ensemble sends what the graph gives"
        )
    return [
        ensemble_config(recipe, proof, feed),
        tokenizer_config(recipe, feed),
        core_config(recipe, proof, feed),
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


def core_config(recipe: Recipe, proof: Proof, feed: Sequence[str]) -> pb.ModelConfig:
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
    for name in feed:
        config.input.add(name=name, data_type=pb.TYPE_INT64, dims=[-1])
    config.output.add(name=OUTPUTS[recipe.task], data_type=pb.TYPE_FP32, dims=[proof.output_dim])
    batching = config.dynamic_batching
    batching.max_queue_delay_microseconds = serving.max_queue_delay_us
    batching.preferred_batch_size.extend(serving.preferred_batch_sizes)
    group = config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_GPU, count=serving.instances)
    if serving.core == "tensorrt":
        group.profile.extend(str(index) for index in range(len(engine_profiles(proof))))
    if serving.core == "onnxruntime_tensorrt":
        accelerate(config, recipe, feed)
    for batch_size in warmup_batch_sizes(serving.max_batch_size):
        config.model_warmup.append(ids_warmup(batch_size, feed))
    return config


def engine_profiles(proof: Proof) -> list[dict[str, list[int]]]:
    """The optimization profiles of the engines that are packaged; all engines have the same."""
    return proof.engines[0].profiles if proof.engines else []


def accelerate(config: pb.ModelConfig, recipe: Recipe, feed: Sequence[str]) -> None:
    """TensorRT inside the ONNX Runtime backend: engines are built at start and cached."""
    section = recipe.tensorrt or TensorRT()
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(
        name="tensorrt"
    )
    shapes = {
        kind: ",".join(f"{name}:{batch}x{length}" for name in feed)
        for kind, batch, length in (
            ("min", 1, 1),
            ("opt", recipe.serving.max_batch_size // 2 or 1, SHORTEST_BUCKET),
            ("max", recipe.serving.max_batch_size, recipe.max_tokens),
        )
    }
    accelerator.parameters.update(
        {
            "precision_mode": "FP16" if section.fp16 else "FP32",
            "max_workspace_size_bytes": str(section.workspace_mib * 2**20),
            "trt_engine_cache_enable": "true",
            "trt_engine_cache_path": "/tmp/tensorrt-engines",
            "trt_timing_cache_enable": "true",
            "trt_profile_min_shapes": shapes["min"],
            "trt_profile_opt_shapes": shapes["opt"],
            "trt_profile_max_shapes": shapes["max"],
        }
    )


def ids_warmup(batch_size: int, feed: Sequence[str]) -> pb.ModelWarmup:
    """One warm-up run with the stored token ids of a real text."""
    sample = pb.ModelWarmup(name=f"batch-{batch_size}", batch_size=batch_size)
    for name in feed:
        tensor = sample.inputs[name]
        tensor.data_type = pb.TYPE_INT64
        tensor.dims.append(SHORTEST_BUCKET)
        tensor.input_data_file = f"{name}.bin"
    return sample


def write_ids_warmup(tokenizer: Path, feed: Sequence[str], folder: Path) -> None:
    """The files that ids_warmup names: one text, padded to the shortest bucket, little-endian INT64."""
    encodings = open_tokenizer(tokenizer, SHORTEST_BUCKET).encode_batch_fast([WARMUP_TEXT])
    tensors = padded_inputs(encodings, SHORTEST_BUCKET)
    folder.mkdir(parents=True)
    for name in feed:
        (folder / f"{name}.bin").write_bytes(tensors[name].astype("<i8").tobytes())


def tokenizer_settings(recipe: Recipe, feed: Sequence[str]) -> bytes:
    """What tokenizer_model.py reads."""
    settings = {
        "max_tokens": recipe.max_tokens,
        "buckets": buckets_of(recipe.max_tokens),
        "inputs": list(INPUTS[recipe.task]),
        "feed": list(feed),
    }
    return json.dumps(settings, indent=2).encode() + b"\n"
