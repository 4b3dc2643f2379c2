"""The probe against real gRPC servers with real shards behind them."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.errors import IndexBuildError, IndexUnavailableError
from serving.index.metric import Vectors
from serving.index.placement import PLACEMENT_NAME
from serving.index.probe_command import Probe, measure, read_queries, summary
from tests.unit.serving.index.fake_node import cluster

ROWS, CALLERS = 200, 3
IDS = np.arange(ROWS, dtype=np.int64)

RandomVectors = Callable[..., Vectors]
MakeGeneration = Callable[..., Path]


def probe(directory: Path, queries: Vectors, seconds: float) -> Probe:
    return Probe(directory / PLACEMENT_NAME, queries, 10, 0, CALLERS, seconds)


def test_a_probe_says_what_shards_do(
    make_generation: MakeGeneration, random_vectors: RandomVectors, tmp_path: Path
):
    vectors = random_vectors(ROWS)
    generation = make_generation(vectors, IDS, shards=2)

    async def scenario() -> None:
        async with cluster(tmp_path, generation) as served:
            said = await measure(probe(tmp_path, vectors[:20], seconds=0.5))
            assert said["queries_per_s"] * 0.5 <= served.asked()
            assert 0 < said["p50_ms"] <= said["p99_ms"]
            assert said["router_cpu_share"] > 0

    asyncio.run(scenario())


def test_a_probe_of_an_index_with_a_missing_shard_is_refused(
    make_generation: MakeGeneration, random_vectors: RandomVectors, tmp_path: Path
):
    vectors = random_vectors(ROWS)
    generation = make_generation(vectors, IDS, shards=2)

    async def scenario() -> None:
        async with cluster(tmp_path, generation) as served:
            await served.nodes[1][0].kill()
            with pytest.raises(IndexUnavailableError, match="shard 1 does not answer"):
                await measure(probe(tmp_path, vectors[:20], seconds=0.5))

    asyncio.run(scenario())


def test_only_what_was_answered_within_the_window_counts():
    calls_s = np.array([[0.0, 0.9], [0.9, 1.0], [1.0, 1.2], [1.9, 2.0]])
    said = summary(calls_s, 1.0, 2.0, 0.1)
    assert said["queries_per_s"] == 2
    assert said["p50_ms"] == pytest.approx(150)
    with pytest.raises(IndexUnavailableError, match="--seconds"):
        summary(calls_s[:1], 1.0, 2.0, 0.1)


def test_queries_are_the_vectors_of_a_file(tmp_path: Path):
    np.save(tmp_path / "q.npy", np.ones((3, 4), dtype=np.float32))
    assert read_queries(tmp_path / "q.npy").shape == (3, 4)
    np.save(tmp_path / "none.npy", np.ones((0, 4), dtype=np.float32))
    with pytest.raises(IndexBuildError, match="no vectors"):
        read_queries(tmp_path / "none.npy")
