"""The router against real gRPC servers with real shards behind them."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from serving.errors import (
    DeadlineExceededError,
    IndexUnavailableError,
    PlacementError,
    ShardFailedError,
    ShardUnavailableError,
)
from serving.index.metric import NO_ID, Metric, Vectors
from serving.index.router import Router, RouterSettings
from serving.index.sharding import shard_of
from tests.unit.serving.index.fake_node import Cluster, cluster, exact, soon, until

ROWS, SHARDS, K = 400, 4, 10
IDS = np.arange(ROWS, dtype=np.int64) * 7

RandomVectors = Callable[..., Vectors]
MakeGeneration = Callable[..., Path]


@pytest.fixture(scope="module")
def vectors(random_vectors: RandomVectors) -> Vectors:
    return random_vectors(ROWS)


@pytest.fixture(scope="module")
def queries(random_vectors: RandomVectors) -> Vectors:
    return random_vectors(20, seed=1)


@pytest.fixture(scope="module")
def generation(make_generation: MakeGeneration, vectors: Vectors) -> Path:
    return make_generation(vectors, IDS, shards=SHARDS)


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("shards", [1, 4])
def test_a_search_of_all_shards_equals_one_exact_search(
    make_generation: MakeGeneration,
    vectors: Vectors,
    queries: Vectors,
    tmp_path: Path,
    metric: Metric,
    shards: int,
):
    generation = make_generation(vectors, IDS, shards=shards, metric=metric)

    async def scenario() -> None:
        async with cluster(tmp_path, generation) as served:
            found = await served.router.search(queries, K, soon())
            assert (found.generation, found.coverage, found.missing) == ("g1", 1.0, ())
            assert found.hits.ids.tolist() == exact(IDS, vectors, queries, K, metric).tolist()
            assert np.isfinite(found.hits.scores).all()
            assert served.asked() == shards

    asyncio.run(scenario())


def test_a_search_for_more_than_there_is_says_where_the_results_end(
    make_generation: MakeGeneration, vectors: Vectors, tmp_path: Path
):
    generation = make_generation(vectors[:5], IDS[:5], shards=SHARDS)

    async def scenario() -> None:
        async with cluster(tmp_path, generation) as served:
            [found] = (await served.router.search(vectors[:1], K, soon())).hits.ids
            assert sorted(found[:5]) == IDS[:5].tolist()
            assert found[5:].tolist() == [NO_ID] * 5

    asyncio.run(scenario())


def test_a_filter_goes_to_the_shards_that_may_hold_its_ids(
    generation: Path, vectors: Vectors, queries: Vectors, tmp_path: Path
):
    one_shard = IDS[shard_of(IDS, SHARDS) == 2]
    some = np.concatenate([IDS[::3], [10**9]])

    async def scenario() -> None:
        async with cluster(tmp_path, generation) as served:
            found = await served.router.search(queries, K, soon(), among=some)
            assert found.hits.ids.tolist() == exact(IDS[::3], vectors[::3], queries, K).tolist()
            before = served.asked()
            found = await served.router.search(queries, K, soon(), among=one_shard[:3])
            assert set(found.hits.ids[0]) == {*one_shard[:3].tolist(), NO_ID}
            assert served.asked() == before + 1

    asyncio.run(scenario())


def test_a_lookup_gives_rows_in_the_order_of_the_ids(
    generation: Path, vectors: Vectors, tmp_path: Path
):
    asked = np.array([IDS[5], 3, IDS[5], IDS[399], 10**12])

    async def scenario() -> None:
        async with cluster(tmp_path, generation) as served:
            rows = await served.router.lookup(asked, soon())
            assert rows.found.tolist() == [True, False, True, True, False]
            assert rows.asked.all()
            assert (rows.vectors[rows.found] == vectors[[5, 5, 399]]).all()
            assert (rows.generation, rows.coverage) == ("g1", 1.0)

    asyncio.run(scenario())


def test_a_hung_shard_costs_its_timeout_and_coverage_but_no_error(
    generation: Path, vectors: Vectors, queries: Vectors, tmp_path: Path
):
    others = shard_of(IDS, SHARDS) != 1

    async def scenario() -> None:
        settings = RouterSettings(shard_timeout_s=0.3)
        async with cluster(tmp_path, generation, settings=settings) as served:
            served.nodes[1][0].silent = True
            began_s = time.monotonic()
            found = await served.router.search(queries, K, soon(60))
            assert 0.25 < time.monotonic() - began_s < 30
            assert (found.coverage, found.missing) == (0.75, (1,))
            assert (
                found.hits.ids.tolist() == exact(IDS[others], vectors[others], queries, K).tolist()
            )

    asyncio.run(scenario())


@pytest.mark.parametrize("gone", ["killed", "placed nowhere", "answers wrong", "fails"])
def test_ids_of_a_missing_shard_are_told_from_ids_that_are_not_there(
    generation: Path, vectors: Vectors, queries: Vectors, tmp_path: Path, gone: str
):
    async def scenario() -> None:
        async with cluster(tmp_path, generation) as served:
            await lose(served, 1, gone, generation)
            found = await served.router.search(queries, K, soon())
            assert (found.coverage, found.missing) == (0.75, (1,))
            asked = np.concatenate([IDS, [10**9]])
            rows = await served.router.lookup(asked, soon())
            here = shard_of(asked, SHARDS) != 1
            assert (rows.asked == here).all()
            assert rows.found.tolist() == [*here[:-1], False]
            assert (rows.vectors[:-1][here[:-1]] == vectors[here[:-1]]).all()
            assert rows.coverage == 0.75

    asyncio.run(scenario())


def test_what_only_a_missing_shard_knows_is_no_error_either(
    generation: Path, queries: Vectors, tmp_path: Path
):
    lost = IDS[shard_of(IDS, SHARDS) == 1][:2]

    async def scenario() -> None:
        async with cluster(tmp_path, generation) as served:
            await served.nodes[1][0].kill()
            rows = await served.router.lookup(lost, soon())
            assert (rows.asked.any(), rows.coverage) == (False, 0.0)
            found = await served.router.search(queries, K, soon(), among=lost)
            assert (found.coverage, found.missing) == (0.0, (1,))
            assert (found.hits.ids == NO_ID).all()

    asyncio.run(scenario())


async def lose(served: Cluster, shard: int, how: str, generation: Path) -> None:
    [node] = served.nodes[shard]
    if how == "killed":
        await node.kill()
    elif how == "placed nowhere":
        urls = served.urls
        urls[shard] = []
        served.serve(generation, urls)
        await until(lambda: not served.router.placement.replicas[shard])
    else:
        node.wrong = how == "answers wrong"
        node.abort = None if node.wrong else grpc.StatusCode.INTERNAL


def test_no_shard_at_all_is_an_error(generation: Path, queries: Vectors, tmp_path: Path):
    async def scenario() -> None:
        async with cluster(tmp_path, generation) as served:
            for [node] in served.nodes:
                await node.kill()
            with pytest.raises(IndexUnavailableError, match="none of 4 shards of demo"):
                await served.router.search(queries, K, soon())
            with pytest.raises(IndexUnavailableError, match="none of 4"):
                await served.router.lookup(IDS, soon())

    asyncio.run(scenario())


def test_a_deadline_ends_the_wait_and_is_named(generation: Path, queries: Vectors, tmp_path: Path):
    async def scenario() -> None:
        settings = RouterSettings(shard_timeout_s=60)
        async with cluster(tmp_path, generation, settings=settings) as served:
            served.nodes[0][0].silent = True
            found = await served.router.search(queries, K, soon(1.0))
            assert found.missing == (0,)
            for [node] in served.nodes:
                node.silent = True
            with pytest.raises(DeadlineExceededError, match="allow more time"):
                await served.router.search(queries, K, soon(0.2))

    asyncio.run(scenario())


def test_nobody_is_asked_when_no_time_is_left(generation: Path, queries: Vectors, tmp_path: Path):
    async def scenario() -> None:
        async with cluster(tmp_path, generation) as served:
            for _ in range(20):
                with pytest.raises(DeadlineExceededError):
                    await served.router.search(queries, K, time.monotonic() - 1)
            assert served.asked() == 0
            assert not any(r.failures or r.ejections for r in served.replicas)

    asyncio.run(scenario())


def test_clients_in_a_hurry_have_no_replica_left_out(
    generation: Path, queries: Vectors, tmp_path: Path
):
    async def scenario() -> None:
        async with cluster(tmp_path, generation, replicas=2) as served:
            for node in served.all_nodes:
                node.slow_every, node.delay_s = 1, 0.1
            for _ in range(10):
                with pytest.raises(DeadlineExceededError):
                    await served.router.search(queries, K, soon(0.02))
            assert served.asked() >= 10
            assert not any(r.failures or r.ejections for r in served.replicas)

    asyncio.run(scenario())


def test_a_refusal_is_an_error_that_is_not_tried_again(
    generation: Path, queries: Vectors, tmp_path: Path
):
    async def scenario() -> None:
        async with cluster(tmp_path, generation, replicas=2) as served:
            with pytest.raises(ShardFailedError, match="k is 1001, from 1 to 1000 are answered"):
                await served.router.search(queries, 1001, soon())
            assert served.asked() == SHARDS
            too_many = np.arange(10_000)
            with pytest.raises(ShardFailedError, match="batch-size must be <= 1024"):
                await served.router.lookup(too_many, soon())

    asyncio.run(scenario())


def test_a_stack_trace_of_a_shard_goes_to_the_log_and_to_nobody_else(
    generation: Path, vectors: Vectors, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async def scenario() -> None:
        async with cluster(tmp_path, generation) as served:
            for node in served.all_nodes:
                node.abort = grpc.StatusCode.INTERNAL
            with pytest.raises(ShardUnavailableError) as failed:
                await served.router.upsert(IDS[:1], vectors[:1], soon())
            assert "line 7" not in str(failed.value)
            assert "line 7" in caplog.text

    asyncio.run(scenario())


def test_status_says_of_each_replica_how_it_is_or_why_it_is_silent(
    generation: Path, tmp_path: Path
):
    async def scenario() -> None:
        async with cluster(tmp_path, generation, replicas=2) as served:
            await served.nodes[2][0].kill()
            status = await served.router.status(soon())
            assert sum(shard[1]["rows"] for shard in status) == ROWS
            assert [isinstance(shard[0], str) for shard in status] == [False, False, True, False]

    asyncio.run(scenario())


def test_each_answer_of_a_shard_is_observed(generation: Path, queries: Vectors, tmp_path: Path):
    async def scenario() -> None:
        async with cluster(tmp_path, generation) as served:
            await served.router.search(queries, K, soon())
            assert sorted((shard, hedged) for shard, _, hedged in served.observed) == [
                (shard, False) for shard in range(SHARDS)
            ]

    asyncio.run(scenario())


def test_a_router_without_a_placement_says_how_to_get_one(tmp_path: Path):
    async def scenario() -> None:
        with pytest.raises(PlacementError, match=r"python -m serving\.index serve"):
            Router(tmp_path / "placement.json")

    asyncio.run(scenario())
