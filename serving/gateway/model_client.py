"""The model behind Triton's KServe v2 gRPC API, over one long-lived channel.

Requests are built from Triton's own protobuf messages: tritonclient's InferInput wraps the same
bytes in NumPy objects, which costs more than the rest of a small request.
"""

import asyncio
import logging
import math
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from models.manifest import EMBEDDING_OUTPUT, TEXT_INPUT, TOKEN_COUNT_OUTPUT, Manifest
from serving.errors import (
    DeadlineExceededError,
    ModelFailedError,
    ModelUnavailableError,
    ServingError,
)

log = logging.getLogger(__name__)

# Parts of one request that are with Triton at the same time: enough to keep its batcher busy, few
# enough that a request of 2,048 texts does not push everyone else's behind its own.
PARTS_IN_FLIGHT = 4

READY_TIMEOUT_S = 1.0
READY_CACHE_S = 1.0

# gRPC backs off for up to two minutes by default: a Triton that returns must be found in a second.
CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


@dataclass(frozen=True)
class Embedded:
    """`embeddings` [N, dim]; `token_counts` [N], of the whole texts before truncation."""

    embeddings: NDArray[np.float32]
    token_counts: NDArray[np.int32]

    @property
    def total_tokens(self) -> int:
        return int(self.token_counts.sum())


class ModelClient:
    """Asks one packaged model at one Triton. Make it in the event loop that uses it.

    `where_to_look` completes the message of ModelUnavailableError, such as "see its log at ...".
    """

    def __init__(self, grpc_url: str, manifest: Manifest, where_to_look: str) -> None:
        self._manifest = manifest
        self._unavailable = f"Triton is not answering at {grpc_url}: {where_to_look}"
        self._channel = grpc.aio.insecure_channel(grpc_url, options=CHANNEL_OPTIONS)
        self._triton = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._answering = True
        self._ready = False
        self._ready_until_s = -math.inf

    async def embed(self, texts: Sequence[str], deadline_s: float) -> Embedded:
        """Embed `texts` in order; more than the model's largest batch goes in several parts.

        `deadline_s` is a time.monotonic() value. Raises DeadlineExceededError, ModelFailedError
        or ModelUnavailableError.
        """
        batches = list(split(texts, self._manifest.max_batch_size))
        if len(batches) == 1:
            return await self._infer(texts, deadline_s)
        return join(await self._infer_all(batches, deadline_s))

    async def is_ready(self) -> bool:
        """Whether Triton answers for the model, as of at most READY_CACHE_S ago."""
        if time.monotonic() >= self._ready_until_s:
            self._ready = await self._ask_ready()
            self._note_answering(self._ready)
            self._ready_until_s = time.monotonic() + READY_CACHE_S
        return self._ready

    async def check_ready(self) -> None:
        """Raises ModelUnavailableError unless the model is ready."""
        if not await self.is_ready():
            raise ModelUnavailableError(self._unavailable)

    async def close(self) -> None:
        """Close the channel; requests in flight are cancelled."""
        await self._channel.close()

    async def _ask_ready(self) -> bool:
        request = service_pb2.ModelReadyRequest(
            name=self._manifest.name, version=str(self._manifest.version)
        )
        try:
            response = await self._triton.ModelReady(request, timeout=READY_TIMEOUT_S)
        except grpc.RpcError:
            return False
        return bool(response.ready)

    async def _infer_all(
        self, batches: Sequence[Sequence[str]], deadline_s: float
    ) -> list[Embedded]:
        slots = asyncio.Semaphore(PARTS_IN_FLIGHT)

        async def infer(batch: Sequence[str]) -> Embedded:
            async with slots:
                return await self._infer(batch, deadline_s)

        try:
            async with asyncio.TaskGroup() as group:  # one failure cancels the other parts
                tasks = [group.create_task(infer(batch)) for batch in batches]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        return [task.result() for task in tasks]

    async def _infer(self, texts: Sequence[str], deadline_s: float) -> Embedded:
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise deadline_exceeded()
        request = infer_request(self._manifest, texts, remaining_s)
        try:
            response = await self._triton.ModelInfer(request, timeout=remaining_s)
        except grpc.aio.AioRpcError as error:
            failed = failure(error.code(), error.details() or "", self._unavailable)
            if isinstance(failed, ModelUnavailableError):
                self._note_answering(False)
            raise failed from error
        self._note_answering(True)
        return read_response(response, len(texts), self._manifest.output_dim)

    def _note_answering(self, answering: bool) -> None:
        """Log an outage where it begins and where it ends, not with every request in between."""
        if answering != self._answering:
            log.warning("%s", "Triton answers again" if answering else self._unavailable)
        self._answering = answering


