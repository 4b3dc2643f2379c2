"""FAISS in this process, on the files that the shards serve: what the index is measured against."""

import threading
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from loadtest.bench.index.client import Load
from loadtest.bench.index.exact import K
from loadtest.bench.index.vectors import Vectors


def open_plain(generation: Path, nprobe: int) -> Any:
    """The IVF shards of a generation, put together in FAISS' own way: one thread a shard, as Triton has."""
    paths = sorted(generation.glob("shard-*/index.faiss"))
    parts: list[Any] = [faiss.read_index(str(path)) for path in paths]
    together: Any = faiss.IndexShards(parts[0].d, True, False)  # type: ignore[call-arg]
    for part in parts:
        part.nprobe = nprobe
        together.add_shard(part)  # which keeps it alive
    return together


def load_plain(index: Any, queries: Vectors, callers: int, at_once: int, seconds: float) -> Load:
    """Threads that call FAISS again as soon as it returns, with `at_once` queries a call."""
    faiss.omp_set_num_threads(1)
    latencies_s: list[float] = []
    end_s = time.perf_counter() + seconds

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
        queries_per_s=len(latencies_s) * at_once / seconds,
        p50_ms=p50_s * 1e3,
        p99_ms=p99_s * 1e3,
        client_cpu_share=1.0,
    )
