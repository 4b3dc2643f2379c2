"""A shard with a searcher that, like a GPU, can leave no row out."""

import gc
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.errors import DoesNotFitError, GpuError
from serving.index import faiss_index
from serving.index import shard as shard_module
from serving.index.faiss_index import MISSING, selected
from serving.index.layout import Layout
from serving.index.metric import Ids, Metric, Vectors
from serving.index.shard import Shard
from serving.index.unfiltered import (
    MOST_RESULTS,
    SPARE,
    fetched,
    is_set,
    keep_live,
    search_live,
)
from tests.unit.serving.index.shards import (
    CompactNow,
    MakeGeneration,
    MakeSegment,
    RandomVectors,
    check_holds,
    check_searches,
    delete,
    exact,
    upsert,
)

LAYOUTS = [
    Layout(kind="flat"),
    Layout(kind="ivf-flat", lists=4, effort=4),
    Layout(kind="ivf-sq8", lists=4, effort=4, rescore=20),
]

Cloned = Callable[..., tuple[Shard, list["LikeGpu"]]]


class LikeGpu:
    """The index on the CPU, without a filter; `cannot` is a GPU that has no memory left."""

    device = 0

    def __init__(self, index: Any, layout: Layout) -> None:
        self.index, self.layout = index, layout
        self.asked: list[int] = []
        self.cannot = False

    def search(self, queries: Vectors, k: int, effort: int) -> tuple[Ids, Vectors] | None:
        self.asked.append(k)
        if self.cannot:
            return None
        return faiss_index.search(self.index, self.layout, queries, k, effort, None)


@pytest.fixture
def cloned(tmp_path: Path) -> Cloned:
    """Opens a shard that is cloned so, and lists its clones."""

    def cloned(generation: Path, layout: Layout) -> tuple[Shard, list[LikeGpu]]:
        clones: list[LikeGpu] = []

        def clone(index: Any) -> LikeGpu:
            clones.append(LikeGpu(index, layout))
            return clones[-1]

        return Shard(generation, 0, tmp_path / "state", clone), clones

    return cloned


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.kind)
def test_it_finds_what_a_shard_without_one_finds(
    make_generation: MakeGeneration,
    random_vectors: RandomVectors,
    cloned: Cloned,
    compact_now: CompactNow,
    layout: Layout,
    metric: Metric,
) -> None:
    base = random_vectors(600, seed=2)
    shard, clones = cloned(make_generation(base, layout=layout, metric=metric), layout)
    rows = dict(enumerate(base))
    new = random_vectors(30, seed=3)
    ids = [*range(15), *range(1000, 1015)]
    upsert(shard, ids, new)
    gone = set(range(20, 600, 3)) | {1, 1001}
    delete(shard, sorted(gone))
    rows |= dict(zip(ids, new, strict=True))
    rows = {row_id: row for row_id, row in rows.items() if row_id not in gone}
    for number in (1, 2):
        check_holds(shard, rows, gone)
        check_searches(shard, rows)
        assert len(clones) == number
        assert clones[-1].asked
        compact_now(shard)
    shard.close()


def test_queries_of_which_too_few_results_are_live_are_asked_elsewhere(
    make_generation: MakeGeneration, random_vectors: RandomVectors, cloned: Cloned
) -> None:
    base, queries = random_vectors(600, seed=2), random_vectors(2, seed=4)
    shard, clones = cloned(make_generation(base, metric="l2"), LAYOUTS[0])
    rows = dict(enumerate(base))
    delete(shard, exact(rows, queries[0], 200, "l2"))  # every one that is near the first
    view = shard.view()
    answer = search_live(clones[0], queries, 5, 0, view.members, 600)
    assert answer is not None
    assert answer.short.tolist() == [True, False]
    live = {row_id: row for row_id, row in rows.items() if shard.lookup(np.array([row_id]))[1][0]}
    assert len(live) == 400
    assert shard.search(queries, 5).ids.tolist() == [exact(live, q, 5, "l2") for q in queries]
    shard.close()


def test_a_filter_of_ids_never_reaches_it(
    make_generation: MakeGeneration,
    random_vectors: RandomVectors,
    cloned: Cloned,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shard_module, "SMALL_FILTER", 20)
    base, query = random_vectors(600, seed=2), random_vectors(1, seed=4)[0]
    shard, clones = cloned(make_generation(base, metric="l2"), LAYOUTS[0])
    for among in (np.arange(5, 10), np.arange(100, 500)):
        found = shard.search_among(query, among, 5).ids[0].tolist()
        assert found == exact({i: base[i] for i in among.tolist()}, query, 5, "l2")
    assert clones[0].asked == []
    shard.close()


