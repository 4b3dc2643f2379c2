"""Sharded flat search against one FAISS index, and the recall of the layout that is served by default."""

from pathlib import Path

import faiss
import numpy as np

from loadtest.bench.index.client import recall, search_all
from loadtest.bench.index.stack import Bench, build, gateway
from loadtest.bench.index.vectors import Ids, Vectors, queries_near
from models.manifest import Record

K = 10
QUERIES = 500
SHARDS = 4
EFFORTS = (4, 8, 16, 32, 64, 128)
NEEDED_RECALL = 0.95
METRICS = {"inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}


class Exactness(Record):
    """How many of the queries were answered with the very ids of one index, in order."""

    metric: str
    rows: int
    queries: int
    identical: int


class RecallAt(Record):
    """Recall@10 of the sharded IVF+SQ8 index at one effort."""

    nprobe: int
    recall_at_10: float


class ExactPart(Record):
    """What this part found."""

    exactness: list[Exactness]
    recall: list[RecallAt]
    chosen_nprobe: int


def measure(bench: Bench, vectors: Path, real: Vectors) -> ExactPart:
    """Build, serve and ask each of the three indexes."""
    queries = queries_near(real, QUERIES, seed=1)
    exactness = [flat(bench, vectors, real, queries, metric) for metric in METRICS]
    truth = exact_ids(real, queries, "inner_product")
    index = bench.indexes / "ivf"
    build(index, "g1", "--vectors", str(vectors), "--layout", "ivf-sq8", "--shards", str(SHARDS))
    with gateway(bench, index) as address:
        found = [
            RecallAt(
                nprobe=effort,
                recall_at_10=recall(search_all(address, queries, K, effort), truth),
            )
            for effort in EFFORTS
        ]
    enough = [at.nprobe for at in found if at.recall_at_10 >= NEEDED_RECALL]
    return ExactPart(
        exactness=exactness, recall=found, chosen_nprobe=min(enough, default=EFFORTS[-1])
    )


def flat(bench: Bench, vectors: Path, real: Vectors, queries: Vectors, metric: str) -> Exactness:
    """One metric: every id in every place must be that of the single index."""
    index = bench.indexes / f"flat_{metric}"
    options = ("--layout", "flat", "--shards", str(SHARDS), "--metric", metric)
    build(index, "g1", "--vectors", str(vectors), *options)
    with gateway(bench, index) as address:
        found = search_all(address, queries, K, at_once=8)
    expected = exact_ids(real, queries, metric)
    return Exactness(
        metric=metric,
        rows=len(real),
        queries=len(queries),
        identical=int((found == expected).all(axis=1).sum()),
    )


def exact_ids(real: Vectors, queries: Vectors, metric: str) -> Ids:
    """The ids [N, k] of one flat FAISS index.

    Without BLAS, as FAISS answers a few queries at a time: its sums differ in the last bit otherwise.
    """
    faiss.cvar.distance_compute_blas_threshold = len(queries) + 1
    index = faiss.IndexFlat(real.shape[1], METRICS[metric])
    index.add(np.ascontiguousarray(real))
    ids: Ids = index.search(queries, K)[1]
    return ids
