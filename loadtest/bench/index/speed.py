"""The index over HTTP against FAISS in one process: the same shard files, the same threads."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from loadtest.bench.index.client import Load, load
from loadtest.bench.index.exact import K
from loadtest.bench.index.stack import Bench, gateway
from loadtest.bench.index.tenth import NODES, NPROBE, limited_nodes
from loadtest.bench.index.vectors import Vectors, queries_near
from loadtest.bench.ratios import Spread, ratios, spread
from models.manifest import Record

ROUNDS = 5
SECONDS = 4.0
CALLERS = 32
QUERIES = 2000


class SpeedPart(Record):
    """Medians and ranges over rounds in which every way took its turn."""

    rows: int
    ours_at_1: list[Load]
    ours_at_32: list[Load]
    faiss_at_1: list[Load]
    faiss_at_32: list[Load]
    faiss_batched: list[Load]
    throughput_ratio: Spread
    """Ours / FAISS called by 32 threads, at 32 callers."""
    batched_ratio: Spread
    """Ours / FAISS given 32 queries in one call."""
    overhead_ms: Spread
    """p50 of ours less that of FAISS, at one caller."""


def measure(bench: Bench, vectors_path: Path, vectors: Vectors) -> SpeedPart:
    """Rounds of windows, every other one backwards, so that drift favours none."""
    queries = queries_near(vectors, QUERIES, seed=4)
    with (
        limited_nodes(bench, vectors_path) as (placement, _, _),
        gateway(bench, placement) as address,
    ):
        plain = open_plain(bench.indexes / "tenth/generations/g1")
        ways: dict[str, Callable[[], Load]] = {
            "ours_at_1": lambda: load(address, queries, K, NPROBE, 1, SECONDS),
            "ours_at_32": lambda: load(address, queries, K, NPROBE, CALLERS, SECONDS),
            "faiss_at_1": lambda: load_plain(plain, queries, 1, 1),
            "faiss_at_32": lambda: load_plain(plain, queries, CALLERS, 1),
            "faiss_batched": lambda: load_plain(plain, queries, 1, CALLERS),
        }
        found: dict[str, list[Load]] = {name: [] for name in ways}
        for number in range(ROUNDS):
            for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
                found[name].append(ways[name]())
    ours = rates(found["ours_at_32"])
    overheads = [
        a.p50_ms - b.p50_ms for a, b in zip(found["ours_at_1"], found["faiss_at_1"], strict=True)
    ]
    return SpeedPart(
        rows=len(vectors),
        **found,
        throughput_ratio=spread(ratios(ours, rates(found["faiss_at_32"]))),
        batched_ratio=spread(ratios(ours, rates(found["faiss_batched"]))),
        overhead_ms=spread(overheads),
    )


def rates(loads: Sequence[Load]) -> list[float]:
    """Queries per second of each."""
    return [one.queries_per_s for one in loads]


def open_plain(generation: Path) -> Any:
    """FAISS' own way to put shards together, one thread a shard as the nodes have."""
    paths = [generation / f"shard-{shard:04d}/index.faiss" for shard in range(NODES)]
    parts: list[Any] = [faiss.read_index(str(path)) for path in paths]
    together: Any = faiss.IndexShards(parts[0].d, True, False)  # type: ignore[call-arg]
    for part in parts:
        part.nprobe = NPROBE
        together.add_shard(part)  # which keeps it alive
    return together


def load_plain(index: Any, queries: Vectors, callers: int, at_once: int) -> Load:
    """Threads that call FAISS again as soon as it returns, with `at_once` queries a call."""
    faiss.omp_set_num_threads(1)
    latencies_s: list[float] = []
    end_s = time.perf_counter() + SECONDS

    def caller(number: int) -> None:
        faiss.omp_set_num_threads(1)
        at = number * at_once
        while (began_s := time.perf_counter()) < end_s:
            batch = queries[at % len(queries) :][:at_once]
            index.search(batch, K)
            latencies_s.append(time.perf_counter() - began_s)
            at += callers * at_once

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50_s, p99_s = np.percentile(latencies_s, [50, 99])
    return Load(
        queries_per_s=len(latencies_s) * at_once / SECONDS,
        p50_ms=p50_s * 1e3,
        p99_ms=p99_s * 1e3,
        client_cpu_share=1.0,
    )
