"""A replica that is slow now and then, and one that is slow always, behind a proxy that holds requests up."""

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import httpx

from loadtest.bench.closed_loop import INFER
from loadtest.bench.index.client import Load, load
from loadtest.bench.index.exact import K
from loadtest.bench.index.stack import Bench, gateway, node, write_placement
from loadtest.bench.index.vectors import Vectors, queries_near
from models.manifest import Record

SLOW_S = 0.2
SLOW_SHARE = 0.03
SECONDS = 15.0
CALLERS = 2
MEMORY_BYTES = 2_000_000_000


class HedgePart(Record):
    """The same traffic with and without hedging, and what became of a replica that is always slow."""

    without: Load
    with_hedging: Load
    extra_share: float
    """Requests sent in addition, of those asked for."""
    always_slow: Load
    always_slow_share_asked: float
    """Of the requests, those that the replica that is always slow still got."""


class Proxy:
    """Passes Triton's gRPC calls on, some of them late."""

    def __init__(self, target: str) -> None:
        self.calls = 0
        self.slow_share = 0.0
        self._chance = random.Random(1)
        self._target = target
        self._loop = asyncio.new_event_loop()
        self.address = ""

    @contextlib.contextmanager
    def running(self) -> Iterator["Proxy"]:
        """In a thread of its own."""
        began: futures.Future[int] = futures.Future()
        thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve(began)))
        thread.start()
        self.address = f"127.0.0.1:{began.result(timeout=10)}"
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._done.set)
            thread.join()

    async def _serve(self, began: "futures.Future[int]") -> None:
        self._done = asyncio.Event()
        async with grpc.aio.insecure_channel(self._target) as channel:
            self._pass_on = channel.unary_unary(INFER)
            server = grpc.aio.server()
            handler = grpc.unary_unary_rpc_method_handler(self._answer)
            service, _, method = INFER.strip("/").partition("/")
            server.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler(service, {method: handler})]
            )
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            began.set_result(port)
            await self._done.wait()
            await server.stop(None)

    async def _answer(self, request: bytes, context: Any) -> bytes:
        self.calls += 1
        if self._chance.random() < self.slow_share:
            await asyncio.sleep(SLOW_S)
        answer: bytes = await self._pass_on(request, timeout=context.time_remaining())
        return answer


def measure(bench: Bench, real: Vectors) -> HedgePart:
    """One shard on two replicas, one of them behind the proxy."""
    generation = bench.indexes / "flat_inner_product/generations/g1"
    placement = bench.work / "hedge-placement.json"
    queries = queries_near(real, 1000, seed=8)
    shards = range(4)
    with (
        node(bench, generation, shards, "hedge-a", MEMORY_BYTES) as first,
        node(bench, generation, shards, "hedge-b", MEMORY_BYTES) as second,
        Proxy(second.grpc).running() as proxy,
    ):
        write_placement(placement, generation, [[first.grpc, proxy.address]] * len(shards))
        proxy.slow_share = SLOW_SHARE
        with gateway(bench, placement, FARSHORE_HEDGE_SHARE="0") as address:
            without = load(address, queries, K, 0, CALLERS, SECONDS)
        with gateway(bench, placement) as address:
            load(address, queries, K, 0, CALLERS, 3.0)  # it learns how long requests take
            before = counters(address)
            with_hedging = load(address, queries, K, 0, CALLERS, SECONDS)
            after = counters(address)
        proxy.slow_share = 1.0
        with gateway(bench, placement) as address:
            load(address, queries, K, 0, CALLERS, 3.0)
            calls, begun = proxy.calls, counters(address)[1]
            always_slow = load(address, queries, K, 0, CALLERS, SECONDS)
            asked = counters(address)[1] - begun
    hedges, requests = (now - then for now, then in zip(after, before, strict=True))
    return HedgePart(
        without=without,
        with_hedging=with_hedging,
        extra_share=hedges / requests,
        always_slow=always_slow,
        always_slow_share_asked=(proxy.calls - calls) / asked,
    )


def counters(address: str) -> tuple[float, float]:
    """Second replicas asked, and answers of shards, so far."""
    text = httpx.get(f"http://{address}/metrics", trust_env=False).text
    sums = {"farshore_index_hedges_total{": 0.0, "farshore_index_shard_seconds_count{": 0.0}
    for line in text.splitlines():
        for name in sums:
            if line.startswith(name):
                sums[name] += float(line.rpartition(" ")[2])
    hedges, answers = sums.values()
    return hedges, answers
