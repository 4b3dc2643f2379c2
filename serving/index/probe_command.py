"""`python -m serving.index probe`: how fast the shards of a placement answer, without a gateway in front.

Closed loops: what the shards can do at a number of callers; what users feel at a rate is the load test's
question.
"""

import argparse
import asyncio
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.errors import IndexBuildError, IndexUnavailableError
from serving.index.metric import Vectors
from serving.index.router import Router
from serving.index.sources import NpySource

WARMUP_S = 0.5
DEADLINE_S = 10.0


@dataclass(frozen=True)
class Probe:
    """Searches for `queries` [N, dim] again and again, `callers` at a time, for `seconds` after a warm-up."""

    placement: Path
    queries: Vectors
    k: int
    effort: int
    callers: int
    seconds: float


def add_probe(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`probe`: searches per second and latency."""
    probe = commands.add_parser("probe", help="how fast the shards of a placement answer")
    add = probe.add_argument
    add("placement", type=Path, help="placement.json of a running index")
    add("--queries", type=Path, required=True, help=".npy file of vectors [N, dim]")
    add("--k", type=int, default=10, help="results of a search")
    add("--effort", type=int, default=0, help="nprobe or efSearch (default: the index's own)")
    add("--callers", type=int, default=1, help="searches under way at a time")
    add("--seconds", type=float, default=10.0)
    probe.set_defaults(command=run_probe)


def run_probe(options: argparse.Namespace) -> None:
    """Print one JSON object. Raises ServingError."""
    probe = Probe(
        placement=options.placement,
        queries=read_queries(options.queries),
        k=options.k,
        effort=options.effort,
        callers=options.callers,
        seconds=options.seconds,
    )
    print(json.dumps(asyncio.run(measure(probe))), flush=True)


def read_queries(path: Path) -> Vectors:
    """All vectors [N, dim] of a file. Raises IndexBuildError."""
    chunks = [vectors for _, vectors in NpySource(path).chunks(0)]
    if not chunks:
        raise IndexBuildError(f"{path} holds no vectors: give some to search for")
    return np.concatenate(chunks)


async def measure(probe: Probe) -> dict[str, float]:
    """Searches per second, p50 and p99 in milliseconds, and the share of a core that the router took."""
    router = Router(probe.placement)
    calls_s: list[tuple[float, float]] = []  # when each began, when it was answered
    numbers = itertools.count()
    began_s, cpu_s = time.perf_counter(), time.process_time()
    end_s = began_s + WARMUP_S + probe.seconds

    async def caller() -> None:
        while (started_s := time.perf_counter()) < end_s:
            query = probe.queries[next(numbers) % len(probe.queries)][None]
            until_s = time.monotonic() + DEADLINE_S
            found = await router.search(query, probe.k, until_s, probe.effort)
            if found.missing:
                raise IndexUnavailableError(
                    f"shard {found.missing[0]} does not answer: a probe needs all of them"
                )
            calls_s.append((started_s, time.perf_counter()))

    try:
        await asyncio.gather(*(caller() for _ in range(probe.callers)))
    finally:
        await router.close()
    router_cpu_share = (time.process_time() - cpu_s) / (time.perf_counter() - began_s)
    return summary(np.array(calls_s), end_s - probe.seconds, end_s, router_cpu_share)


def summary(
    calls_s: Vectors, begin_s: float, end_s: float, router_cpu_share: float
) -> dict[str, float]:
    """Of the calls [n, 2] that were answered in a window."""
    inside = calls_s[(calls_s[:, 1] >= begin_s) & (calls_s[:, 1] < end_s)]
    if not len(inside):
        raise IndexUnavailableError("nothing was answered in this time: allow more --seconds")
    p50_s, p99_s = np.percentile(inside[:, 1] - inside[:, 0], [50, 99])
    return {
        "queries_per_s": len(inside) / (end_s - begin_s),
        "p50_ms": float(p50_s) * 1e3,
        "p99_ms": float(p99_s) * 1e3,
        "router_cpu_share": router_cpu_share,
    }
