"""The Triton repository of a node: one model per shard replica, as configuration and one line of code.

<repository>/<index>-<generation>-<shard>/config.pbtxt
                                          1/model.py
"""

import json
import re
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from models.files import write_atomically
from models.manifest import Record
from serving.errors import PlacementError
from serving.index.generation import read_generation
from serving.index.gpu import GpuUse
from serving.index.operations import (
    FILTER,
    FOUND,
    IDS,
    MAX_BATCH,
    SCORES,
    SEQUENCE,
    STATUS,
    VECTORS,
)

# No hyphen: it parts the names of a model. No dot first: what is being built is called so.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*")
MODEL_CODE = '''\
"""One shard; its code is the installed package's, so that every shard runs the same."""

from serving.index.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


class Mount(Record):
    """One replica of one shard on one node."""

    generation: Path
    """The generation's directory."""
    shard: int
    """Which shard."""
    state: Path
    """Where the replica keeps what is its own."""
    budget_bytes: int
    """Memory that its process may take."""
    threads: int = 1
    """Threads of one search."""
    turn: Path | None = None
    """A file that the shards of a node lock to compact one after the other; None: each whenever it likes."""
    gpu: GpuUse | None = None
    """The GPU that it is searched on; None: on the CPU."""


def model_name(index: str, generation: str, shard: int) -> str:
    """The Triton model of a shard: an answer of it is of this generation and no other."""
    return f"{index}-{generation}-{shard:04d}"


def check_name(name: str, what: str) -> str:
    """A name that can be a part of a model's. Raises PlacementError."""
    if not NAME.fullmatch(name):
        raise PlacementError(
            f"{what} {name!r} cannot be used: letters, digits, underscores and then also dots make a name"
        )
    return name


def write_model(repository: Path, mount: Mount) -> str:
    """Write the model of a mount; its name."""
    generation = read_generation(mount.generation)
    name = model_name(generation.index, generation.name, mount.shard)
    config = shard_config(name, generation.dim, mount)
    write_atomically(repository / name / "1/model.py", MODEL_CODE.encode())
    write_atomically(
        repository / name / "config.pbtxt", text_format.MessageToString(config).encode()
    )
    return name


def shard_config(name: str, dim: int, mount: Mount) -> pb.ModelConfig:
    """A python-backend model whose concurrent requests Triton hands over together.

    One instance: a replica has one log and one memory. No queue delay: requests gather while it works.
    On the CPU also when its index is on a GPU: the kind of an instance is only told to a python model, whose
    tensors come and go by the CPU either way, and a Triton built without GPUs refuses the other kind
    (python_backend's README, "Model Instance Kind"; server pull request 4230).
    """
    config = pb.ModelConfig(name=name, backend="python", max_batch_size=MAX_BATCH)
    for tensor, kind, size in (
        (VECTORS, pb.TYPE_FP32, dim),
        (IDS, pb.TYPE_INT64, 1),
        (FILTER, pb.TYPE_STRING, 1),
    ):
        config.input.add(name=tensor, data_type=kind, dims=[size], optional=True)
    for tensor, kind, size in (
        (IDS, pb.TYPE_INT64, -1),
        (SCORES, pb.TYPE_FP32, -1),
        (VECTORS, pb.TYPE_FP32, dim),
        (FOUND, pb.TYPE_BOOL, 1),
        (SEQUENCE, pb.TYPE_INT64, 1),
        (STATUS, pb.TYPE_STRING, 1),
    ):
        config.output.add(name=tensor, data_type=kind, dims=[size])
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    config.dynamic_batching.max_queue_delay_microseconds = 0
    for key, value in mount.model_dump(mode="json", exclude_none=True).items():
        words = json.dumps(value) if isinstance(value, dict) else str(value)
        config.parameters[key].string_value = words
    return config
