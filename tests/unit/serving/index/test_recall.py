"""Live recall: answers of a shard's index compared with exact ones, in the background."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.index import recall
from serving.index.layout import Layout
from serving.index.metric import NO_ID, Metric, Vectors
from serving.index.recall import (
    K,
    RecallSampler,
    View,
    exact_search,
    live_rows,
    recall_at_k,
)
from serving.index.shard import Shard
from tests.unit.serving.index.fake_node import exact

ROWS, LISTS = 1000, 16
IDS = np.arange(ROWS, dtype=np.int64) * 3
COARSE = Layout(kind="ivf-flat", lists=LISTS, effort=1)

RandomVectors = Callable[..., Vectors]
MakeGeneration = Callable[..., Path]
OpenShard = Callable[..., Shard]


@pytest.fixture(scope="module")
def vectors(random_vectors: RandomVectors) -> Vectors:
    return random_vectors(ROWS)


@pytest.fixture(scope="module")
def coarse(make_generation: MakeGeneration, vectors: Vectors) -> Path:
    """An index that looks into one list of 16 and misses much."""
    return make_generation(vectors, IDS, layout=COARSE)


def always() -> RecallSampler:
    return RecallSampler(share=1.0, pause_s=0.0)


@pytest.mark.parametrize(
    ("found", "expected", "share"),
    [
        ([1, 2, 3], [3, 2, 1], 1.0),
        ([1, 2, NO_ID], [1, 2, 3], 2 / 3),
        ([1, NO_ID, NO_ID], [1, NO_ID, NO_ID], 1.0),
        ([NO_ID, NO_ID], [4, 5], 0.0),
        ([4, 5], [NO_ID, NO_ID], None),
    ],
)
def test_recall_is_the_share_of_the_exact_results_that_were_found(
    found: list[int], expected: list[int], share: float | None
):
    assert recall_at_k(np.array(found), np.array(expected)) == share


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("chunk_rows", [1, 7, 500, 1000, 4096])
def test_the_exact_answer_reads_every_live_row_once(
    make_generation: MakeGeneration,
    open_shard: OpenShard,
    vectors: Vectors,
    monkeypatch: pytest.MonkeyPatch,
    metric: Metric,
    chunk_rows: int,
):
    monkeypatch.setattr(recall, "CHUNK_ROWS", chunk_rows)
    count = 60 if chunk_rows < 500 else ROWS
    shard = open_shard(make_generation(vectors[:count], IDS[:count], metric=metric))
    shard.write([("delete", 1, IDS[:count:2], np.empty((0, 0), np.float32))])
    view = shard.view()
    assert live_rows(view).tolist() == [False, True] * (count // 2)
    hits = exact_search(vectors[0], K, view)
    live = slice(1, count, 2)
    expected = exact(IDS[live][: count // 2], vectors[live][: count // 2], vectors[:1], K, metric)
    assert hits.ids.tolist() == expected.tolist()


def test_a_comparison_says_what_the_index_misses(
    open_shard: OpenShard, coarse: Path, vectors: Vectors
):
    shard, sampler, recalls = open_shard(coarse), always(), []
    for query in vectors[:40]:
        sampler.offer(query, 0, shard.view)
        sampler.wait()
        recalls.append(
            np.isin(exact(IDS, vectors, query[None], K), shard.search(query[None], K).ids)
        )
    assert sampler.samples == 40
    assert sampler.recall == pytest.approx(np.mean(recalls))
    assert 0.1 < sampler.recall < 0.9


def test_the_effort_of_the_query_is_that_of_the_comparison(
    open_shard: OpenShard, coarse: Path, vectors: Vectors
):
    shard, sampler = open_shard(coarse), always()
    for query in vectors[:10]:
        sampler.offer(query, LISTS, shard.view)
        sampler.wait()
    assert sampler.recall == 1.0


def test_what_was_deleted_and_written_since_is_not_held_against_the_index(
    make_generation: MakeGeneration, open_shard: OpenShard, vectors: Vectors
):
    shard, sampler = open_shard(make_generation(vectors, IDS)), always()
    shard.write([("delete", 1, IDS[:900], np.empty((0, 0), np.float32))])
    shard.write([("upsert", 2, IDS[900:950], -vectors[900:950])])
    for query in vectors[:10]:
        sampler.offer(query, 0, shard.view)
        sampler.wait()
    assert (sampler.samples, sampler.recall) == (10, 1.0)


def test_a_comparison_goes_on_with_what_it_began_with(
    open_shard: OpenShard, coarse: Path, vectors: Vectors
):
    shard = open_shard(coarse)
    view = shard.view()
    shard.write([("delete", 1, IDS[:500], np.empty((0, 0), np.float32))])
    shard.view()
    assert live_rows(view).all()
    assert (
        exact_search(vectors[0], K, view).ids.tolist()
        == exact(IDS, vectors, vectors[:1], K).tolist()
    )


def test_an_empty_shard_is_compared_with_nothing(
    make_generation: MakeGeneration, open_shard: OpenShard, vectors: Vectors
):
    generation = make_generation(vectors[:1], IDS[:1], shards=2)
    sampler = always()
    for number in range(2):
        shard = open_shard(generation, number, generation.parent / f"state-{number}")
        sampler.offer(vectors[0], 0, shard.view)
        sampler.wait()
    assert (sampler.samples, sampler.recall) == (1, 1.0)


def test_nothing_is_said_before_the_first_comparison():
    assert (RecallSampler().recall, RecallSampler().samples) == (None, 0)


@pytest.mark.parametrize(("share", "pause_s"), [(0.0, 0.0), (1.0, 3600.0)])
def test_few_queries_are_compared(
    open_shard: OpenShard, coarse: Path, vectors: Vectors, share: float, pause_s: float
):
    shard, sampler = open_shard(coarse), RecallSampler(share, pause_s)
    for query in vectors[:50]:
        sampler.offer(query, 0, shard.view)
        sampler.wait()
    assert sampler.samples == (1 if share else 0)


def test_one_comparison_runs_at_a_time_and_does_not_hold_up_queries(
    open_shard: OpenShard, coarse: Path, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
):
    held, running = threading.Event(), []

    def slow(query: Vectors, k: int, view: View, duty: float) -> recall.Hits:
        running.append(duty)
        assert held.wait(30)
        return exact_search(query, k, view)

    monkeypatch.setattr(recall, "exact_search", slow)
    shard, sampler = open_shard(coarse), always()
    for query in vectors[:20]:
        sampler.offer(query, 0, shard.view)
    held.set()
    sampler.wait()
    assert (running, sampler.samples) == ([recall.DUTY], 1)
