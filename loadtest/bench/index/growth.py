"""How latency and memory grow with rows and with shards, all on one machine."""

from collections.abc import Callable
from pathlib import Path

from loadtest.bench.index.client import load
from loadtest.bench.index.exact import K
from loadtest.bench.index.plain import load_plain, open_plain
from loadtest.bench.index.stack import Bench, build, gateway, node, write_placement
from loadtest.bench.index.vectors import Vectors, queries_near, write_copies
from models.manifest import Record

ROWS = (100_000, 1_000_000, 3_000_000)
SHARDS = (1, 2, 4, 8)
LISTS = 1024
NPROBE = 32
SECONDS = 4.0
MEMORY_BYTES = 8_000_000_000


class Point(Record):
    """One number of rows on one number of shards."""

    rows: int
    shards: int
    p50_ms: float
    p99_ms: float
    faiss_p50_ms: float
    """Of FAISS in one process on the same files, a thread a shard."""
    queries_per_s_at_8: float
    resident_bytes: int


def measure(
    bench: Bench, real: Vectors, vectors: Callable[[int], Path], announce: Callable[[str], None]
) -> list[Point]:
    """Every combination; indexes are built once and kept."""
    points = []
    for rows in ROWS:
        path = vectors(rows)
        write_copies(real, rows, path)
        for shards in SHARDS:
            announce(f"{rows:,} rows on {shards} shards")
            points.append(point(bench, real, path, rows, shards))
    return points


def point(bench: Bench, real: Vectors, path: Path, rows: int, shards: int) -> Point:
    """Build, serve on one node, ask."""
    index = bench.indexes / f"growth_{rows}_{shards}"
    options = ("--layout", "ivf-sq8", "--lists", str(LISTS), "--effort", str(NPROBE))
    generation = build(index, "g1", "--vectors", str(path), "--shards", str(shards), *options)
    queries = queries_near(real, 1000, seed=5)
    name = f"growth-{rows}-{shards}"
    with node(bench, generation, range(shards), name, MEMORY_BYTES) as one:
        placement = bench.work / f"{name}.json"
        write_placement(placement, generation, [[one.grpc]] * shards)
        with gateway(bench, placement) as address:
            alone = load(address, queries, K, NPROBE, 1, SECONDS)
            faiss = load_plain(open_plain(generation, NPROBE), queries, 1, 1, SECONDS)
            together = load(address, queries, K, NPROBE, 8, SECONDS)
        resident = sum(one.resident_bytes().values())
    return Point(
        rows=rows,
        shards=shards,
        p50_ms=alone.p50_ms,
        p99_ms=alone.p99_ms,
        faiss_p50_ms=faiss.p50_ms,
        queries_per_s_at_8=together.queries_per_s,
        resident_bytes=resident,
    )
