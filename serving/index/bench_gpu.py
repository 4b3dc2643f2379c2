"""An index on a GPU against the same on the CPU: `python -m serving.index.bench_gpu --help`.

Searches go the way of a shard's, in one process, without Triton. Each batch size is timed in rounds, on one
after the other, after an untimed call. One JSON document goes to stdout. Without a GPU the CPU is measured
alone, which is how it is tested.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from models.hardware import hardware_facts
from serving.errors import ServingError, SettingsError
from serving.index.gpu_clone import cloner
from serving.index.gpu_devices import gpu_uses
from serving.index.gpu_options import add_gpu, settings_from
from serving.index.layout import Kind, Layout, suggested_code_bytes
from serving.index.metric import Metric, Vectors
from serving.index.plan import sized
from serving.index.quantities import count_of
from serving.index.segment import Segment
from serving.index.sources import open_vectors
from serving.index.trial import Sample, built, make_sample, mean_recall, segment_of

K = 10
BATCH_SIZES = (1, 32, 256)
CLUSTERS = 1_000  # of random vectors, which are otherwise equally far from one another
ROUNDS, CALLS = 5, 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Exit status 0, or 1 with a reason when a GPU that was asked for cannot be used."""
    options = parse(arguments)
    try:
        report = measure(options)
    except ServingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=2))
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.index.bench_gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--vectors", type=Path, help=".npy file [n, dim] (default: random ones in clusters)")
    add("--rows", default="1M", help="to index: that many of the file, or random ones")
    add("--dim", type=int, default=384, help="of random vectors")
    add("--metric", choices=get_args(Metric), default="inner_product")
    add("--layout", choices=get_args(Kind), default="ivf-sq8")
    add(
        "--effort",
        type=int,
        default=0,
        help="nprobe (default: a sixteenth of the lists) or efSearch",
    )
    add("--batch-sizes", type=int, nargs="+", default=list(BATCH_SIZES))
    add("--rounds", type=int, default=ROUNDS)
    add("--calls", type=int, default=CALLS, help="per round")
    add_gpu(parser)
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as JSON. Raises ServingError."""
    sample = make_sample(*vectors_of(options), K, options.metric)
    layout = layout_of(options, sample.rows.shape)
    segment = segment_of(None, layout, sample)
    (use,) = gpu_uses(settings_from(options), segment.generation, [len(sample.rows)])
    on = {"cpu": replace(segment, index=built(layout, sample))}
    if use is not None:
        on["gpu"] = replace(on["cpu"], clone=cloner(use, segment.generation)(on["cpu"].index))
    return {
        "hardware": hardware_facts(),
        "threads": os.cpu_count(),
        "rows": len(sample.rows),
        "dim": sample.rows.shape[1],
        "metric": options.metric,
        "layout": layout.words,
        "effort": layout.effort,
        "gpu": None if use is None else use.model_dump(),
        "recall_at_10": {name: mean_recall(one, sample, 0) for name, one in on.items()},
        "batches": [time_batch(on, sample, size, options) for size in options.batch_sizes],
    }


def vectors_of(options: argparse.Namespace) -> tuple[Vectors, Vectors]:
    """Rows [n, dim] to index and queries [N, dim] that are none of them."""
    count, asked = count_of(options.rows), max(options.batch_sizes)
    if options.vectors:
        given = open_vectors(options.vectors)
        count = min(count, len(given) - asked)
        if count <= 0:
            raise SettingsError(
                f"{options.vectors} holds {len(given)} vectors: give more than {asked}"
            )
        rows = np.asarray(given[: asked + count], dtype=np.float32)
        return rows[asked:], rows[:asked]
    chosen = np.random.default_rng(0)
    centers = chosen.normal(size=(CLUSTERS, options.dim)).astype(np.float32)
    near = chosen.integers(0, CLUSTERS, count + asked)
    vectors = chosen.standard_normal((count + asked, options.dim), dtype=np.float32)
    vectors += centers[near]
    return vectors[asked:], vectors[:asked]


def layout_of(options: argparse.Namespace, shape: tuple[int, ...]) -> Layout:
    """The layout, sized for so many rows."""
    kind = Layout(kind=options.layout, code_bytes=suggested_code_bytes(shape[1]))
    layout = sized(kind, shape[0])
    chosen = options.effort if layout.effort else 0  # a flat index takes none
    return layout.model_copy(update={"effort": chosen or layout.effort})


def time_batch(
    on: dict[str, Segment], sample: Sample, size: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Median and p99 of a call with so many queries, and queries per second, on each in turn."""
    queries = sample.queries[:size]
    took_s: dict[str, list[float]] = {name: [] for name in on}
    for _ in range(options.rounds):
        for name, segment in on.items():
            segment.search(queries, K, 0, None)
            for _ in range(options.calls):
                began_s = time.perf_counter()
                segment.search(queries, K, 0, None)
                took_s[name].append(time.perf_counter() - began_s)
    return {"queries": size} | {name: figures(times, size) for name, times in took_s.items()}


def figures(took_s: Sequence[float], queries: int) -> dict[str, float]:
    """What is told of the seconds of calls with so many queries."""
    return {
        "p50_ms": 1e3 * statistics.median(took_s),
        "p99_ms": 1e3 * float(np.percentile(took_s, 99)),
        "queries_per_s": queries * len(took_s) / sum(took_s),
    }


if __name__ == "__main__":
    sys.exit(main())
