"""Texts to vectors while an index is built: through the packaged encoder on a Triton of its own."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2_grpc

from models.manifest import Manifest, read_manifest
from serving.errors import IndexBuildError
from serving.gateway.model_client import infer_request, read_response
from serving.index.metric import Vectors
from serving.triton.launch import run_triton

PARTS_IN_FLIGHT = 4
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Encoder:
    """An encoder of documents that answers."""

    manifest: Manifest
    stub: Any

    @property
    def dim(self) -> int:
        """Components of its vectors."""
        return self.manifest.output_dim

    @property
    def space(self) -> str:
        """Whose vectors these are."""
        return self.manifest.space

    @property
    def digest(self) -> str:
        """Which encoder it is."""
        return self.manifest.digest

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors [n, dim] of texts [n]; what is longer than the model reads is cut."""
        size = self.manifest.max_batch_size
        parts = [texts[at : at + size] for at in range(0, len(texts), size)]
        with ThreadPoolExecutor(PARTS_IN_FLIGHT) as pool:
            return np.concatenate(list(pool.map(self._encode_part, parts)))

    def _encode_part(self, texts: Sequence[str]) -> Vectors:
        request = infer_request(self.manifest, texts, TIMEOUT_S)
        try:
            response = self.stub.ModelInfer(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise IndexBuildError(
                f"the encoder did not answer ({error.code().name}): see its log, and build again, it goes "
                "on from there"
            ) from error
        return read_response(response, len(texts), self.dim).embeddings


@contextmanager
def run_encoder(repository: Path) -> Iterator[Encoder]:
    """The encoder of a packaged repository. Raises IndexBuildError when it does not encode documents."""
    manifest = read_manifest(repository)
    if manifest.task != "embed" or manifest.encodes == "queries":
        raise IndexBuildError(
            f"{repository} holds {manifest.name} {manifest.variant}, made to {manifest.task} "
            f"{manifest.encodes}, not documents: package a variant of the teacher, as in "
            "`python -m optimize run <recipe> --variant qdq --repository build/documents`"
        )
    log = Path("build/run") / f"encoder-{time.time_ns()}.log"
    with (
        run_triton(repository, log_path=log) as triton,
        grpc.insecure_channel(triton.grpc_url) as channel,
    ):
        yield Encoder(manifest, service_pb2_grpc.GRPCInferenceServiceStub(channel))
