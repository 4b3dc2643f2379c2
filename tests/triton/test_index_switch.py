"""Generations of one index that follow one another on the real Triton, with writes in between."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from serving.index.__main__ import main
from serving.index.footprint import SERVER_BYTES
from serving.index.generation import read_generation
from serving.index.local import run_local
from serving.index.metric import Vectors
from serving.index.node import needs_of
from serving.index.placement import PLACEMENT_NAME, read_placement
from serving.index.router import Router

pytestmark = pytest.mark.triton

ROWS, DIM = 400, 16
NEW_IDS = np.arange(5_000, 5_010)

Answer = TypeVar("Answer")


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    rows: Vectors = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
    return rows


@pytest.fixture
def index(vectors: Vectors, tmp_path: Path) -> Iterator[Path]:
    """An index whose first generation is served."""
    np.save(tmp_path / "vectors.npy", vectors)
    index = tmp_path / "demo"
    assert run("build", index, "--name", "g1", "--vectors", tmp_path / "vectors.npy", *FLAT) == 0
    with run_local(index, "g1", 2**30):
        yield index


FLAT = ("--layout", "flat", "--metric", "l2", "--shards", "2")


def run(*words: object) -> int:
    """A command of `python -m serving.index`."""
    return main([str(word) for word in words])


def switch(index: Path, name: str, *options: str) -> int:
    return run("switch", index, "--generation", name, "--drain-s", "0.2", *options)


def ask(index: Path, question: Callable[[Router], Awaitable[Answer]]) -> Answer:
    async def with_router() -> Answer:
        router = Router(index / PLACEMENT_NAME)
        try:
            return await question(router)
        finally:
            await router.close()

    return asyncio.run(with_router())


def soon() -> float:
    return time.monotonic() + 30


def ids_near(index: Path, rows: Vectors) -> list[list[int]]:
    """The nearest id of each row; every shard must answer."""

    async def search(router: Router) -> list[list[int]]:
        found = await router.search(rows, 1, soon())
        assert found.coverage == 1.0
        return found.hits.ids.tolist()

    return ask(index, search)


def test_a_generation_follows_the_one_before_with_all_that_was_written(
    index: Path, vectors: Vectors, capsys: pytest.CaptureFixture[str]
):
    new = np.full((len(NEW_IDS), DIM), 9, np.float32) + np.arange(len(NEW_IDS))[:, None]
    ask(index, lambda router: router.upsert(NEW_IDS, new.astype(np.float32), soon()))
    ask(index, lambda router: router.delete(np.array([3]), soon()))
    built = ("build", index, "--layout", "hnsw", "--shards", "3", "--from-generation", "g1")
    assert run(*built, "--name", "g2") == 0
    capsys.readouterr()

    ask(index, lambda router: router.upsert(NEW_IDS[:1], new[:1], soon()))  # g2 does not have it
    assert switch(index, "g2") == 1
    assert "1 changes were written to g1 that g2 does not hold" in capsys.readouterr().err
    assert read_placement(index / PLACEMENT_NAME).generation == "g1"
    ask(index, lambda router: router.delete(np.array([4]), soon()))  # writes are taken again

    assert run(*built, "--name", "g3") == 0
    assert switch(index, "g3") == 0
    placement = read_placement(index / PLACEMENT_NAME)
    assert (placement.generation, len(placement.replicas)) == ("g3", 3)
    kept = np.array([i for i in range(ROWS) if i not in (3, 4)])
    assert ids_near(index, new.astype(np.float32)) == [[i] for i in NEW_IDS.tolist()]
    assert np.mean(np.array(ids_near(index, vectors[kept]))[:, 0] == kept) > 0.99  # hnsw
    rows = ask(index, lambda router: router.lookup(np.array([3, 4, 5]), soon()))
    assert rows.found.tolist() == [False, False, True]


def test_writes_are_given_up_only_when_that_is_said(
    index: Path, vectors: Vectors, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    np.save(tmp_path / "other.npy", -vectors)
    assert run("build", index, "--name", "g2", "--vectors", tmp_path / "other.npy", *FLAT) == 0
    ask(index, lambda router: router.delete(np.array([3]), soon()))
    assert switch(index, "g2") == 1
    assert "1 changes" in capsys.readouterr().err
    assert switch(index, "g2", "--lose-writes") == 0
    assert ids_near(index, -vectors[:5]) == [[0], [1], [2], [3], [4]]


def test_a_generation_that_does_not_fit_beside_the_one_served_is_refused_before_it_is_loaded(
    index: Path, vectors: Vectors, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    np.save(tmp_path / "other.npy", -vectors)
    assert run("build", index, "--name", "g2", "--vectors", tmp_path / "other.npy", *FLAT) == 0
    served = index / "generations/g1"
    needs = needs_of(served, read_generation(served), range(2))
    room = SERVER_BYTES + int(1.5 * sum(need.total_bytes for need in needs))
    assert switch(index, "g2", "--memory", str(room)) == 1
    assert "with both generations" in capsys.readouterr().err
    assert ids_near(index, vectors[:2]) == [[0], [1]]
    assert switch(index, "g1") == 1
    assert "g1 is served already" in capsys.readouterr().err