def test_more_results_than_a_gpu_gives_come_from_elsewhere(
    make_generation: MakeGeneration, random_vectors: RandomVectors, cloned: Cloned
) -> None:
    base, query = random_vectors(2_500, seed=2), random_vectors(1, seed=4)
    shard, clones = cloned(make_generation(base, metric="l2"), LAYOUTS[0])
    found = shard.search(query, 2_400).ids[0].tolist()
    assert set(found) == set(exact(dict(enumerate(base)), query[0], 2_400, "l2"))
    assert clones[0].asked == []
    shard.search(query, MOST_RESULTS)
    delete(shard, [0])
    shard.search(query, MOST_RESULTS)
    assert clones[0].asked == [MOST_RESULTS, MOST_RESULTS]
    shard.close()


def test_a_search_that_the_gpu_cannot_do_is_done_elsewhere(
    make_generation: MakeGeneration, random_vectors: RandomVectors, cloned: Cloned
) -> None:
    base = random_vectors(600, seed=2)
    shard, clones = cloned(make_generation(base, metric="l2"), LAYOUTS[0])
    clones[0].cannot = True
    check_searches(shard, dict(enumerate(base)))
    assert clones[0].asked
    shard.close()


def test_a_compacted_segment_is_cloned_while_the_old_one_is_searched_which_is_then_released(
    flat: Path,
    random_vectors: RandomVectors,
    cloned: Cloned,
    make_segment: MakeSegment,
) -> None:
    shard, clones = cloned(flat, LAYOUTS[0])
    upsert(shard, [1, 2], random_vectors(2, seed=9))
    logs, destination = shard.begin_compaction()
    make_segment(shard, logs, destination)
    shard.search(random_vectors(1), 3)
    assert len(clones) == 1
    shard.adopt(destination)
    assert [clone.index.ntotal for clone in clones] == [600, 602]
    assert shard.segment.clone is clones[1]
    old = weakref.ref(clones.pop(0))
    gc.collect()
    assert old() is None
    shard.close()


def test_a_clone_that_cannot_be_made_is_raised_at_the_start_and_does_without_later(
    flat: Path,
    base_rows: dict[int, Vectors],
    random_vectors: RandomVectors,
    compact_now: CompactNow,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    full = False

    def clone(index: Any) -> LikeGpu:
        if full:
            raise DoesNotFitError("3 MiB over")
        return LikeGpu(index, LAYOUTS[0])

    def refuse(_: Any) -> LikeGpu:
        raise GpuError("there is no GPU")

    with pytest.raises(GpuError, match="there is no GPU"):
        Shard(flat, 0, tmp_path / "state", refuse)
    shard = Shard(flat, 0, tmp_path / "state", clone)  # it was closed again
    new = random_vectors(1, seed=9)
    upsert(shard, [1], new)
    full = True
    with caplog.at_level(logging.WARNING):
        compact_now(shard)
    assert "the CPU searches from now on: 3 MiB over" in caplog.text
    assert shard.segment.clone is None
    check_searches(shard, base_rows | {1: new[0]})
    shard.close()


def test_twice_as_many_are_fetched_when_rows_are_hidden_but_no_more_than_there_can_be() -> None:
    assert fetched(10, False, 1_000) == 10
    assert fetched(10, True, 1_000) == 20 + SPARE
    assert fetched(10, True, 15) == 15
    assert fetched(1_500, True, 10**6) == MOST_RESULTS
    assert fetched(MOST_RESULTS + 1, False, 10**6) == 0


def test_live_results_keep_their_order_and_their_scores() -> None:
    members = selected(np.array([1, 3, 9]), 12)
    positions = np.array([[9, 2, 1, 3], [2, 4, 3, 5], [2, 3, MISSING, MISSING]])
    scores = np.arange(12, dtype=np.float32).reshape(3, 4)
    answer = keep_live(positions, scores, members, 2)
    assert answer.positions.tolist() == [[9, 1], [3, MISSING], [3, MISSING]]
    assert answer.scores[:, 0].tolist() == [0.0, 6.0, 9.0]
    assert answer.scores[0, 1] == 2.0
    assert answer.short.tolist() == [False, True, False]  # the last has seen everything


def test_bits_are_read_as_they_are_written() -> None:
    chosen = np.array([0, 7, 8, 15, 16, 22])
    there = is_set(selected(chosen, 23), np.arange(23))
    assert np.flatnonzero(there).tolist() == chosen.tolist()
