"""The client's process: a closed loop that is as cheap as it can be.

Closed, because a bench asks what each way can do at a given concurrency; what users feel at a given
rate is the load test's question, whose loop is open (`loadtest.users`).

On a small machine a client takes its CPU time from the server, so this one does next to nothing:
the bytes of all requests are made beforehand, and answers are read but not decoded. CPU time per
request with 32 under way, on two cores: gRPC on raw bytes 0.14 ms (tritonclient's asynchronous
client 0.22 ms, raw bytes on blocking threads 0.19 ms); HTTP on asyncio's streams 0.08 ms
(geventhttpclient 0.17 ms, http.client on threads 0.22 ms, httpx 3.6 ms).
"""

import asyncio
import contextlib
import importlib
import itertools
import json
import random
import struct
import sys
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from loadtest.bench.client import Order, Target, Window
from loadtest.errors import GeneratorError
from loadtest.queries import load_queries
from models.manifest import TEXT_INPUT

SEED = 1
INFER = "/inference.GRPCInferenceService/ModelInfer"

Send = Callable[[], Awaitable[None]]  # sends one text and returns once it is answered
Connect = Callable[[], Awaitable[Send]]


class Call(NamedTuple):
    """One answered call, on the clock of time.perf_counter()."""

    started_s: float
    done_s: float
    texts: int


def main(target_json: str) -> None:
    """Work on the orders that come on stdin, one JSON object per line; answer each on stdout.

    The first call that fails ends the process, with the reason on stderr.
    """
    sys.dont_write_bytecode = True  # a packaged repository stays as it was packaged
    target = Target.model_validate_json(target_json)
    texts = load_queries()
    random.Random(SEED).shuffle(texts)
    work = direct_calls(target, texts) if target.kind == "direct" else network_calls(target, texts)
    try:
        for line in sys.stdin:
            print(measure(work, Order.model_validate_json(line)).model_dump_json(), flush=True)
    except (GeneratorError, OSError, EOFError) as error:
        sys.exit(str(error))


def measure(work: Callable[[Order, float], list[Call]], order: Order) -> Window:
    """Do one order; `work` makes calls until its second argument, a time.perf_counter() value."""
    started_s, cpu_started_s = time.perf_counter(), time.process_time()
    end_s = started_s + order.warmup_s + order.seconds
    calls = work(order, end_s)
    cpu_share = (time.process_time() - cpu_started_s) / (time.perf_counter() - started_s)
    return summarise(calls, end_s - order.seconds, end_s, cpu_share)


def summarise(calls: Sequence[Call], begin_s: float, end_s: float, cpu_share: float) -> Window:
    """The window of the calls that were answered between two times.

    Raises GeneratorError when there is none.
    """
    counted = [call for call in calls if begin_s <= call.done_s <= end_s]
    if not counted:
        raise GeneratorError(f"no answer in {end_s - begin_s:.1f} s: measure for longer")
    texts = sum(call.texts for call in counted)
    p50_s, p99_s = np.percentile([call.done_s - call.started_s for call in counted], [50, 99])
    return Window(
        texts=texts,
        texts_per_s=texts / (end_s - begin_s),
        p50_ms=p50_s * 1e3,
        p99_ms=p99_s * 1e3,
        cpu_share=cpu_share,
    )


def direct_calls(target: Target, texts: Sequence[str]) -> Callable[[Order, float], list[Call]]:
    """The packaged encoder in this process, without a server: `concurrency` texts in one call.

    With several texts this is the most that one process gets out of the model.
    """
    encoder = load_encoder(Path(target.where))
    stream = itertools.cycle(texts)

    def work(order: Order, end_s: float) -> list[Call]:
        calls = []
        while (started_s := time.perf_counter()) < end_s:
            encoder.encode(list(itertools.islice(stream, order.concurrency)))
            calls.append(Call(started_s, time.perf_counter(), order.concurrency))
        return calls

    return work


def load_encoder(directory: Path) -> Any:
    """The TextEncoder of a packaged version directory, run from the packaged code itself."""
    package = types.ModuleType("packaged")  # its files import one another relatively
    package.__path__ = [str(directory)]
    sys.modules[package.__name__] = package
    return importlib.import_module("packaged.encoder").TextEncoder.from_directory(directory)


def network_calls(target: Target, texts: Sequence[str]) -> Callable[[Order, float], list[Call]]:
    """A server: `concurrency` workers with one text each, who send again as soon as answered."""
    connections, encode = {
        "triton": (triton_connections, triton_request),
        "gateway": (gateway_connections, gateway_request),
    }[target.kind]
    requests = itertools.cycle([encode(target, text) for text in texts])

    async def work(order: Order, end_s: float) -> list[Call]:
        calls: list[Call] = []

        async def worker(send: Send) -> None:
            while (started_s := time.perf_counter()) < end_s:
                await send()
                calls.append(Call(started_s, time.perf_counter(), 1))

        async with connections(target.where, requests) as connect:
            sends = [await connect() for _ in range(order.concurrency)]
            await asyncio.gather(*map(worker, sends))  # raises the first failure as it is
        return calls

    return lambda order, end_s: asyncio.run(work(order, end_s))


@contextlib.asynccontextmanager
async def triton_connections(address: str, requests: Iterator[bytes]) -> AsyncIterator[Connect]:
    """Raw bytes over one gRPC channel, which carries many calls at a time as the gateway's does."""
    async with grpc.aio.insecure_channel(address) as channel:
        infer = channel.unary_unary(INFER)

        async def send() -> None:
            try:
                await infer(next(requests))
            except grpc.aio.AioRpcError as error:
                raise GeneratorError(f"Triton answered {error.code()}: {error.details()}") from None

        async def connect() -> Send:
            return send

        yield connect


@contextlib.asynccontextmanager
async def gateway_connections(address: str, requests: Iterator[bytes]) -> AsyncIterator[Connect]:
    """Raw bytes over HTTP/1.1, one kept-alive connection per worker."""
    host, _, port = address.rpartition(":")
    async with contextlib.AsyncExitStack() as connections:

        async def connect() -> Send:
            reader, writer = await asyncio.open_connection(host, int(port))
            connections.callback(writer.close)

            async def send() -> None:
                writer.write(next(requests))
                await read_reply(reader)

            return send

        yield connect


async def read_reply(reader: asyncio.StreamReader) -> None:
    """Read one HTTP/1.1 reply to its last byte. Raises GeneratorError unless its status is 200."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
    body = await reader.readexactly(int(length))
    status = head.split(b" ", 2)[1]
    if status != b"200":
        raise GeneratorError(f"the gateway answered {status.decode()}: {body[:200].decode()}")


def triton_request(target: Target, text: str) -> bytes:
    """One text as a KServe v2 request: BYTES are a little-endian length, then the content."""
    content = text.encode()
    tensor = service_pb2.ModelInferRequest.InferInputTensor(
        name=TEXT_INPUT, datatype="BYTES", shape=[1, 1]
    )
    request = service_pb2.ModelInferRequest(
        model_name=target.model,
        inputs=[tensor],
        raw_input_contents=[struct.pack("<I", len(content)) + content],
    )
    return bytes(request.SerializeToString())


def gateway_request(target: Target, text: str) -> bytes:
    """One text as OpenAI's client sends it, embeddings as base64."""
    fields = {"model": target.model, "input": text, "encoding_format": "base64"}
    body = json.dumps(fields).encode()
    head = (
        "POST /v1/embeddings HTTP/1.1",
        f"Host: {target.where}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*head, "", ""]).encode() + body


if __name__ == "__main__":
    main(sys.argv[1])
