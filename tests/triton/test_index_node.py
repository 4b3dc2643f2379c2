"""Shards of an index on the real Triton: asked, written to, broken and started again."""

import asyncio
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.errors import (
    DeadlineExceededError,
    ShardFailedError,
    ShardUnavailableError,
    TritonStartError,
)
from serving.index.build import BuildPlan, build
from serving.index.client import ShardClient, infer_request
from serving.index.generation import shard_directory
from serving.index.layout import Layout
from serving.index.merge import merge
from serving.index.metric import Ids, Vectors
from serving.index.node import NodeOrder, run_node
from serving.index.operations import FILTER, IDS, VECTORS, K
from serving.index.sharding import shard_of
from serving.index.sources import NpySource
from serving.triton.launch import RunningTriton

pytestmark = pytest.mark.triton

DEADLINE_S = 60.0
ROWS, DIM, SHARDS = 600, 16, 2

Answer = TypeVar("Answer")
Clients = list[ShardClient]


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    """The rows of the generations below, by id."""
    rows: Vectors = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
    return rows


@pytest.fixture(scope="module")
def make_order(
    vectors: Vectors, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], NodeOrder]:
    """Builds a generation and orders a node for all of its shards."""

    def make_order() -> NodeOrder:
        folder = tmp_path_factory.mktemp("index")
        np.save(folder / "vectors.npy", vectors)
        layout = Layout(kind="ivf-flat", lists=4, effort=4)
        plan = BuildPlan(folder, "demo", "g1", "l2", layout, SHARDS)
        build(plan, NpySource(folder / "vectors.npy"), lambda *_: None)
        return NodeOrder(
            generation=plan.destination,
            shards=tuple(range(SHARDS)),
            directory=folder / "node",
            memory_bytes=2**30,
        )

    return make_order


@pytest.fixture(scope="module")
def node(make_order: Callable[[], NodeOrder]) -> Iterator[RunningTriton]:
    """A node that the tests share which write to ids of their own."""
    with run_node(make_order()) as triton:
        yield triton


def ask(triton: RunningTriton, question: Callable[[Clients], Awaitable[Answer]]) -> Answer:
    """What is answered to a question that is put to the shards, over a connection of its own."""

    async def connect() -> Answer:
        async with grpc.aio.insecure_channel(triton.grpc_url) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            names = [f"demo-g1-{shard:04d}" for shard in range(SHARDS)]
            return await question([ShardClient(stub, triton.grpc_url, name) for name in names])

    return asyncio.run(connect())


def soon() -> float:
    return time.monotonic() + DEADLINE_S


async def search(clients: Clients, queries: Vectors, k: int, among: Ids | None = None) -> Any:
    parts = [await client.search(queries, k, 0, among, soon()) for client in clients]
    return merge(parts, k, "l2").ids.tolist()


async def lookup(clients: Clients, ids: list[int]) -> dict[int, Vectors]:
    """Rows of those ids that are there."""
    where = shard_of(np.array(ids), SHARDS)
    rows: dict[int, Vectors] = {}
    for shard, client in enumerate(clients):
        of_shard = np.array(ids)[where == shard]
        if not len(of_shard):
            continue
        found_rows, found = await client.lookup(of_shard, soon())
        rows |= dict(zip(of_shard[found].tolist(), found_rows[found], strict=True))
    return rows


def client_of(clients: Clients, row_id: int) -> ShardClient:
    return clients[int(shard_of(np.array([row_id]), SHARDS)[0])]


def nearest(rows: dict[int, Vectors], query: Vectors, k: int) -> list[int]:
    return sorted(rows, key=lambda row_id: float(((rows[row_id] - query) ** 2).sum()))[:k]


def until(condition: Callable[[], bool]) -> None:
    deadline_s = soon()
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true in time"
        time.sleep(0.05)


