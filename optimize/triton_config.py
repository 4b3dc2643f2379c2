"""config.pbtxt as data: written from Triton's own ModelConfig message and read back with it."""

import struct
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from models.manifest import EMBEDDING_OUTPUT, TEXT_INPUT, TOKEN_COUNT_OUTPUT
from optimize.recipe import Recipe

CONFIG_NAME = "config.pbtxt"
WARMUP_FILE = "question.bin"
WARMUP_TEXT = "how long does it take for a letter to arrive"


def text_encoder_config(recipe: Recipe, embedding_dim: int) -> pb.ModelConfig:
    """The configuration of a text-in, vector-out python-backend model with dynamic batching."""
    serving = recipe.serving
    kind = "KIND_GPU" if recipe.target == "gpu" else "KIND_CPU"
    config = pb.ModelConfig(
        name=recipe.name, backend="python", max_batch_size=serving.max_batch_size
    )
    config.input.add(name=TEXT_INPUT, data_type=pb.TYPE_STRING, dims=[1])
    config.output.add(name=EMBEDDING_OUTPUT, data_type=pb.TYPE_FP32, dims=[embedding_dim])
    config.output.add(name=TOKEN_COUNT_OUTPUT, data_type=pb.TYPE_INT32, dims=[1])
    config.dynamic_batching.max_queue_delay_microseconds = serving.max_queue_delay_us
    # No queue policy: with allow_timeout_override, Triton 2.51's batcher slept through its wake-up about
    # once a second and held the request for half a second (a plain loop of requests shows it).
    config.instance_group.add(kind=pb.ModelInstanceGroup.Kind.Value(kind), count=serving.instances)
    config.version_policy.latest.num_versions = 1
    for batch_size in warmup_batch_sizes(serving.max_batch_size):
        config.model_warmup.append(warmup(batch_size))
    return config


def warmup_batch_sizes(max_batch_size: int) -> list[int]:
    """1, the largest batch and a middle one: allocations of all sizes happen before traffic."""
    return sorted({1, min(8, max_batch_size), max_batch_size})


def warmup(batch_size: int) -> pb.ModelWarmup:
    """One warm-up run: Triton sends the stored text `batch_size` times as one batch."""
    sample = pb.ModelWarmup(name=f"batch-{batch_size}", batch_size=batch_size)
    text = sample.inputs[TEXT_INPUT]
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
