"""What a bench needs of Triton beside requests: an edited repository and its own counters."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from models.manifest import Manifest

# What Triton 2.51 passes to its backends when nobody says otherwise: its start-up log lists it.
DEFAULT_MAX_BATCH_SIZE = 4


@dataclass(frozen=True)
class Counts:
    """Texts that a model has answered, and runs of the model that this took, since it was loaded."""

    inferences: int
    executions: int

    def __sub__(self, earlier: "Counts") -> "Counts":
        return Counts(self.inferences - earlier.inferences, self.executions - earlier.executions)

    @property
    def mean_batch(self) -> float:
        """Texts per run of the model; 0 when it did not run."""
        return self.inferences / self.executions if self.executions else 0.0


def read_counts(address: str, model: str) -> Counts:
    """The counters of a model at the Triton whose gRPC is at `address` (host:port).

    Source: Triton's statistics extension, `inference_count` and `execution_count`.
    """
    request = service_pb2.ModelStatisticsRequest(name=model)
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = stub.ModelStatistics(request, timeout=10.0)
    (found,) = answer.model_stats
    return Counts(found.inference_count, found.execution_count)


def copy_without_batching(repository: Path, destination: Path, model: str) -> None:
    """Copy a packaged repository; the copy differs in one thing, it has no dynamic batching."""
    shutil.copytree(repository, destination, ignore=shutil.ignore_patterns("__pycache__"))
    path = destination / model / "config.pbtxt"
    path.write_text(without_dynamic_batching(path.read_text()))


def without_dynamic_batching(config_pbtxt: str) -> str:
    """A model's configuration with its dynamic batching cleared and nothing else changed."""
    config = text_format.Parse(config_pbtxt, model_config_pb2.ModelConfig())
    config.ClearField("dynamic_batching")
    return str(text_format.MessageToString(config))


def copy_with_parameters(
    repository: Path, destination: Path, manifest: Manifest, parameters: Mapping[str, int]
) -> None:
    """Copy a packaged repository; the copy differs in its serving parameters, named as in a recipe."""
    shutil.copytree(repository, destination, ignore=shutil.ignore_patterns("__pycache__"))
    path = destination / manifest.name / "config.pbtxt"
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    limit_batches(config, parameters["max_batch_size"])
    config.dynamic_batching.max_queue_delay_microseconds = parameters["max_queue_delay_us"]
    config.instance_group[0].count = parameters["instances"]
    path.write_text(text_format.MessageToString(config))
    settings = destination / manifest.name / str(manifest.version) / "encoder.json"
    inner = {name: parameters[name] for name in ("workers", "token_budget")}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | inner))


def copy_with_triton_defaults(repository: Path, destination: Path, manifest: Manifest) -> None:
    """Copy a packaged repository; the copy leaves to Triton what a configuration may leave out.

    Batches of at most DEFAULT_MAX_BATCH_SIZE, batching without options, and no word on instances.
    """
    shutil.copytree(repository, destination, ignore=shutil.ignore_patterns("__pycache__"))
    path = destination / manifest.name / "config.pbtxt"
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    limit_batches(config, DEFAULT_MAX_BATCH_SIZE)
    config.dynamic_batching.Clear()
    config.dynamic_batching.SetInParent()
    config.ClearField("instance_group")
    path.write_text(text_format.MessageToString(config))


def limit_batches(config: model_config_pb2.ModelConfig, max_batch_size: int) -> None:
    """Set the largest batch, and warm up with no larger one."""
    config.max_batch_size = max_batch_size
    kept = [sample for sample in config.model_warmup if sample.batch_size <= max_batch_size]
    del config.model_warmup[:]
    config.model_warmup.extend(kept)
