"""What the tests of a shard have in common."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from serving.index.metric import Ids, Metric, Vectors
from serving.index.shard import Shard

RandomVectors = Callable[..., Vectors]
MakeGeneration = Callable[..., Path]
OpenShard = Callable[..., Shard]
MakeSegment = Callable[[Shard, list[Path], Path], None]
CompactNow = Callable[[Shard], None]

DIM = 8
NOTHING: Vectors = np.empty((0, 0), np.float32)


def upsert(shard: Shard, ids: list[int], vectors: Vectors, version_ns: int = 1) -> int:
    return shard.write([("upsert", version_ns, np.array(ids), vectors)])


def delete(shard: Shard, ids: list[int], version_ns: int = 1) -> int:
    return shard.write([("delete", version_ns, np.array(ids), NOTHING)])


def exact(rows: dict[int, Vectors], query: Vectors, k: int, metric: Metric) -> list[int]:
    """Ids of the best k, by plain arithmetic."""
    matrix = np.stack([*rows.values()]).astype(np.float64)
    scores = -matrix @ query if metric == "inner_product" else ((matrix - query) ** 2).sum(axis=1)
    ids: Ids = np.array([*rows])
    return ids[np.argsort(scores, kind="stable")[:k]].tolist()


def check_holds(shard: Shard, rows: dict[int, Vectors], gone: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    """The shard looks up and counts these rows bit for bit, and none of those that are gone."""
    found_rows, found = shard.lookup(np.array([*rows], dtype=np.int64))
    assert found.all()
    np.testing.assert_array_equal(found_rows, np.stack([*rows.values()]))
    assert not shard.lookup(np.array(sorted(gone - rows.keys()), dtype=np.int64))[1].any()
    assert shard.counts().rows == len(rows)


def check_searches(shard: Shard, rows: dict[int, Vectors], k: int = 10) -> None:
    """It finds what is best of these rows, all of them together and among some."""
    queries = np.random.default_rng(99).normal(size=(3, DIM)).astype(np.float32)
    metric = shard.generation.metric
    expected = [exact(rows, query, k, metric) for query in queries]
    assert shard.search(queries, k).ids[:, : len(rows)].tolist() == expected
    some = {row_id: row for row_id, row in rows.items() if row_id % 5 < 2}
    among = np.array([*some, 10**9], dtype=np.int64)
    if some:
        found = shard.search_among(queries[0], among, k).ids[0]
        assert found[found >= 0].tolist() == exact(some, queries[0], k, metric)
