"""The GPU side of FAISS: faults on any machine, the rest on one with a GPU."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serving.errors import DoesNotFitError, GpuError
from serving.index import gpu_clone
from serving.index import shard as shard_module
from serving.index.faiss_index import faiss
from serving.index.generation import read_generation
from serving.index.gpu import GpuUse, Precision
from serving.index.gpu_clone import GpuClone, clone, cloner, rows_of
from serving.index.gpu_devices import faiss_has_gpus, free_by_number
from serving.index.layout import Layout
from serving.index.metric import Metric, Vectors
from serving.index.segment import open_segment
from serving.index.shard import Shard
from tests.unit.serving.index.shards import (
    CompactNow,
    MakeGeneration,
    RandomVectors,
    check_searches,
    delete,
    exact,
    upsert,
)

MIB = 2**20
USE = GpuUse(device=0, precision="fp32", reserve_bytes=64 * MIB)

gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(
    not (faiss_has_gpus() and free_by_number()), reason="needs an NVIDIA GPU and faiss-gpu"
)

DIM = 64
LAYOUTS = [
    Layout(kind="flat"),
    Layout(kind="ivf-flat", lists=16, effort=16),
    Layout(kind="ivf-sq8", lists=16, effort=8),
    Layout(kind="ivf-sq8", lists=16, effort=16, rescore=20, on_disk=True),
    Layout(kind="ivf-pq", lists=16, effort=16, code_bytes=16),
]


class Resources:
    """Of a GPU that is not there."""

    def setTempMemory(self, size_bytes: int) -> None:  # noqa: N802 - FAISS' name
        assert size_bytes == USE.reserve_bytes

    def setPinnedMemory(self, size_bytes: int) -> None:  # noqa: N802
        assert size_bytes == 0


class Failing:
    """An index whose GPU has no memory for a search."""

    def search(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("StandardGpuResources: alloc fail")


@pytest.fixture
def no_real_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAISS' names for a GPU with a gigabyte, on any machine."""
    monkeypatch.setattr(faiss, "StandardGpuResources", Resources, raising=False)
    monkeypatch.setattr(faiss, "GpuClonerOptions", SimpleNamespace, raising=False)
    monkeypatch.setattr(gpu_clone, "free_by_number", lambda: {0: 1024 * MIB})


def index_of(generation: Path) -> Any:
    return open_segment(generation / "shard-0000", read_generation(generation)).index


@pytest.mark.skipif(faiss_has_gpus(), reason="tells what happens without faiss-gpu")
def test_a_shard_whose_faiss_has_no_gpus_is_refused(flat: Path) -> None:
    with pytest.raises(GpuError, match=r"faiss-cpu, .* `make EXTRA=gpu`"):
        clone(USE, read_generation(flat), index_of(flat))


@pytest.mark.usefixtures("no_real_gpu")
def test_an_index_that_does_not_fit_is_refused_before_it_is_copied(
    flat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_clone, "free_by_number", lambda: {0: 60 * MIB})
    with pytest.raises(
        DoesNotFitError, match=r"take 64 MiB of GPU 0 and 60 are free: it is 4 MiB over"
    ):
        clone(USE, read_generation(flat), index_of(flat))
    with pytest.raises(DoesNotFitError, match="0 are free"):
        clone(USE.model_copy(update={"device": 1}), read_generation(flat), index_of(flat))


