import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from serving.errors import IndexBuildError
from serving.index import sources
from serving.index.build import BuildPlan, build
from serving.index.layout import Kind, Layout
from serving.index.metric import Ids, Metric, Vectors
from serving.index.sources import NpySource, ParquetSource, TextSource
from tests.unit.serving.index.builds import files_of, rows_by_id

RandomVectors = Callable[..., Vectors]

FLAT = Layout(kind="flat")


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
