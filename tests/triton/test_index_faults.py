"""Four nodes with a shard each, one of which is killed while all are asked."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from serving.index.answers import Found
from serving.index.build import BuildPlan, build
from serving.index.generation import read_generation
from serving.index.layout import Layout
from serving.index.metric import Vectors
from serving.index.node import NodeOrder, run_node
from serving.index.placement import place, write_placement
from serving.index.router import Router
from serving.index.sharding import shard_of
from serving.index.sources import NpySource
from serving.triton.launch import RunningTriton

pytestmark = pytest.mark.triton

ROWS, DIM, SHARDS, K = 600, 16, 4, 10
KILLED = 2
RECOVERY_S = 60.0
IDS = np.arange(ROWS)


@dataclass(frozen=True)
class Nodes:
    """A node per shard, the placement that names them, and the rows that they hold."""

    placement: Path
    tritons: list[RunningTriton]
    vectors: Vectors


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    vectors: Vectors = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    plan = BuildPlan(tmp_path / "demo", "demo", "g1", "l2", Layout(kind="flat"), SHARDS)
    build(plan, NpySource(tmp_path / "vectors.npy"), lambda *_: None)
    with ExitStack() as up:
        tritons = [
            up.enter_context(
                run_node(
                    NodeOrder(
                        generation=plan.destination,
                        shards=(shard,),
                        directory=tmp_path / f"node-{shard}",
                        memory_bytes=2**30,
                    )
                )
            )
            for shard in range(SHARDS)
        ]
        placed = place(read_generation(plan.destination), [[t.grpc_url] for t in tritons])
        write_placement(tmp_path / "placement.json", placed)
        yield Nodes(tmp_path / "placement.json", tritons, vectors)


def nearest(vectors: Vectors, query: Vectors, missing: tuple[int, ...]) -> list[int]:
    """The ids nearest to a query, of the shards that answered."""
    here = IDS[~np.isin(shard_of(IDS, SHARDS), missing)]
    order = np.argsort(((vectors[here] - query) ** 2).sum(axis=1))[:K]
    return [int(one) for one in here[order]]


def test_a_killed_shard_of_four_leaves_three_quarters_until_it_is_back_by_itself(nodes: Nodes):
    async def scenario() -> list[float]:
        router = Router(nodes.placement)
        coverages: list[float] = []
        try:
            while not came_back(coverages):
                query = nodes.vectors[len(coverages) % ROWS]
                found = await router.search(query[None], K, time.monotonic() + 5)
                check(found, query)
                coverages.append(found.coverage)
                if len(coverages) == 50:
                    os.kill(nodes.tritons[KILLED].server_pid, signal.SIGKILL)
                    killed_s = time.monotonic()
                assert len(coverages) < 50 or time.monotonic() < killed_s + RECOVERY_S
        finally:
            await router.close()
        return coverages

    def check(found: Found, query: Vectors) -> None:
        assert found.missing in ((), (KILLED,))
        assert found.hits.ids[0].tolist() == nearest(nodes.vectors, query, found.missing)

    coverages = asyncio.run(scenario())
    assert set(coverages) == {1.0, 0.75}


def came_back(coverages: list[float]) -> bool:
    """Whether answers were partial once and the last ones are whole again."""
    return 0.75 in coverages and coverages[-20:] == [1.0] * 20
