"""The index against FAISS in one process: the same shard files, the same threads, the same two cores.

Asked in two ways: by a router alone, and over HTTP through the gateway that has one.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from loadtest.bench.index.client import Load, load
from loadtest.bench.index.exact import K
from loadtest.bench.index.plain import load_plain, open_plain
from loadtest.bench.index.stack import Bench, gateway
from loadtest.bench.index.tenth import NPROBE, limited_nodes
from loadtest.bench.index.vectors import Vectors, queries_near
from loadtest.bench.ratios import Spread, ratios, spread
from loadtest.errors import StackError
from models.manifest import Record

ROUNDS = 5
SECONDS = 4.0
CALLERS = 32
QUERIES = 2000


class Layer(Record):
    """One way to ask the index, against FAISS in the same rounds."""

    at_1: list[Load]
    at_32: list[Load]
    throughput_ratio: Spread
    """At 32 callers / FAISS called by 32 threads."""
    batched_ratio: Spread
    """At 32 callers / FAISS given 32 queries in one call."""
    overhead_ms: Spread
    """p50 at one caller less that of FAISS."""


class SpeedPart(Record):
    """Medians and ranges over rounds in which every way took its turn."""

    rows: int
    faiss_at_1: list[Load]
    faiss_at_32: list[Load]
    faiss_batched: list[Load]
    router: Layer
    gateway: Layer


def measure(bench: Bench, vectors_path: Path, vectors: Vectors) -> SpeedPart:
    """Rounds of windows, every other one backwards, so that drift favours none."""
    queries = queries_near(vectors, QUERIES, seed=4)
    saved = bench.work / "speed-queries.npy"
    np.save(saved, queries)
    with (
        limited_nodes(bench, vectors_path) as (placement, _, _),
        gateway(bench, placement) as address,
    ):
        plain = open_plain(bench.indexes / "tenth/generations/g1", NPROBE)
        ways: dict[str, Callable[[], Load]] = {
            "gateway_at_1": lambda: load(address, queries, K, NPROBE, 1, SECONDS),
            "gateway_at_32": lambda: load(address, queries, K, NPROBE, CALLERS, SECONDS),
            "router_at_1": lambda: load_router(placement, saved, 1),
            "router_at_32": lambda: load_router(placement, saved, CALLERS),
            "faiss_at_1": lambda: load_plain(plain, queries, 1, 1, SECONDS),
            "faiss_at_32": lambda: load_plain(plain, queries, CALLERS, 1, SECONDS),
            "faiss_batched": lambda: load_plain(plain, queries, 1, CALLERS, SECONDS),
        }
        found: dict[str, list[Load]] = {name: [] for name in ways}
        for number in range(ROUNDS):
            for name in list(ways)[:: 1 if number % 2 == 0 else -1]:
                found[name].append(ways[name]())
    return SpeedPart(
        rows=len(vectors),
        **{name: loads for name, loads in found.items() if name.startswith("faiss")},
        router=layer("router", found),
        gateway=layer("gateway", found),
    )


def layer(name: str, found: dict[str, list[Load]]) -> Layer:
    """What one way is against FAISS."""
    at_1, at_32 = found[f"{name}_at_1"], found[f"{name}_at_32"]
    overheads_ms = [a.p50_ms - b.p50_ms for a, b in zip(at_1, found["faiss_at_1"], strict=True)]
    return Layer(
        at_1=at_1,
        at_32=at_32,
        throughput_ratio=spread(ratios(rates(at_32), rates(found["faiss_at_32"]))),
        batched_ratio=spread(ratios(rates(at_32), rates(found["faiss_batched"]))),
        overhead_ms=spread(overheads_ms),
    )


def load_router(placement: Path, queries: Path, callers: int) -> Load:
    """`python -m serving.index probe`: searches from one event loop. Raises StackError."""
    command = [sys.executable, "-m", "serving.index", "probe", str(placement)]
    command += ["--queries", str(queries), "--k", str(K), "--effort", str(NPROBE)]
    command += ["--callers", str(callers), "--seconds", str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"the shards were not searched: {done.stderr.strip()[-300:]}")
    said = json.loads(done.stdout)
    return Load(client_cpu_share=said.pop("router_cpu_share"), **said)


def rates(loads: Sequence[Load]) -> list[float]:
    """Queries per second of each."""
    return [one.queries_per_s for one in loads]
