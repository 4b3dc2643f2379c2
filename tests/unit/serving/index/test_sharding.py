from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.index import faiss_index
from serving.index.faiss_index import METRICS, faiss
from serving.index.generation import TRAINED_NAME, read_generation
from serving.index.layout import Kind, Layout
from serving.index.merge import Hits, merge
from serving.index.metric import Metric, Vectors
from serving.index.shard import Shard
from serving.index.sharding import shard_of

RandomVectors = Callable[..., Vectors]
MakeGeneration = Callable[..., Path]


def search_all(generation: Path, states: Path, queries: Vectors, k: int) -> Hits:
    """What a router would answer."""
    described = read_generation(generation)
    with ExitStack() as opened:
        parts = []
        for number in range(described.shards):
            shard = Shard(generation, number, states / str(number))
            opened.callback(shard.close)
            parts.append(shard.search(queries, k))
    return merge(parts, k, described.metric)


@given(st.lists(st.integers(0, 2**63 - 1), max_size=50), st.integers(1, 64))
def test_an_id_lives_on_one_shard_whatever_it_is_asked_with(ids: list[int], shards: int) -> None:
    together = shard_of(np.array(ids, dtype=np.int64), shards)
    alone = [int(shard_of(np.array([one]), shards)[0]) for one in ids]
    assert together.tolist() == alone
    assert all(0 <= shard < shards for shard in alone)


def test_the_shard_of_an_id_never_changes() -> None:
    ids = np.array([0, 1, 2, 3, 10**6, 2**63 - 1])
    assert shard_of(ids, 4).tolist() == [0, 1, 2, 0, 2, 1]


@pytest.mark.parametrize("step", [1, 2, 64, 1000])
def test_ids_in_a_row_spread_evenly(step: int) -> None:
    counts = np.bincount(shard_of(np.arange(0, 80_000 * step, step), 8), minlength=8)
    assert counts.min() > 9_600
    assert counts.max() < 10_400


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("shards", [1, 2, 3, 7])
def test_flat_shards_find_what_one_flat_index_finds(
    random_vectors: RandomVectors,
    make_generation: MakeGeneration,
    tmp_path: Path,
    metric: Metric,
    shards: int,
) -> None:
    rows, queries = random_vectors(3_000, 16), random_vectors(64, 16, seed=1)
    single = faiss.IndexFlat(16, METRICS[metric])
    single.add(rows)
    _, expected = single.search(queries, 20)
    generation = make_generation(rows, metric=metric, shards=shards)
    found = search_all(generation, tmp_path, queries, 20)
    assert found.ids.tolist() == expected.tolist()


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("kind", ["ivf-flat", "ivf-sq8"])
def test_ivf_shards_find_what_one_index_with_their_centroids_finds(
    random_vectors: RandomVectors,
    make_generation: MakeGeneration,
    tmp_path: Path,
    kind: Kind,
    metric: Metric,
) -> None:
    rows, queries = random_vectors(3_000, 16), random_vectors(64, 16, seed=1)
    layout = Layout(kind=kind, lists=16, effort=4)
    generation = make_generation(rows, metric=metric, layout=layout, shards=3)
    single = faiss_index.load(generation / TRAINED_NAME)
    faiss_index.add(single, rows)
    single.nprobe = 4
    _, expected = single.search(queries, 20)
    found = search_all(generation, tmp_path, queries, 20)
    assert found.ids.tolist() == expected.tolist()


def test_more_results_than_rows_are_all_rows(
    random_vectors: RandomVectors, make_generation: MakeGeneration, tmp_path: Path
) -> None:
    generation = make_generation(random_vectors(10), shards=4)
    found = search_all(generation, tmp_path, random_vectors(1, seed=1), 25)
    assert sorted(found.ids[0, :10].tolist()) == list(range(10))
    assert found.ids[0, 10:].tolist() == [-1] * 15
