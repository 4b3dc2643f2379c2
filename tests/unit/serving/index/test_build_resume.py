"""Builds that are stopped or killed go on; none takes more memory than it needs."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.errors import IndexBuildError
from serving.index import build as build_module
from serving.index import sources
from serving.index.build import BuildPlan, build
from serving.index.generation import read_generation
from serving.index.layout import Layout
from serving.index.metric import Vectors
from serving.index.sources import NpySource
from tests.unit.serving.index.builds import files_of, rows_by_id

RandomVectors = Callable[..., Vectors]

SCRIPT = Path(__file__).with_name("build_until_killed.py")
FLAT = Layout(kind="flat")
IVF = Layout(kind="ivf-sq8", lists=8, effort=2)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK_ROWS", 50)


class StoppedError(Exception):
    """Stands for Ctrl-C."""


def test_a_stopped_build_goes_on_where_it_was_and_reads_nothing_twice(
    tmp_path: Path, random_vectors: RandomVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "CHUNKS_PER_CHECKPOINT", 1)
    np.save(tmp_path / "v.npy", random_vectors(330))
    plan = BuildPlan(tmp_path / "index", "demo", "g1", "l2", FLAT, 2)
    told: list[int] = []

    def stop_at(rows: int) -> Callable[[str, int, int | None], None]:
        def announce(stage: str, done: int, total: int | None) -> None:
            if stage == "spool":
                assert total == 330
                told.append(done)
                if done == rows:
                    raise StoppedError

        return announce

    for rows in (100, 250):
        with pytest.raises(StoppedError):
            build(plan, NpySource(tmp_path / "v.npy"), stop_at(rows))
        assert not plan.destination.exists()
    build(plan, NpySource(tmp_path / "v.npy"), stop_at(0))
    assert told == [50, 100, 100, 150, 200, 250, 250, 300, 330]
    assert len(rows_by_id(plan.destination)) == 330


def test_a_build_of_another_source_begins_anew(
    tmp_path: Path, random_vectors: RandomVectors
) -> None:
    plan = BuildPlan(tmp_path / "index", "demo", "g1", "l2", FLAT, 2)
    bad = random_vectors(330)
    bad[329] = np.nan
    np.save(tmp_path / "v.npy", bad)
    with pytest.raises(IndexBuildError, match="NaN"):
        build(plan, NpySource(tmp_path / "v.npy"), lambda *_: None)
    np.save(tmp_path / "v.npy", random_vectors(329, seed=1))
    build(plan, NpySource(tmp_path / "v.npy"), lambda *_: None)
    expected = dict(enumerate(random_vectors(329, seed=1).tolist()))
    assert rows_by_id(plan.destination) == expected


KILLS = [
    *("spool:2", "spool:8", "train:1", "save:1", "finish:2", "write_sorted:2", "save:3"),
    *("write_segment_record:2", "unlink:2", "unlink:3", "write_generation:1"),
]


def test_a_build_killed_anywhere_ends_byte_for_byte_as_one_that_was_not(
    tmp_path: Path, random_vectors: RandomVectors
) -> None:
    np.save(tmp_path / "vectors.npy", random_vectors(500))
    ids = np.arange(1000, 1500)
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).permutation(ids))
    (tmp_path / "layout.json").write_text(IVF.model_dump_json())

    command = [sys.executable, str(SCRIPT), str(tmp_path), "never:1", *KILLS]
    ended = [int(line) for line in subprocess.check_output(command).split()]
    assert ended == [0] + [-signal.SIGKILL] * len(KILLS)
    whole = files_of(tmp_path / "never:1/generations/g1")
    for point in KILLS:
        plan = BuildPlan(tmp_path / point, "demo", "g1", "l2", IVF, 3)
        assert not plan.destination.exists()
        source = NpySource(tmp_path / "vectors.npy", tmp_path / "ids.npy")
        build(plan, source, lambda *_: None)
        assert files_of(plan.destination) == whole, point


MEASURED = """
import sys, threading
from pathlib import Path
from serving.index import faiss_index
from serving.index.build import BuildPlan, build
from serving.index.layout import Layout
from serving.index.sources import NpySource
from tests.unit.serving.index.builds import files_of, rows_by_id

def own_memory_kib():  # without pages of mapped files, which the kernel takes back
    return next(int(line.split()[1]) for line in open("/proc/self/status") if "RssAnon" in line)

folder = Path(sys.argv[1])
before = peak = own_memory_kib()
ended = threading.Event()

def watch():
    global peak
    while not ended.wait(0.002):
        peak = max(peak, own_memory_kib())

watching = threading.Thread(target=watch)
watching.start()
source = NpySource(folder / "vectors.npy", folder / "ids.npy")
layout = Layout(kind="ivf-sq8", lists=64)
build(BuildPlan(folder / "index", "demo", "g1", "l2", layout, 8), source, lambda *_: None)
ended.set()
watching.join()
print((peak - before) * 1024)
"""


def test_building_takes_far_less_memory_than_the_vectors(tmp_path: Path) -> None:
    rows, dim = 150_000, 256
    vectors = np.lib.format.open_memmap(
        tmp_path / "vectors.npy", "w+", dtype=np.float32, shape=(rows, dim)
    )
    chosen = np.random.default_rng(0)
    for start in range(0, rows, 10_000):
        vectors[start : start + 10_000] = chosen.random((10_000, dim), dtype=np.float32)
    del vectors
    np.save(tmp_path / "ids.npy", chosen.permutation(rows))
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    taken_bytes = int(subprocess.check_output(command))
    assert read_generation(tmp_path / "index/generations/g1").rows == rows
    assert 0 < taken_bytes < rows * dim * 4 / 3
