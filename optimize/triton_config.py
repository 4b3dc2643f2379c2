"""config.pbtxt as data: written from Triton's own ModelConfig message and read back with it."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from models.manifest import INPUTS, OUTPUTS, TOKEN_COUNT_OUTPUT
from optimize.proof import Proof
from optimize.recipe import Recipe

# How vectors are sent: the data type and the size of one of them.
VECTOR_TYPES: dict[str, Callable[[int], tuple[pb.DataType.ValueType, int]]] = {
    "fp32": lambda dim: (pb.TYPE_FP32, dim),
    "fp16": lambda dim: (pb.TYPE_FP16, dim),
    "int8": lambda dim: (pb.TYPE_INT8, dim),
    "binary": lambda dim: (pb.TYPE_UINT8, dim // 8),
}
LABELS_FILE = "labels.txt"
CONFIG_NAME = "config.pbtxt"
MODEL_VERSION = 1
WARMUP_FILE = "question.bin"
WARMUP_TEXT = "how long does it take for a letter to arrive"


def text_encoder_config(recipe: Recipe, proof: Proof) -> pb.ModelConfig:
    """A python-backend model from texts to the task's output, with dynamic batching."""
    config = with_interface(recipe, proof, pb.ModelConfig(name=recipe.name, backend="python"))
    config.dynamic_batching.max_queue_delay_microseconds = recipe.serving.max_queue_delay_us
    # No queue policy: with allow_timeout_override, Triton 2.51's batcher slept through its wake-up about
    # once a second and held the request for half a second (a plain loop of requests shows it).
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=recipe.serving.instances)
    for batch_size in warmup_batch_sizes(recipe.serving.max_batch_size):
        config.model_warmup.append(text_warmup(batch_size, INPUTS[recipe.task]))
    return config


def with_interface(recipe: Recipe, proof: Proof, config: pb.ModelConfig) -> pb.ModelConfig:
    """The tensors that clients see, the same for every target."""
    config.max_batch_size = recipe.serving.max_batch_size
    config.version_policy.latest.num_versions = 1
    for name in INPUTS[recipe.task]:
        config.input.add(name=name, data_type=pb.TYPE_STRING, dims=[1])
    data_type, dim = VECTOR_TYPES[recipe.serving.vectors](proof.output_dim)
    output = config.output.add(name=OUTPUTS[recipe.task], data_type=data_type, dims=[dim])
    if proof.labels:
        output.label_filename = LABELS_FILE  # Triton's classification extension then names classes
    config.output.add(name=TOKEN_COUNT_OUTPUT, data_type=pb.TYPE_INT32, dims=[1])
    return config


def warmup_batch_sizes(max_batch_size: int) -> list[int]:
    """1, the largest batch and a middle one: allocations of all sizes happen before traffic."""
    return sorted({1, min(8, max_batch_size), max_batch_size})


def text_warmup(batch_size: int, inputs: Sequence[str]) -> pb.ModelWarmup:
    """One warm-up run: Triton sends the stored text `batch_size` times as one batch."""
    sample = pb.ModelWarmup(name=f"batch-{batch_size}", batch_size=batch_size)
    for name in inputs:
        text = sample.inputs[name]
        text.data_type = pb.TYPE_STRING
        text.dims.append(1)
        text.input_data_file = WARMUP_FILE
    return sample


def warmup_bytes() -> bytes:
    """The stored warm-up text in Triton's BYTES layout: little-endian length, then content."""
    content = WARMUP_TEXT.encode()
    return struct.pack("<I", len(content)) + content


def write_config(path: Path, config: pb.ModelConfig) -> None:
    """Write config.pbtxt and prove that its owner's parser reads the same message back."""
    path.write_text(text_format.MessageToString(config))
    if read_config(path) != config:
        raise RuntimeError(
            f"{path} does not read back as it was written: this is a bug in Farshore"
        )


def read_config(path: Path) -> pb.ModelConfig:
    """Parse a config.pbtxt."""
    return text_format.Parse(path.read_text(), pb.ModelConfig())