def split(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Consecutive parts of at most `size` texts."""
    return (texts[start : start + size] for start in range(0, len(texts), size))


def join(parts: Sequence[Embedded]) -> Embedded:
    """The parts of one request as one, in order."""
    return Embedded(
        np.concatenate([part.embeddings for part in parts]),
        np.concatenate([part.token_counts for part in parts]),
    )


def infer_request(
    manifest: Manifest, texts: Sequence[str], timeout_s: float
) -> service_pb2.ModelInferRequest:
    """A request for `texts` [N] to the very version that the manifest describes.

    BYTES tensors travel as a 4-byte little-endian length before each text (KServe v2, binary
    data). `timeout` in microseconds lets Triton's queue drop work that nobody waits for any more.
    """
    encoded = [text.encode() for text in texts]
    request = service_pb2.ModelInferRequest(
        model_name=manifest.name,
        model_version=str(manifest.version),
        inputs=[
            service_pb2.ModelInferRequest.InferInputTensor(
                name=TEXT_INPUT, datatype="BYTES", shape=[len(encoded), 1]
            )
        ],
        raw_input_contents=[
            b"".join(part for text in encoded for part in (struct.pack("<I", len(text)), text))
        ],
    )
    request.parameters["timeout"].int64_param = max(1, int(timeout_s * 1e6))
    return request


def read_response(response: service_pb2.ModelInferResponse, count: int, dim: int) -> Embedded:
    """The tensors of a response. Raises ModelFailedError if they are not finite or misshapen."""
    names = [output.name for output in response.outputs]
    raw = dict(zip(names, response.raw_output_contents, strict=False))
    try:
        embeddings = np.frombuffer(raw[EMBEDDING_OUTPUT], "<f4").reshape(count, dim)
        token_counts = np.frombuffer(raw[TOKEN_COUNT_OUTPUT], "<i4").reshape(count)
    except (KeyError, ValueError) as error:
        raise model_failed() from error
    if not np.isfinite(embeddings).all():
        raise model_failed()
    return Embedded(embeddings, token_counts)


def failure(code: grpc.StatusCode, details: str, unavailable: str) -> ServingError:
    """What a failed call to Triton means; `unavailable` is the message if it does not answer.

    `details` decide only where Triton gives an expired request the status of a missing server.
    They never reach a client: they hold the model's stack traces.
    """
    match code:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return deadline_exceeded()
        case grpc.StatusCode.UNAVAILABLE if "timeout expired" in details:
            return deadline_exceeded()
        case grpc.StatusCode.INTERNAL | grpc.StatusCode.INVALID_ARGUMENT:
            return model_failed()
        case _:
            return ModelUnavailableError(unavailable)


def deadline_exceeded() -> DeadlineExceededError:
    return DeadlineExceededError(
        "the deadline passed before the model answered: send fewer texts per request, "
        "allow more time, or try again when there is less traffic"
    )


def model_failed() -> ModelFailedError:
    return ModelFailedError(
        "the model failed on this request: change the texts; if it happens for every text, "
        "see Triton's log and run `make optimize` again"
    )