def test_two_shards_find_what_is_nearest_and_look_rows_up(
    node: RunningTriton, vectors: Vectors
) -> None:
    queries = vectors[[5, 77]] + np.float32(0.01)
    rows = dict(enumerate(vectors))

    async def question(clients: Clients) -> None:
        expected = [nearest(rows, query, 10) for query in queries]
        assert await search(clients, queries, 10) == expected
        some = {row_id: rows[row_id] for row_id in range(0, ROWS, 7)}
        among = np.array([*some, 10**9])
        expected = [nearest(some, query, 10) for query in queries]
        assert await search(clients, queries, 10, among) == expected
        assert await search(clients, queries, 2, np.array([], np.int64)) == [[-1, -1]] * 2
        found = await lookup(clients, [3, 599, 600, 10**12])
        assert found.keys() == {3, 599}
        np.testing.assert_array_equal(found[599], vectors[599])

    ask(node, question)


def test_what_is_written_is_found_until_it_is_deleted_also_after_a_compaction(
    node: RunningTriton,
) -> None:
    row_id, row = 5_000, np.full((1, DIM), 40, np.float32)  # far from all others

    async def question(clients: Clients) -> None:
        client = client_of(clients, row_id)
        before = (await client.status(soon()))["sequence"]
        assert await client.upsert(np.array([row_id]), row, 10, soon()) == before + 1
        assert (await search(clients, row, 1)) == [[row_id]]
        assert await client.upsert(np.array([row_id]), row * 0, 9, soon()) == before + 2  # older
        assert (await lookup(clients, [row_id]))[row_id].tolist() == row[0].tolist()
        status = await client.status(soon(), "compact")
        while status["compacting"]:
            await asyncio.sleep(0.05)
            status = await client.status(soon())
            assert (await search(clients, row, 1)) == [[row_id]]
        assert status["compaction_error"] == ""
        assert status["segment"].startswith("segment-")
        assert status["changes"] == 0
        assert (await search(clients, row, 1)) == [[row_id]]
        await client.delete(np.array([row_id]), 11, soon())
        assert row_id not in (await search(clients, row, 5))[0]
        assert await lookup(clients, [row_id]) == {}

    ask(node, question)


def malformed() -> list[service_pb2.ModelInferRequest]:
    """Requests that no client of ours sends."""
    model, one = "demo-g1-0000", np.ones((1, DIM), np.float32)
    ids = np.array([[1]])
    requests = [
        infer_request(model, "search", {VECTORS: one}, {K: 0}),
        infer_request(model, "search", {VECTORS: one}, {K: 10**6}),
        infer_request(model, "search", {VECTORS: one * np.nan}, {K: 1}),
        infer_request(model, "search", {VECTORS: one[:, :3]}, {K: 1}),
        infer_request(model, "search", {IDS: ids}, {K: 1}),
        infer_request(model, "search", {VECTORS: one}, {K: 1, "effort": 10**12}),
        infer_request(model, "search", {VECTORS: one, FILTER: [b"123"]}, {K: 1}),
        infer_request(model, "search", {VECTORS: one, FILTER: [bytes(8), bytes(8)]}, {K: 1}),
        infer_request(model, "lookup", {VECTORS: one}, {}),
        infer_request(model, "delete", {VECTORS: one}, {}),
        infer_request(model, "upsert", {VECTORS: one}, {}),
        infer_request(model, "upsert", {IDS: ids}, {}),
        infer_request(model, "upsert", {VECTORS: one, IDS: np.array([[1], [2]])}, {}),
        infer_request(model, "upsert", {VECTORS: one, IDS: np.array([[-1]])}, {}),
        infer_request(model, "upsert", {VECTORS: one * np.inf, IDS: ids}, {"version_ns": 1}),
    ]
    unknown = infer_request(model, "search", {VECTORS: one}, {K: 1})
    unknown.parameters["op"].string_param = "drop"
    no_operation = infer_request(model, "search", {VECTORS: one}, {K: 1})
    del no_operation.parameters["op"]
    text = infer_request(model, "search", {VECTORS: one}, {})
    text.parameters[K].string_param = "many"
    return [*requests, unknown, no_operation, text]


