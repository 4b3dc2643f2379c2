"""Searching, by layout."""

from pathlib import Path

import numpy as np
import pytest

from serving.index import shard as shard_module
from serving.index.layout import Layout
from serving.index.metric import Metric, Vectors
from tests.unit.serving.index.shards import (
    CompactNow,
    MakeGeneration,
    OpenShard,
    RandomVectors,
    check_holds,
    check_searches,
    delete,
    exact,
    upsert,
)

LAYOUTS = [
    Layout(kind="flat"),
    Layout(kind="hnsw", links=16, effort=400),
    Layout(kind="ivf-flat", lists=4, effort=4),
    Layout(kind="ivf-flat", lists=4, effort=4, on_disk=True),
    Layout(kind="ivf-sq8", lists=4, effort=4, rescore=8),
    Layout(kind="ivf-rabitq", lists=4, effort=4, rescore=40, on_disk=True),
]


def name_of(layout: Layout) -> str:
    return layout.words.replace(", ", "-").replace(" ", "-")


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=name_of)
def test_every_layout_finds_what_is_there_and_nothing_else(
    make_generation: MakeGeneration,
    random_vectors: RandomVectors,
    open_shard: OpenShard,
    compact_now: CompactNow,
    layout: Layout,
    metric: Metric,
) -> None:
    base = random_vectors(400, seed=2)
    rows = dict(enumerate(base))
    shard = open_shard(make_generation(base, layout=layout, metric=metric))
    new = random_vectors(30, seed=3)
    ids = [*range(15), *range(1000, 1015)]
    upsert(shard, ids, new)
    gone = set(range(0, 400, 4)) - {0, 4, 8, 12} | {1, 1001}
    delete(shard, sorted(gone))
    rows |= dict(zip(ids, new, strict=True))
    rows = {row_id: row for row_id, row in rows.items() if row_id not in gone}
    for _ in range(2):
        check_holds(shard, rows, gone)
        if layout.kind == "ivf-sq8":  # rescored, but from what coarse codes put first
            query = random_vectors(1, seed=4)
            found = shard.search(query, 10).ids[0].tolist()
            assert len(set(found) & set(exact(rows, query[0], 10, metric))) >= 9
        else:
            check_searches(shard, rows)
        everything = shard.search(random_vectors(1, seed=4), 500).ids[0]
        assert not gone & set(everything.tolist())
        compact_now(shard)


@pytest.mark.parametrize("layout", LAYOUTS, ids=name_of)
def test_a_filter_of_many_ids_finds_the_best_of_those_that_live(
    make_generation: MakeGeneration,
    random_vectors: RandomVectors,
    open_shard: OpenShard,
    monkeypatch: pytest.MonkeyPatch,
    layout: Layout,
) -> None:
    monkeypatch.setattr(shard_module, "SMALL_FILTER", 20)
    base = random_vectors(400, seed=2)
    shard = open_shard(make_generation(base, layout=layout, metric="l2"))
    delete(shard, list(range(0, 400, 10)))
    new = random_vectors(2, seed=8)
    upsert(shard, [7, 500], new)
    rows = dict(enumerate(base)) | {7: new[0], 500: new[1]}
    rows = {i: row for i, row in rows.items() if i % 10 or i == 500}
    query = random_vectors(1, seed=9)[0]
    for among in (np.arange(100, 300), np.array([5, 7, 500, 10, 9999]), np.arange(0, 600)):
        allowed = {i: rows[i] for i in among.tolist() if i in rows}
        found = shard.search_among(query, among, 5).ids[0]
        assert found[found >= 0].tolist() == exact(allowed, query, 5, "l2")


def test_a_filter_may_name_ids_twice_or_none_that_is_there(
    flat: Path, base_rows: dict[int, Vectors], open_shard: OpenShard
) -> None:
    shard = open_shard(flat)
    query = base_rows[9]
    assert shard.search_among(query, np.array([9, 9, 3, 3]), 4).ids[0, 2:].tolist() == [-1, -1]
    assert shard.search_among(query, np.array([1, -1, 10**15]), 2).ids.tolist() == [[-1, -1]]
    assert shard.search_among(query, np.array([], dtype=np.int64), 2).ids.tolist() == [[-1, -1]]


def test_rescoring_gives_exact_scores_in_place_of_those_of_codes(
    make_generation: MakeGeneration, random_vectors: RandomVectors, open_shard: OpenShard
) -> None:
    base, query = random_vectors(400, seed=2), random_vectors(1, seed=4)
    layout = Layout(kind="ivf-rabitq", lists=4, effort=4, rescore=100)
    hits = open_shard(make_generation(base, layout=layout, metric="l2")).search(query, 5)
    expected = exact(dict(enumerate(base)), query[0], 5, "l2")
    assert hits.ids[0].tolist() == expected
    distances = ((base[expected] - query) ** 2).sum(axis=1)
    np.testing.assert_allclose(hits.scores[0], distances, rtol=1e-5)


def test_queries_whose_candidates_are_many_are_rescored_a_part_at_a_time(
    make_generation: MakeGeneration,
    random_vectors: RandomVectors,
    open_shard: OpenShard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = Layout(kind="ivf-rabitq", lists=4, effort=4, rescore=10)
    shard = open_shard(make_generation(random_vectors(400, seed=2), layout=layout))
    queries = random_vectors(7, seed=4)
    together = shard.search(queries, 5)
    monkeypatch.setattr("serving.index.segment.RESCORED_BYTES", 3 * 5 * 10 * 4 * 8)  # three at once
    assert len(shard.segment.parts_of(queries, 5)) == 3
    apart = shard.search(queries, 5)
    assert apart.ids.tolist() == together.ids.tolist()
    assert apart.scores.tolist() == together.scores.tolist()


def test_more_effort_looks_into_more_lists(
    make_generation: MakeGeneration, random_vectors: RandomVectors, open_shard: OpenShard
) -> None:
    base, query = random_vectors(2_000, seed=2), random_vectors(1, seed=4)
    layout = Layout(kind="ivf-flat", lists=32, effort=1)
    shard = open_shard(make_generation(base, layout=layout))
    found = [int((shard.search(query, 1000, effort).ids >= 0).sum()) for effort in (0, 1, 8, 10**6)]
    assert found[0] == found[1] < found[2] < found[3] == 1000
    assert shard.search(query, 3, 32).ids[0].tolist() == exact(
        dict(enumerate(base)), query[0], 3, "inner_product"
    )


def test_a_shard_without_a_row_answers_and_takes_writes(
    make_generation: MakeGeneration,
    random_vectors: RandomVectors,
    open_shard: OpenShard,
    compact_now: CompactNow,
) -> None:
    generation = make_generation(random_vectors(1), np.array([0]), shards=2)  # 0 is on shard 0
    shard = open_shard(generation, 1)
    query = random_vectors(2, seed=1)
    assert shard.search(query, 3).ids.tolist() == [[-1] * 3] * 2
    assert shard.search_among(query[0], np.array([0, 1]), 2).ids.tolist() == [[-1, -1]]
    assert shard.lookup(np.array([0, 1]))[1].tolist() == [False, False]
    upsert(shard, [1], query[:1])
    assert shard.search(query, 1).ids.tolist() == [[1], [1]]
    delete(shard, [1])
    compact_now(shard)
    assert shard.counts().rows == 0
    assert shard.search(query, 1).ids.tolist() == [[-1], [-1]]
