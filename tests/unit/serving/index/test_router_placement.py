"""Placements replaced while a router is asked, and writes to every replica."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.errors import PlacementError, ShardUnavailableError
from serving.index.build import BuildPlan, build
from serving.index.channels import Channels
from serving.index.layout import Layout
from serving.index.metric import NO_ID, Vectors
from serving.index.placement import PLACEMENT_NAME, read_placement
from serving.index.router import Router
from serving.index.sharding import shard_of
from serving.index.sources import NpySource
from tests.unit.serving.index.fake_node import Cluster, cluster, exact, soon, until

ROWS, SHARDS, K = 120, 2, 10
FIRST_ID = {"g1": 0, "g2": 10**6, "g3": 10**9}

RandomVectors = Callable[..., Vectors]


@pytest.fixture(scope="module")
def vectors(random_vectors: RandomVectors) -> Vectors:
    return random_vectors(ROWS)


@pytest.fixture(scope="module")
def generations(tmp_path_factory: pytest.TempPathFactory, vectors: Vectors) -> dict[str, Path]:
    """The same vectors, and ids that say of which generation they are."""
    folder = tmp_path_factory.mktemp("generations")
    np.save(folder / "vectors.npy", vectors)
    made = {}
    for name in FIRST_ID:
        np.save(folder / f"{name}.npy", ids_of(name))
        plan = BuildPlan(folder, "demo", name, "inner_product", Layout(kind="flat"), SHARDS)
        build(plan, NpySource(folder / "vectors.npy", folder / f"{name}.npy"), lambda *_: None)
        made[name] = plan.destination
    return made


def ids_of(generation: str) -> np.ndarray:
    return FIRST_ID[generation] + np.arange(ROWS, dtype=np.int64)


def test_no_answer_mixes_generations_while_placements_are_replaced_under_load(
    generations: dict[str, Path], vectors: Vectors, tmp_path: Path
):
    seen: list[str] = []

    async def ask(router: Router, stop: asyncio.Event) -> None:
        while not stop.is_set():
            topology = router.topology
            found = await router.search(vectors[:2], K, soon(30), topology=topology)
            of_found = FIRST_ID[found.generation] + np.arange(ROWS)
            assert found.coverage == 1.0
            assert np.isin(found.hits.ids, of_found).all()
            seen.append(found.generation)
            if len(seen) % 4 == 0:
                rows = await router.lookup(found.hits.ids[0], soon(30), topology)
                assert rows.generation == found.generation == topology.placement.generation
                assert rows.found.all()
                assert (rows.vectors == vectors[found.hits.ids[0] - of_found[0]]).all()

    async def replace(served: Cluster) -> None:
        for name in ("g2", "g3", "g1"):
            served.serve(generations[name])
            await until(lambda name=name: seen[-300:] == [name] * 300)

    async def scenario() -> None:
        async with cluster(tmp_path, *generations.values()) as served:
            stop = asyncio.Event()
            load = [asyncio.create_task(ask(served.router, stop)) for _ in range(8)]
            await until(lambda: len(seen) >= 200)
            await replace(served)
            stop.set()
            await asyncio.gather(*load)
            assert len(seen) >= 1000
            assert set(seen) == set(generations)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "placement.json cannot be read: Invalid JSON"),
        (b"\xff", "Invalid JSON"),
        (b'{"index": "demo"}', "generation: Field required"),
        (b"REPLICAS", "replicas"),
    ],
)
def test_a_placement_that_cannot_be_read_keeps_the_one_before_and_is_logged(
    generations: dict[str, Path],
    vectors: Vectors,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    content: bytes,
    words: str,
):
    async def scenario() -> None:
        async with cluster(tmp_path, generations["g1"], generations["g2"]) as served:
            if content == b"REPLICAS":
                placed = read_placement(served.placement_path).model_copy(update={"replicas": ()})
                written = placed.model_dump_json().encode()
            else:
                written = content
            served.placement_path.write_bytes(written)
            await until(lambda: "the placement before stays" in caplog.text)
            assert words in caplog.text
            found = await served.router.search(vectors[:1], K, soon())
            assert (found.generation, found.coverage) == ("g1", 1.0)
            served.placement_path.unlink()
            served.serve(generations["g2"])
            await until(lambda: served.router.placement.generation == "g2")

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())


def test_a_directory_in_place_of_the_placement_is_refused_as_well(tmp_path: Path):
    (tmp_path / PLACEMENT_NAME).mkdir()
    with pytest.raises(PlacementError, match="cannot be read"):
        read_placement(tmp_path / PLACEMENT_NAME)


def test_what_is_known_of_replicas_that_stay_is_kept_and_channels_of_the_others_are_closed(
    generations: dict[str, Path], vectors: Vectors, tmp_path: Path
):
    async def scenario() -> None:
        async with cluster(tmp_path, generations["g1"], replicas=2) as served:
            before = served.router.topology
            [[stays, leaves], others] = served.nodes
            served.serve(generations["g1"], [[stays.url], [node.url for node in others]])
            await until(lambda: len(served.replicas) == 3)
            assert [id(r) for r in served.replicas] == [
                id(r)
                for shard in before.shards
                for r in shard.replicas
                if r.client.url != leaves.url
            ]
            found = await served.router.search(vectors[:1], K, soon(), topology=before)
            assert found.coverage == 1.0  # what began with the one before is answered as it began

    asyncio.run(scenario())


def test_a_channel_that_nothing_is_placed_behind_is_closed_later():
    async def scenario() -> None:
        channels = Channels()
        stays, leaves = channels.to("127.0.0.1:1"), channels.to("127.0.0.1:2")
        assert channels.to("127.0.0.1:1") is stays
        channels.keep({"127.0.0.1:1"}, linger_s=0.01)
        assert channels.to("127.0.0.1:2") is not leaves
        await until(lambda: leaves.get_state().name == "SHUTDOWN")
        channels.keep(set(), linger_s=60)
        await channels.close()
        assert stays.get_state().name == "SHUTDOWN"

    asyncio.run(scenario())


def test_what_is_written_is_on_every_replica_and_found_at_once(
    generations: dict[str, Path], vectors: Vectors, tmp_path: Path
):
    new_ids = np.arange(5000, 5040)

    async def scenario() -> None:
        async with cluster(tmp_path, generations["g1"], replicas=2) as served:
            await served.router.upsert(new_ids, 9 * vectors[:40], soon())
            await served.router.upsert(ids_of("g1")[:1], -vectors[:1], soon())
            ids = np.concatenate([ids_of("g1"), new_ids])
            rows = np.concatenate([-vectors[:1], vectors[1:], 9 * vectors[:40]])
            found = await served.router.search(vectors, K, soon())
            assert found.hits.ids.tolist() == exact(ids, rows, vectors, K).tolist()
            for rows, here in await rows_of_replicas(served, new_ids):
                assert here.all()
                assert (rows == 9 * vectors[:40]).all()
            await served.router.delete(new_ids[:20], soon())
            for _, here in await rows_of_replicas(served, new_ids):
                assert here.tolist() == [False] * 20 + [True] * 20
            [[first]] = (await served.router.lookup(ids_of("g1")[:1], soon())).vectors[None]
            assert (first == -vectors[0]).all()

    asyncio.run(scenario())


async def rows_of_replicas(served: Cluster, ids: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """Rows and whether they were found, as each set of replicas has them."""
    read = []
    for replica in range(2):
        rows = np.zeros((len(ids), 8), np.float32)
        found = np.zeros(len(ids), bool)
        where = shard_of(ids, SHARDS)
        for shard in range(SHARDS):
            [open_shard] = served.nodes[shard][replica].shards.values()
            rows[where == shard], found[where == shard] = open_shard.lookup(ids[where == shard])
        read.append((rows, found))
    return read


@pytest.mark.parametrize("operation", ["upsert", "delete"])
def test_a_write_that_one_replica_misses_fails_and_repeating_it_converges(
    generations: dict[str, Path], vectors: Vectors, tmp_path: Path, operation: str
):
    ids = ids_of("g1")[:30]

    async def scenario() -> None:
        async with cluster(tmp_path, generations["g1"], replicas=2) as served:

            async def write() -> None:
                if operation == "upsert":
                    await served.router.upsert(ids, 2 * vectors[:30], soon())
                else:
                    await served.router.delete(ids, soon())

            node = served.nodes[1][0]
            await node.kill()
            with pytest.raises(ShardUnavailableError, match="demo-g1-0001"):
                await write()
            one, other = await rows_of_replicas(served, ids)
            assert not (one[0] == other[0]).all()
            await node.start(node.port)
            await until_written(write)
            one, other = await rows_of_replicas(served, ids)
            assert (one[0] == other[0]).all()
            assert (one[1] == other[1]).all()
            assert (one[0] == (2 * vectors[:30] if operation == "upsert" else 0)).all()

    asyncio.run(scenario())


async def until_written(write: Callable[[], object]) -> None:
    """Repeat a write as clients do."""
    for _ in range(200):
        try:
            await write()
            return
        except ShardUnavailableError:
            await asyncio.sleep(0.05)
    pytest.fail("the replica was not found again")


def test_a_write_to_a_shard_that_runs_nowhere_writes_nothing(
    generations: dict[str, Path], vectors: Vectors, tmp_path: Path
):
    async def scenario() -> None:
        async with cluster(tmp_path, generations["g1"]) as served:
            served.serve(generations["g1"], [served.urls[0], []])
            await until(lambda: not served.router.placement.replicas[1])
            with pytest.raises(ShardUnavailableError, match=r"shards \[1\] run nowhere now"):
                await served.router.upsert(ids_of("g1"), vectors, soon())
            assert served.asked("upsert") == 0

    asyncio.run(scenario())


def test_replicas_agree_whatever_the_order_in_which_two_gateways_write(
    generations: dict[str, Path], vectors: Vectors, tmp_path: Path
):
    ids = np.arange(7000, 7020)

    async def scenario() -> None:
        async with cluster(tmp_path, generations["g1"], replicas=2) as served:
            for shard in served.nodes:
                shard[0].slow_every, shard[0].delay_s = 3, 0.005  # they see writes in another order
            other = Router(served.placement_path)

            async def write(router: Router, factor: int) -> None:
                for turn in range(15):
                    if (turn + factor) % 5 == 0:
                        await router.delete(ids[:10], soon())
                    await router.upsert(ids, (factor + turn) * vectors[:20], soon())

            await asyncio.gather(write(served.router, 100), write(other, 200))
            await other.close()
            one, two = await rows_of_replicas(served, ids)
            assert (one[0] == two[0]).all()
            assert one[1].all()
            assert two[1].all()
            found = await served.router.search(vectors[:1], K, soon())
            assert NO_ID not in found.hits.ids

    asyncio.run(scenario())