def test_malformed_requests_fail_alone_among_others(node: RunningTriton, vectors: Vectors) -> None:
    rows = {i: vectors[i] for i in range(ROWS) if shard_of(np.array([i]), SHARDS)[0] == 0}

    async def question(clients: Clients) -> None:
        client = clients[0]
        before = await client.status(soon())
        refused = malformed() * 5
        calls: list[Awaitable[Any]] = []
        for number, request in enumerate(refused):
            calls.append(client.stub.ModelInfer(request, timeout=DEADLINE_S))
            query = vectors[number : number + 1]
            calls.append(client.search(query, 5, 0, None, soon()))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for number, (bad, good) in enumerate(zip(answers[::2], answers[1::2], strict=True)):
            assert isinstance(bad, grpc.aio.AioRpcError), refused[number]
            assert bad.code() == grpc.StatusCode.INVALID_ARGUMENT, bad.details()
            assert good.ids[0].tolist() == nearest(rows, vectors[number], 5)
        after = await client.status(soon())
        assert after["sequence"] == before["sequence"]
        assert after["rows"] == before["rows"]

    ask(node, question)


def test_the_client_tells_refused_late_and_unavailable_apart(node: RunningTriton) -> None:
    one = np.ones((1, DIM), np.float32)

    async def question(clients: Clients) -> None:
        with pytest.raises(ShardFailedError, match=r"demo-g1-0000 at .* refused: k is 2000"):
            await clients[0].search(one, 2_000, 0, None, soon())
        with pytest.raises(DeadlineExceededError, match="no time was left"):
            await clients[0].search(one, 1, 0, None, time.monotonic())
        nobody = ShardClient(clients[0].stub, clients[0].url, "demo-g2-0000")
        with pytest.raises(ShardUnavailableError, match=r"demo-g2-0000 at .* does not answer"):
            await nobody.search(one, 1, 0, None, soon())

    ask(node, question)


def test_many_writes_at_once_are_all_acknowledged_and_there(node: RunningTriton) -> None:
    ids = range(7_000, 7_200)
    rows = {i: np.random.default_rng(i).normal(size=(1, DIM)).astype(np.float32) for i in ids}

    async def question(clients: Clients) -> None:
        calls = [client_of(clients, i).upsert(np.array([i]), rows[i], 1, soon()) for i in ids]
        assert all(sequence > 0 for sequence in await asyncio.gather(*calls))
        found = await lookup(clients, [*ids])
        assert found.keys() == rows.keys()
        assert all(np.array_equal(found[i], rows[i][0]) for i in ids)

    ask(node, question)


def test_a_node_whose_shard_is_killed_comes_back_by_itself_with_all_that_was_acknowledged(
    make_order: Callable[[], NodeOrder],
) -> None:
    order = make_order()
    ids = [*range(900, 940)]
    rows: Vectors = np.random.default_rng(1).normal(size=(40, DIM)).astype(np.float32)

    async def write(clients: Clients) -> None:
        for row_id, row in zip(ids, rows, strict=True):
            await client_of(clients, row_id).upsert(np.array([row_id]), row[None], 1, soon())
        for row_id in range(10):
            await client_of(clients, row_id).delete(np.array([row_id]), 1, soon())
        for client in clients:  # which is under way when the shard is killed
            assert (await client.status(soon(), "compact"))["compacting"]

    async def check(clients: Clients) -> None:
        found = await lookup(clients, [*range(10), *ids])
        assert [*sorted(found)] == ids
        np.testing.assert_array_equal(np.stack([found[i] for i in ids]), rows)
        assert (await search(clients, rows, 1)) == [[i] for i in ids]
        for client in clients:
            assert (await client.status(soon()))["compaction_error"] == ""

    with run_node(order) as triton:
        ask(triton, write)
        server = triton.server_pid
        [stub, *_] = [p for p in psutil.Process(server).children() if "stub" in p.name()]
        os.kill(stub.pid, signal.SIGKILL)
        until(lambda: triton.state == "ready" and triton.server_pid != server)
        ask(triton, check)
    with run_node(order) as triton:  # and a node that was stopped and is started again
        ask(triton, check)


def test_a_node_does_not_start_on_a_damaged_file_and_names_it(
    make_order: Callable[[], NodeOrder],
) -> None:
    order = make_order()
    damaged = shard_directory(order.generation, 1) / "rows.npy"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    words = re.escape(f"{damaged} is not what was written")
    with pytest.raises(TritonStartError, match=words), run_node(order):
        pass
