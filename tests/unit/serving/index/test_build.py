import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from serving.errors import IndexBuildError
from serving.index import build as build_module
from serving.index import sources
from serving.index.build import BuildPlan, build
from serving.index.generation import (
    read_generation,
    read_ids,
    read_rows,
    read_segment_record,
    shard_directory,
    verify_segment,
)
from serving.index.layout import Kind, Layout
from serving.index.metric import Ids, Metric, Vectors
from serving.index.sharding import shard_of
from serving.index.sources import NpySource, ParquetSource, TextSource

RandomVectors = Callable[..., Vectors]

SCRIPT = Path(__file__).with_name("build_until_killed.py")
FLAT = Layout(kind="flat")
IVF = Layout(kind="ivf-sq8", lists=8, effort=2)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK_ROWS", 50)


@pytest.fixture
def build_of(tmp_path: Path) -> Callable[..., Path]:
    """Builds vectors into tmp_path/index and gives the generation's directory."""

    def build_of(
        vectors: Vectors,
        ids: Ids | None = None,
        *,
        metric: Metric = "l2",
        layout: Layout = FLAT,
        shards: int = 2,
    ) -> Path:
        np.save(tmp_path / "vectors.npy", vectors)
        if ids is not None:
            np.save(tmp_path / "ids.npy", ids)
        source = NpySource(
            tmp_path / "vectors.npy", tmp_path / "ids.npy" if ids is not None else None
        )
        plan = BuildPlan(tmp_path / "index", "demo", "g1", metric, layout, shards)
        build(plan, source, lambda *_: None)
        return plan.destination

    return build_of


def rows_by_id(generation: Path) -> dict[int, list[float]]:
    """All rows of all shards, each on the shard of its id and in the order of ids."""
    described = read_generation(generation)
    rows: dict[int, list[float]] = {}
    for number in range(described.shards):
        shard = shard_directory(generation, number)
        verify_segment(shard, read_segment_record(shard))
        ids = read_ids(shard)
        assert (np.diff(ids) > 0).all()
        assert (shard_of(ids, described.shards) == number).all()
        rows |= dict(zip(ids.tolist(), read_rows(shard).tolist(), strict=True))
    assert described.rows == len(rows)
    return rows


def files_of(generation: Path) -> dict[str, bytes]:
    return {
        path.relative_to(generation).as_posix(): path.read_bytes()
        for path in sorted(generation.rglob("*"))
        if path.is_file() and path.name != "generation.json"
    }


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_every_row_is_on_the_shard_of_its_id_in_the_order_of_ids(
    build_of: Callable[..., Path], random_vectors: RandomVectors, shards: int, order: str
) -> None:
    vectors, ids = random_vectors(330), np.arange(0, 990, 3)
    if order != "ascending":
        ids = ids[::-1] if order == "descending" else np.random.default_rng(0).permutation(ids)
    generation = build_of(vectors, np.ascontiguousarray(ids), shards=shards)
    assert rows_by_id(generation) == dict(zip(ids.tolist(), vectors.tolist(), strict=True))
    names = {path.name for path in generation.rglob("*") if path.is_file()}
    segment = {"index.faiss", "ids.npy", "rows.npy", "segment.json"}
    assert names == {"generation.json", "trained.faiss", *segment}


def test_more_shards_than_rows_leave_some_empty(
    build_of: Callable[..., Path], random_vectors: RandomVectors
) -> None:
    assert len(rows_by_id(build_of(random_vectors(3), shards=8))) == 3


@pytest.mark.parametrize("kind", ["hnsw", "hnsw-sq8", "ivf-flat", "ivf-pq", "ivf-rabitq"])
def test_every_layout_is_built_the_same_twice(
    build_of: Callable[..., Path], random_vectors: RandomVectors, tmp_path: Path, kind: Kind
) -> None:
    layout = Layout(kind=kind, lists=4 if kind.startswith("ivf") else 0, code_bytes=2)
    first = build_of(random_vectors(600), layout=layout)
    first = first.rename(tmp_path / "first")
    assert files_of(build_of(random_vectors(600), layout=layout)) == files_of(first)


