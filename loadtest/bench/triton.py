"""What a bench needs of Triton beside requests: an edited repository and its own counters."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc


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
