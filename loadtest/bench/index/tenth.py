"""45 GB of vectors and nodes of 16 GB, at a tenth: four nodes, each held to 1.6 GB by the kernel."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np

from loadtest.bench.index.client import post, recall, search_all
from loadtest.bench.index.exact import K
from loadtest.bench.index.stack import (
    Bench,
    Node,
    build,
    gateway,
    memory_limit,
    node,
    write_placement,
)
from loadtest.bench.index.vectors import CHUNK_ROWS, Ids, Vectors, queries_near
from models.manifest import Record

ROWS = 3_000_000
NODES = 4
LIMIT_BYTES = 1_600_000_000
LISTS = 2048
NPROBE = 64
QUERIES = 200
LOOKUPS = 500


class NodeMemory(Record):
    """One node while it answered. `limited` is false where the kernel gave us no control group."""

    limited: bool
    resident_bytes: dict[str, int]
    """By process."""
    peak_charged_bytes: int | None
    """The most that the kernel charged to it, page cache included."""

    @property
    def total_resident_bytes(self) -> int:
        """All its processes."""
        return sum(self.resident_bytes.values())


class TenthPart(Record):
    """What this part found."""

    rows: int
    limit_bytes: int
    vectors_bytes: int
    nodes: list[NodeMemory]
    recall_at_10: float
    lookups: int
    lookups_right: int
    plan: list[str]


def measure(bench: Bench, vectors_path: Path, vectors: Vectors) -> TenthPart:
    """Serve all rows, search, look up, and see what the nodes took."""
    with limited_nodes(bench, vectors_path) as (placement, nodes, groups):
        with gateway(bench, placement) as address:
            queries = queries_near(vectors, QUERIES, seed=2)
            found = search_all(address, queries, K, NPROBE)
            right = right_lookups(address, vectors)
        memory = [memory_of(one, group) for one, group in zip(nodes, groups, strict=True)]
    return TenthPart(
        rows=len(vectors),
        limit_bytes=LIMIT_BYTES,
        vectors_bytes=vectors.nbytes,
        nodes=memory,
        recall_at_10=recall(found, exact_ids_streamed(vectors, queries)),
        lookups=LOOKUPS,
        lookups_right=right,
        plan=full_plan(),
    )


@contextlib.contextmanager
def limited_nodes(
    bench: Bench, vectors: Path
) -> Iterator[tuple[Path, list[Node], list[Path | None]]]:
    """Four nodes with a shard each: the placement, the nodes, and the group that holds each."""
    index = bench.indexes / "tenth"
    options = ("--layout", "ivf-sq8", "--lists", str(LISTS), "--effort", str(NPROBE))
    generation = build(index, "g1", "--vectors", str(vectors), "--shards", str(NODES), *options)
    with contextlib.ExitStack() as up:
        groups = [up.enter_context(memory_limit(f"{n}", LIMIT_BYTES)) for n in range(NODES)]
        nodes = [
            up.enter_context(node(bench, generation, [n], f"tenth-{n}", LIMIT_BYTES, groups[n]))
            for n in range(NODES)
        ]
        placement = bench.work / "tenth-placement.json"
        write_placement(placement, generation, [[one.grpc] for one in nodes])
        yield placement, nodes, groups


def right_lookups(address: str, vectors: Vectors) -> int:
    """How many of some rows come back as they were, component by component."""
    ids = np.sort(np.random.default_rng(3).choice(len(vectors), LOOKUPS, replace=False))
    rows = post(address, "/v1/lookup", {"ids": ids.tolist()})["data"]
    return sum(
        row["found"] and np.array_equal(np.array(row["vector"], np.float32), vectors[row["id"]])
        for row in rows
    )


def memory_of(one: Node, group: Path | None) -> NodeMemory:
    """What a node takes now, and the most it was charged for."""
    peak = int((group / "memory.max_usage_in_bytes").read_text()) if group else None
    return NodeMemory(
        limited=group is not None,
        resident_bytes=one.resident_bytes(),
        peak_charged_bytes=peak,
    )


def exact_ids_streamed(vectors: Vectors, queries: Vectors) -> Ids:
    """The ids [N, k] with the largest inner products, a part of the rows at a time."""
    best_ids = np.empty((len(queries), 0), dtype=np.int64)
    best = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(0, len(vectors), CHUNK_ROWS):
        part = np.asarray(vectors[start : start + CHUNK_ROWS])
        scores, ids = faiss.knn(queries, part, K, metric=faiss.METRIC_INNER_PRODUCT)
        best = np.concatenate([best, scores], axis=1)
        best_ids = np.concatenate([best_ids, ids + start], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :K]
        best = np.take_along_axis(best, order, axis=1)
        best_ids = np.take_along_axis(best_ids, order, axis=1)
    return best_ids


def full_plan() -> list[str]:
    """What the planner says of the full case, line by line."""
    command = [sys.executable, "-m", "serving.index", "plan", "--rows", "29.3M", "--dim", "384"]
    command += ["--node-memory", "16GB", "--recall", "0.95"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines()
