"""Two replicas of each shard: slow, killed and hung ones, counted where the requests arrive."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.errors import IndexUnavailableError
from serving.index import gather, replicas
from serving.index.metric import Vectors
from serving.index.router import Router, RouterSettings
from tests.unit.serving.index.fake_node import Cluster, FakeNode, cluster, exact, soon, until

ROWS, K = 200, 10
IDS = np.arange(ROWS, dtype=np.int64)
PARALLEL = 8

RandomVectors = Callable[..., Vectors]
MakeGeneration = Callable[..., Path]


@pytest.fixture(autouse=True)
def ask_each_search_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are counted here."""
    monkeypatch.setattr(gather, "CALLS_AT_ONCE", PARALLEL)


@pytest.fixture(scope="module")
def vectors(random_vectors: RandomVectors) -> Vectors:
    return random_vectors(ROWS)


@pytest.fixture(scope="module")
def generation(make_generation: MakeGeneration, vectors: Vectors) -> Path:
    return make_generation(vectors, IDS, shards=1)


async def search(router: Router, vectors: Vectors, count: int) -> None:
    """Search so often, `PARALLEL` at a time; every answer is whole and right."""
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            query = vectors[number % ROWS][None] + 0.1
            found = await router.search(query, K, soon(30))
            assert found.coverage == 1.0
            assert found.hits.ids.tolist() == exact(IDS, vectors, query, K).tolist()

    await asyncio.gather(*(client() for _ in range(PARALLEL)))


async def slow_now_and_then(
    directory: Path, generation: Path, vectors: Vectors, hedge_share: float
) -> tuple[FakeNode, int]:
    """1,000 searches while one replica takes 200 ms for every 14th of its requests."""
    settings = RouterSettings(hedge_share=hedge_share)
    async with cluster(directory, generation, replicas=2, settings=settings) as served:
        await search(served.router, vectors, 200)
        before = served.asked()
        [[slow, _]] = served.nodes
        slow.slow_every, slow.delay_s = 14, 0.2
        await search(served.router, vectors, 1000)
        return slow, served.asked() - before


def test_a_replica_that_is_slow_now_and_then_is_not_waited_for(
    generation: Path, vectors: Vectors, tmp_path: Path
):
    slow, asked = asyncio.run(slow_now_and_then(tmp_path / "without", generation, vectors, 0.0))
    assert asked == 1000
    assert slow.delayed > 10  # p99 is one of them
    assert slow.given_up == 0

    slow, asked = asyncio.run(slow_now_and_then(tmp_path / "hedged", generation, vectors, 0.05))
    assert slow.delayed > 10  # p99 is one of them
    assert slow.given_up >= 0.6 * slow.delayed  # a stall may have spent the budget
    assert 1000 + slow.given_up <= asked <= 1000 * 1.05 + 2


def test_a_replica_that_is_slow_on_all_it_does_is_left_out_until_it_is_fast_again(
    generation: Path, vectors: Vectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(replicas, "FIRST_EJECTION_S", 0.5)

    async def scenario() -> None:
        async with cluster(tmp_path, generation, replicas=2) as served:
            [[slow, _]] = served.nodes
            slow.slow_every, slow.delay_s = 1, 0.06
            known = known_of(served, slow)
            while not known.ejections:
                await search(served.router, vectors, PARALLEL)
            back_at_s = known.ejected_until_s
            left_out_at_s = time.monotonic()
            slow.heal()
            while not in_use(known):
                await search(served.router, vectors, PARALLEL)
            assert not any(left_out_at_s < at_s < back_at_s for at_s in slow.asked_at_s)
            assert slow.asked_at_s[-1] >= back_at_s

    asyncio.run(scenario())


def in_use(replica: replicas.Replica) -> bool:
    return replica.median_s is not None and replica.ejected_until_s <= time.monotonic()


def test_a_killed_replica_is_covered_by_the_other_and_found_again(
    generation: Path, vectors: Vectors, tmp_path: Path
):
    async def scenario() -> None:
        async with cluster(tmp_path, generation, replicas=2) as served:
            [[first, second]] = served.nodes
            await search(served.router, vectors, 100)
            load = asyncio.create_task(search(served.router, vectors, 800))
            await until(lambda: served.asked() > 300)
            await first.kill()
            await load
            asked = first.asked.total()
            await first.start(first.port)
            while first.asked.total() == asked:
                await search(served.router, vectors, PARALLEL)
            await second.kill()
            await search(served.router, vectors, 100)

    asyncio.run(scenario())


def test_requests_that_wait_at_a_hung_replica_go_to_the_other_when_it_dies(
    generation: Path, vectors: Vectors, tmp_path: Path
):
    async def scenario() -> None:
        settings = RouterSettings(hedge_share=0.0, shard_timeout_s=30)
        async with cluster(tmp_path, generation, replicas=2, settings=settings) as served:
            await search(served.router, vectors, 100)
            [[hung, _]] = served.nodes
            hung.silent = True
            before = hung.asked.total()
            load = asyncio.create_task(search(served.router, vectors, 100))
            await until(lambda: hung.asked.total() > before)
            await hung.kill()
            await load

    asyncio.run(scenario())


def test_a_hung_replica_costs_a_few_answers_and_is_left_out(
    generation: Path, vectors: Vectors, tmp_path: Path
):
    async def scenario() -> None:
        settings = RouterSettings(shard_timeout_s=0.3)
        async with cluster(tmp_path, generation, replicas=2, settings=settings) as served:
            await search(served.router, vectors, 100)
            [[hung, _]] = served.nodes
            hung.silent, known = True, known_of(served, hung)
            lost = 0
            while not known.ejections:
                try:
                    await search(served.router, vectors, 1)
                except IndexUnavailableError:  # of the only shard
                    lost += 1
            assert lost == replicas.FAILURES_TO_EJECT
            asked = hung.asked.total()
            await search(served.router, vectors, 50)
            assert hung.asked.total() == asked

    asyncio.run(scenario())


def known_of(served: Cluster, node: FakeNode) -> replicas.Replica:
    """What the router knows of a node's replica."""
    return next(r for r in served.replicas if r.client.url == node.url)


def test_a_replica_that_answers_wrong_is_covered_by_the_other(
    generation: Path, vectors: Vectors, tmp_path: Path
):
    async def scenario() -> None:
        async with cluster(tmp_path, generation, replicas=2) as served:
            served.nodes[0][1].wrong = True
            await search(served.router, vectors, 100)
            rows = await served.router.lookup(IDS, soon())
            assert rows.found.all()
            assert (rows.vectors == vectors).all()

    asyncio.run(scenario())
