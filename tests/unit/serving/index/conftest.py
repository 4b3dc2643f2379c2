"""Real indexes for the tests: small ones, built as anybody's are."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.index import faiss_index
from serving.index.build import BuildPlan, build
from serving.index.compact import compact
from serving.index.layout import Layout
from serving.index.metric import Ids, Metric, Vectors
from serving.index.shard import Shard
from serving.index.sources import NpySource

DIM = 8
FLAT = Layout(kind="flat")

RandomVectors = Callable[..., Vectors]
MakeGeneration = Callable[..., Path]
OpenShard = Callable[..., Shard]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """FAISS' threads would cost more than they gain on data so small."""
    faiss_index.set_threads(1)


@pytest.fixture(autouse=True)
def one_thread_in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for processes that a test starts."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def random_vectors() -> Callable[..., Vectors]:
    """Vectors [count, dim] of standard normal components, the same for the same seed."""

    def random_vectors(count: int, dim: int = DIM, seed: int = 0) -> Vectors:
        return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)

    return random_vectors


@pytest.fixture(scope="session")
def make_generation(tmp_path_factory: pytest.TempPathFactory) -> MakeGeneration:
    """Builds a generation from vectors and gives its directory."""

    def make_generation(
        vectors: Vectors,
        ids: Ids | None = None,
        *,
        layout: Layout = FLAT,
        metric: Metric = "inner_product",
        shards: int = 1,
    ) -> Path:
        folder = tmp_path_factory.mktemp("index")
        np.save(folder / "vectors.npy", vectors)
        if ids is not None:
            np.save(folder / "ids.npy", ids)
        source = NpySource(folder / "vectors.npy", folder / "ids.npy" if ids is not None else None)
        plan = BuildPlan(folder, "demo", "g1", metric, layout, shards)
        build(plan, source, lambda *_: None)
        return plan.destination

    return make_generation


@pytest.fixture
def open_shard(tmp_path: Path) -> Iterator[OpenShard]:
    """Opens replicas and closes them after the test."""
    opened: list[Shard] = []

    def open_shard(generation: Path, shard: int = 0, state: Path | None = None) -> Shard:
        opened.append(Shard(generation, shard, state or tmp_path / "state"))
        return opened[-1]

    yield open_shard
    for shard in opened:
        shard.close()


@pytest.fixture(scope="session")
def make_segment() -> Callable[[Shard, list[Path], Path], None]:
    """Does the work of a compaction in this process."""

    def make_segment(shard: Shard, logs: list[Path], destination: Path) -> None:
        old = shard.directory / shard.state.segment if shard.state.segment else shard.base
        compact(shard.base.parent, old, logs, destination)

    return make_segment


@pytest.fixture(scope="session")
def compact_now(
    make_segment: Callable[[Shard, list[Path], Path], None],
) -> Callable[[Shard], None]:
    """A whole compaction, from its beginning until the shard serves what it made."""

    def compact_now(shard: Shard) -> None:
        logs, destination = shard.begin_compaction()
        make_segment(shard, logs, destination)
        shard.adopt(destination)

    return compact_now


@pytest.fixture(scope="session")
def base_rows(random_vectors: RandomVectors) -> dict[int, Vectors]:
    """The rows of the generations below by id: every third number."""
    return {3 * at: row for at, row in enumerate(random_vectors(600))}


@pytest.fixture(scope="session")
def flat(base_rows: dict[int, Vectors], make_generation: MakeGeneration) -> Path:
    """A generation of one flat shard."""
    return make_generation(np.stack([*base_rows.values()]), np.array([*base_rows]))