@pytest.mark.usefixtures("no_real_gpu")
def test_a_shard_that_a_gpu_has_no_room_for_is_searched_by_the_cpu_where_none_was_named(
    flat: Path,
    base_rows: dict[int, Vectors],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(gpu_clone, "free_by_number", lambda: {0: 60 * MIB})
    generation = read_generation(flat)
    with pytest.raises(DoesNotFitError):
        Shard(flat, 0, tmp_path / "state", cloner(USE, generation))
    any_gpu = USE.model_copy(update={"required": False})
    with caplog.at_level(logging.WARNING):
        shard = Shard(flat, 0, tmp_path / "state", cloner(any_gpu, generation))
    assert "the CPU searches from now on: the rows of a shard take 64 MiB of GPU 0" in caplog.text
    check_searches(shard, base_rows)
    shard.close()


@pytest.mark.usefixtures("no_real_gpu")
def test_what_faiss_cannot_copy_is_refused_with_its_words(
    flat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("cudaMalloc error out of memory")

    monkeypatch.setattr(faiss, "index_cpu_to_gpu", fail, raising=False)
    with pytest.raises(GpuError, match=r"to GPU 0 \(cudaMalloc error out of memory\): free it"):
        clone(USE, read_generation(flat), index_of(flat))


@pytest.mark.usefixtures("no_real_gpu")
def test_a_search_that_fails_on_the_gpu_is_answered_by_the_cpu(
    flat: Path,
    base_rows: dict[int, Vectors],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda *_: Failing(), raising=False)
    shard = Shard(flat, 0, tmp_path / "state", cloner(USE, read_generation(flat)))
    with caplog.at_level(logging.WARNING):
        check_searches(shard, base_rows)
    assert "GPU 0 could not search, the CPU does: StandardGpuResources: alloc fail" in caplog.text
    shard.close()


@pytest.mark.usefixtures("no_real_gpu")
def test_more_lists_than_a_gpu_selects_are_visited_by_the_cpu(
    make_generation: MakeGeneration,
    random_vectors: RandomVectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_clone, "MOST_RESULTS", 4)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda *_: faiss.IndexFlatL2(8), raising=False)
    layout = Layout(kind="ivf-flat", lists=8, effort=4)
    generation = make_generation(random_vectors(400, seed=2), layout=layout)
    one = GpuClone(USE, read_generation(generation), index_of(generation))
    assert one.search(random_vectors(1), 2, 5) is None
    assert one.search(random_vectors(1), 5, 4) is None


def test_an_index_without_rows_has_no_clone(flat: Path) -> None:
    assert clone(USE, read_generation(flat), faiss.IndexFlatL2(8)) is None


def test_rows_of_a_flat_index_are_read_where_they_lie(
    flat: Path, base_rows: dict[int, Vectors]
) -> None:
    index = index_of(flat)
    np.testing.assert_array_equal(rows_of(index), np.stack([*base_rows.values()]))
    assert rows_of(index).base is not None


def check_agreement(on_gpu: Shard, on_cpu: Shard, queries: Vectors) -> None:
    """Both find the same: every row where neither approximates, nearly all of them elsewhere."""
    kind = on_cpu.generation.layout.kind
    found, expected = (shard.search(queries, 10) for shard in (on_gpu, on_cpu))
    pairs = zip(found.ids, expected.ids, strict=True)
    agreed = np.mean([np.isin(*pair).mean() for pair in pairs])
    assert agreed >= (1.0 if kind in ("flat", "ivf-flat") else 0.9)
    if kind == "flat":
        assert found.ids.tolist() == expected.ids.tolist()
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-4)
    among = np.arange(0, 10_000, 3)
    filtered = [shard.search_among(queries[0], among, 10).ids for shard in (on_gpu, on_cpu)]
    assert filtered[0].tolist() == filtered[1].tolist()


@gpu
@needs_gpu
@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.words)
def test_a_gpu_finds_what_the_cpu_finds_through_writes_and_compactions(
    make_generation: MakeGeneration,
    random_vectors: RandomVectors,
    compact_now: CompactNow,
    tmp_path: Path,
    layout: Layout,
    metric: Metric,
) -> None:
    base = random_vectors(5_000, DIM, seed=2)
    generation = make_generation(base, layout=layout, metric=metric)
    use = USE.model_copy(update={"device": min(free_by_number())})
    on_gpu = Shard(generation, 0, tmp_path / "gpu", cloner(use, read_generation(generation)))
    on_cpu = Shard(generation, 0, tmp_path / "cpu")
    queries = random_vectors(50, DIM, seed=4)
    for number in range(3):
        assert on_gpu.segment.clone is not None
        check_agreement(on_gpu, on_cpu, queries)
        near = on_cpu.search(queries[:1], 100).ids[0].tolist()  # more than are fetched beside
        for shard in (on_gpu, on_cpu):
            delete(shard, near)
            upsert(shard, [7, 20_000], random_vectors(2, DIM, seed=7))
            if number == 1:
                compact_now(shard)
    on_gpu.close()
    on_cpu.close()


@gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_flat_rows_on_a_gpu_are_the_best_ones_in_either_precision(
    make_generation: MakeGeneration,
    random_vectors: RandomVectors,
    tmp_path: Path,
    precision: Precision,
) -> None:
    base, queries = random_vectors(5_000, DIM, seed=2), random_vectors(20, DIM, seed=4)
    generation = make_generation(base, metric="l2")
    use = USE.model_copy(update={"device": min(free_by_number()), "precision": precision})
    shard = Shard(generation, 0, tmp_path / "state", cloner(use, read_generation(generation)))
    found = shard.search(queries, 10).ids.tolist()
    best = [exact(dict(enumerate(base)), query, 10, "l2") for query in queries]
    if precision == "fp32":
        assert found == best
    else:
        assert np.mean([np.isin(*pair).mean() for pair in zip(found, best, strict=True)]) > 0.95
    shard.close()


@gpu
@needs_gpu
def test_a_filter_of_many_ids_is_kept_on_a_gpu_node(
    make_generation: MakeGeneration,
    random_vectors: RandomVectors,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shard_module, "SMALL_FILTER", 20)
    base, query = random_vectors(5_000, DIM, seed=2), random_vectors(1, DIM, seed=4)[0]
    generation = make_generation(base, metric="l2")
    use = USE.model_copy(update={"device": min(free_by_number())})
    shard = Shard(generation, 0, tmp_path / "state", cloner(use, read_generation(generation)))
    among = np.arange(1_000, 4_000)
    expected = exact({i: base[i] for i in among.tolist()}, query, 10, "l2")
    assert shard.search_among(query, among, 10).ids[0].tolist() == expected
    shard.close()
