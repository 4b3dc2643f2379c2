"""Searches over HTTP: in a closed loop that is as cheap as it can be, and decoded."""

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import orjson

from loadtest.bench.closed_loop import Call, Send, gateway_connections, summarise
from loadtest.bench.index.vectors import Ids, Vectors
from models.manifest import Record

WARMUP_S = 0.5


class Load(Record):
    """What a closed loop of searches found."""

    queries_per_s: float
    p50_ms: float
    p99_ms: float
    client_cpu_share: float


def search_request(address: str, query: Vectors, k: int, effort: int) -> bytes:
    """One search by vector [dim] as bytes on the wire."""
    fields = {"vectors": query, "k": k, "effort": effort}
    body = orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)
    return http_request(address, "/v1/search", body)


def http_request(address: str, path: str, body: bytes) -> bytes:
    """A POST as bytes on the wire."""
    head = (
        f"POST {path} HTTP/1.1",
        f"Host: {address}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*head, "", ""]).encode() + body


def load(
    address: str, queries: Vectors, k: int, effort: int, concurrency: int, seconds: float
) -> Load:
    """`concurrency` callers, each of which asks again as soon as it is answered."""
    requests = itertools.cycle([search_request(address, query, k, effort) for query in queries])
    began_s, cpu_s = time.perf_counter(), time.process_time()
    end_s = began_s + WARMUP_S + seconds
    calls = asyncio.run(closed_loop(address, requests, concurrency, end_s))
    cpu_share = (time.process_time() - cpu_s) / (time.perf_counter() - began_s)
    window = summarise(calls, end_s - seconds, end_s, cpu_share)
    return Load(
        queries_per_s=window.texts_per_s,
        p50_ms=window.p50_ms,
        p99_ms=window.p99_ms,
        client_cpu_share=window.cpu_share,
    )


async def closed_loop(
    address: str, requests: Iterator[bytes], concurrency: int, end_s: float
) -> list[Call]:
    """Every call until a time.perf_counter() value."""
    calls: list[Call] = []

    async def caller(send: Send) -> None:
        while (started_s := time.perf_counter()) < end_s:
            await send()
            calls.append(Call(started_s, time.perf_counter(), 1))

    async with gateway_connections(address, requests) as connect:
        sends = [await connect() for _ in range(concurrency)]
        await asyncio.gather(*map(caller, sends))
    return calls


def post(address: str, path: str, fields: dict[str, Any]) -> dict[str, Any]:
    """One request, decoded. Raises httpx.HTTPStatusError unless it is answered with 200."""
    body = orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)
    reply = httpx.post(f"http://{address}{path}", content=body, timeout=60, trust_env=False)
    reply.raise_for_status()
    answer: dict[str, Any] = json.loads(reply.content)
    return answer


def search_all(address: str, queries: Vectors, k: int, effort: int = 0, at_once: int = 64) -> Ids:
    """The ids [N, k] that the index answers with, -1 where there are fewer."""
    found = np.full((len(queries), k), -1, dtype=np.int64)
    for start in range(0, len(queries), at_once):
        fields = {"vectors": queries[start : start + at_once], "k": k, "effort": effort}
        for row, data in enumerate(post(address, "/v1/search", fields)["data"], start):
            ids = [result["id"] for result in data["results"]]
            found[row, : len(ids)] = ids
    return found


def recall(found: Ids, exact: Ids) -> float:
    """The mean share of the exact results [N, k] that were found [N, k]."""
    shares = [np.isin(want, have).mean() for have, want in zip(found, exact, strict=True)]
    return float(np.mean(shares))
