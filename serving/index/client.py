"""One shard replica behind Triton's gRPC API: requests from values, values from responses."""

import json
import logging
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from serving.errors import (
    DeadlineExceededError,
    ServingError,
    ShardFailedError,
    ShardUnavailableError,
)
from serving.index.merge import Hits
from serving.index.metric import NO_ID, Ids, Vectors
from serving.index.operations import (
    EFFORT,
    FILTER,
    FOUND,
    IDS,
    OP,
    OUTPUTS,
    SCORES,
    SECONDS,
    SEQUENCE,
    STATUS,
    VECTORS,
    VERSION_NS,
    K,
    Operation,
)

log = logging.getLogger(__name__)

TYPES: Mapping[str, tuple[str, str]] = {
    VECTORS: ("FP32", "<f4"),
    IDS: ("INT64", "<i8"),
    SCORES: ("FP32", "<f4"),
    FOUND: ("BOOL", "?"),
    SEQUENCE: ("INT64", "<i8"),
}


@dataclass(frozen=True)
class ShardClient:
    """Asks one replica. `stub` belongs to a channel that others may share."""

    stub: Any
    url: str
    model: str

    async def search(
        self, queries: Vectors, k: int, effort: int, among: Ids | None, deadline_s: float
    ) -> Hits:
        """The best k of the shard for queries [N, dim]. Raises as `ask` does."""
        tensors: dict[str, Any] = {VECTORS: queries}
        if among is not None:
            # No bytes would mean no filter: an id that no row has stands for "among none".
            ids = np.ascontiguousarray(among if len(among) else [NO_ID], "<i8")
            tensors[FILTER] = [ids.tobytes()] * len(queries)
        answer = await self.ask("search", tensors, {K: k, EFFORT: effort}, deadline_s)
        return Hits(answer[IDS], answer[SCORES])

    async def lookup(self, ids: Ids, deadline_s: float) -> tuple[Vectors, NDArray[np.bool_]]:
        """Rows [m, dim] and whether each was found [m]. Raises as `ask` does."""
        answer = await self.ask("lookup", {IDS: ids.reshape(-1, 1)}, {}, deadline_s)
        return answer[VECTORS], answer[FOUND].reshape(-1)

    async def upsert(self, ids: Ids, vectors: Vectors, version_ns: int, deadline_s: float) -> int:
        """Put rows; when it returns the sequence number they are safe. Raises as `ask` does."""
        tensors = {IDS: ids.reshape(-1, 1), VECTORS: vectors}
        answer = await self.ask("upsert", tensors, {VERSION_NS: version_ns}, deadline_s)
        return int(answer[SEQUENCE].reshape(-1)[0])

    async def delete(self, ids: Ids, version_ns: int, deadline_s: float) -> int:
        """Take rows out; when it returns the sequence number they stay out. Raises as `ask` does."""
        tensors = {IDS: ids.reshape(-1, 1)}
        answer = await self.ask("delete", tensors, {VERSION_NS: version_ns}, deadline_s)
        return int(answer[SEQUENCE].reshape(-1)[0])

    async def status(
        self, deadline_s: float, operation: Operation = "status", seconds: int = 0
    ) -> dict[str, Any]:
        """How the replica is, after `compact` or `freeze` (for so many seconds). Raises as `ask` does."""
        tensors = {IDS: np.zeros((1, 1), np.int64)}
        answer = await self.ask(operation, tensors, {SECONDS: seconds}, deadline_s)
        status: dict[str, Any] = json.loads(answer[STATUS])
        return status

    async def ask(
        self,
        operation: Operation,
        tensors: Mapping[str, Any],
        parameters: Mapping[str, int],
        deadline_s: float,
    ) -> dict[str, Any]:
        """The tensors of one answer, by a time.monotonic() `deadline_s`.

        Raises DeadlineExceededError, ShardUnavailableError, or ShardFailedError with the shard's words.
        """
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise DeadlineExceededError(f"no time was left to ask {self.model}: allow more")
        request = infer_request(self.model, operation, tensors, parameters)
        try:
            response = await self.stub.ModelInfer(request, timeout=remaining_s)
        except grpc.aio.AioRpcError as error:
            raise self.failure(error) from error
        try:
            answer = read_response(response)
            check_answer(operation, len(next(iter(tensors.values()))), answer)
        except (KeyError, ValueError) as error:
            raise ShardUnavailableError(
                f"{self.model} at {self.url} answers {operation} with something else: see its log"
            ) from error
        return answer

    def failure(self, error: grpc.aio.AioRpcError) -> ServingError:
        """What a failed call means."""
        where = f"{self.model} at {self.url}"
        match error.code():
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return DeadlineExceededError(f"{where} did not answer in time: allow more")
            case grpc.StatusCode.INVALID_ARGUMENT:
                return ShardFailedError(f"{where} refused: {error.details()}")
            case grpc.StatusCode.INTERNAL | grpc.StatusCode.UNKNOWN:  # details are a stack trace
                log.warning("%s failed: %s", where, error.details())
                return ShardUnavailableError(f"{where} failed: see its log")
            case _:
                return ShardUnavailableError(f"{where} does not answer: {error.details()}")


def infer_request(
    model: str, operation: Operation, tensors: Mapping[str, Any], parameters: Mapping[str, int]
) -> service_pb2.ModelInferRequest:
    """Values as KServe v2's protobuf message, tensors in their binary form."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.parameters[OP].string_param = operation
    for name, value in parameters.items():
        request.parameters[name].int64_param = value
    for name, value in tensors.items():
        described = request.inputs.add(name=name)
        if name == FILTER:
            described.datatype = "BYTES"
            described.shape.extend([len(value), 1])
            request.raw_input_contents.append(packed(value))
            continue
        datatype, dtype = TYPES[name]
        described.datatype = datatype
        described.shape.extend(value.shape)
        request.raw_input_contents.append(np.ascontiguousarray(value, dtype).tobytes())
    for name in OUTPUTS[operation]:
        request.outputs.add(name=name)
    return request


def packed(values: Sequence[bytes]) -> bytes:
    """A BYTES tensor: each value behind its length, 4 bytes little-endian."""
    return b"".join(part for value in values for part in (struct.pack("<I", len(value)), value))


def read_response(response: service_pb2.ModelInferResponse) -> dict[str, Any]:
    """Tensors by name; the one text of `status` without its length."""
    answer: dict[str, Any] = {}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.name == STATUS:
            answer[STATUS] = raw[4:]
            continue
        _, dtype = TYPES[output.name]
        answer[output.name] = np.frombuffer(raw, dtype).reshape(tuple(output.shape))
    return answer


def check_answer(operation: Operation, rows: int, answer: Mapping[str, Any]) -> None:
    """Raise KeyError or ValueError unless an answer is whole and has so many rows."""
    if operation == "search" and answer[IDS].shape != answer[SCORES].shape:
        raise ValueError("as many ids as scores are needed")
    for name in OUTPUTS[operation]:
        value = answer[name]
        if name != STATUS and (value.ndim != 2 or len(value) != rows):
            raise ValueError(f"{name} {value.shape} is no answer for {rows} rows")