@pytest.mark.parametrize(
    ("row", "metric", "words"),
    [
        ([np.nan] * 8, "l2", "vector 49 holds NaN"),
        ([np.inf] + [0] * 7, "l2", "vector 49 holds an infinite component"),
        ([3e38] * 8, "l2", "vector 49 is too long"),
        ([0] * 8, "inner_product", "vector 49 is zero"),
    ],
)
def test_a_vector_that_cannot_be_indexed_is_named(
    build_of: Callable[..., Path],
    random_vectors: RandomVectors,
    row: list[float],
    metric: Metric,
    words: str,
) -> None:
    vectors = random_vectors(130)
    vectors[99] = row
    with pytest.raises(IndexBuildError, match=f"in the rows from 50 on, {words}"):
        build_of(vectors, metric=metric)


def test_a_negative_id_is_named(
    build_of: Callable[..., Path], random_vectors: RandomVectors
) -> None:
    ids = np.arange(130)
    ids[120] = -5
    with pytest.raises(IndexBuildError, match="id -5 is negative"):
        build_of(random_vectors(130), ids)


def test_ids_that_stand_twice_are_counted_and_one_is_named(
    build_of: Callable[..., Path], random_vectors: RandomVectors
) -> None:
    ids = np.arange(130)
    ids[[0, 100]] = 7
    with pytest.raises(IndexBuildError, match=r"id 7 stands twice in the source \(2 ids do\)"):
        build_of(random_vectors(130), ids, shards=1)


def test_no_vectors_are_no_index(build_of: Callable[..., Path]) -> None:
    with pytest.raises(IndexBuildError, match="there are no vectors"):
        build_of(np.empty((0, 8), np.float32))


def test_too_few_vectors_for_the_lists_are_refused_with_how_many_are_needed(
    build_of: Callable[..., Path], random_vectors: RandomVectors
) -> None:
    layout = Layout(kind="ivf-flat", lists=10)
    with pytest.raises(IndexBuildError, match=r"389 vectors are too few .* at least 390"):
        build_of(random_vectors(389), layout=layout)
    assert len(rows_by_id(build_of(random_vectors(390), layout=layout))) == 390


@pytest.mark.parametrize("shards", [0, -1])
def test_an_index_has_one_shard_at_least(
    build_of: Callable[..., Path], random_vectors: RandomVectors, shards: int
) -> None:
    with pytest.raises(IndexBuildError, match="name 1 or more"):
        build_of(random_vectors(10), shards=shards)


def test_a_generation_is_never_built_over(
    build_of: Callable[..., Path], random_vectors: RandomVectors
) -> None:
    generation = build_of(random_vectors(10))
    before = files_of(generation)
    with pytest.raises(IndexBuildError, match="give the new generation another --name"):
        build_of(random_vectors(20))
    assert files_of(generation) == before


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


def test_parquet_files_and_texts_are_built_like_an_npy_file(
    build_of: Callable[..., Path], tmp_path: Path
) -> None:
    texts = ["a" * (at % 17 + 1) for at in range(120)]
    ids, vectors = np.arange(120) * 5, encode(texts)
    expected = files_of(build_of(vectors, ids))
    table = pyarrow.table({"id": ids, "vector": [*vectors]})
    pyarrow.parquet.write_table(table, tmp_path / "v.parquet")
    lines = [json.dumps({"id": 5 * at, "text": text}) + "\n" for at, text in enumerate(texts)]
    (tmp_path / "texts.jsonl").write_text("".join(lines))
    for name, source in (
        ("g2", ParquetSource((tmp_path / "v.parquet",))),
        ("g3", TextSource(tmp_path / "texts.jsonl", encode, 2, "fake")),
    ):
        plan = BuildPlan(tmp_path / "index", "demo", name, "l2", FLAT, 2)
        build(plan, source, lambda *_: None)
        assert files_of(plan.destination) == expected


def test_a_parquet_file_of_other_components_than_the_first_is_refused(tmp_path: Path) -> None:
    paths = []
    for dim in (3, 4):
        paths.append(tmp_path / f"{dim}.parquet")
        table = pyarrow.table({"id": [dim], "vector": [[1.0] * dim]})
        pyarrow.parquet.write_table(table, paths[-1])
    plan = BuildPlan(tmp_path / "index", "demo", "g1", "l2", FLAT, 2)
    with pytest.raises(IndexBuildError, match="vectors have 4 components and 3 are needed"):
        build(plan, ParquetSource((paths[0], paths[1])), lambda *_: None)


def encode(texts: Sequence[str]) -> Vectors:
    """Stands for an encoder: the vector of a text tells its length."""
    return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)
