"""Latency and throughput of all variants and the baseline, interleaved round by round in one process.

Timings drift on shared machines, so every round runs every encoder on the same texts, and ratios are
taken within rounds. Threads of the encoder before keep spinning for a few milliseconds after its last
call and would slow its successor: each turn therefore begins with a call that is not timed.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.manifest import Interval, Speed
from optimize.progress import progress
from optimize.quality import RESAMPLES, Encode
from optimize.recipe import SpeedRun

CALLS_PER_ROUND = 5
Seconds = npt.NDArray[np.float64]


def write_speeds(
    open_encoders: Callable[[], Mapping[str, Encode]],
    baseline: str,
    texts: Sequence[str],
    run: SpeedRun,
    destination: Path,
) -> None:
    """The speed step: speed.json, a list of timings per encoder."""
    speeds = measure_speed(open_encoders(), baseline, texts, run.batch_sizes, run.rounds)
    stored = {name: [speed.model_dump() for speed in values] for name, values in speeds.items()}
    (destination / "speed.json").write_text(json.dumps(stored, indent=2) + "\n")


def measure_speed(
    encoders: Mapping[str, Encode],
    baseline: str,
    texts: Sequence[str],
    batch_sizes: Sequence[int],
    rounds: int,
) -> dict[str, list[Speed]]:
    """Time every encoder at every batch size; `baseline` names the encoder that ratios refer to."""
    result: dict[str, list[Speed]] = {name: [] for name in encoders}
    for batch_size in batch_sizes:
        seconds = time_rounds(encoders, texts, batch_size, rounds)
        for name in encoders:
            result[name].append(summarize(batch_size, seconds[name], seconds[baseline]))
    return result


def time_rounds(
    encoders: Mapping[str, Encode], texts: Sequence[str], batch_size: int, rounds: int
) -> dict[str, Seconds]:
    """Seconds [rounds, CALLS_PER_ROUND] per encoder; every round takes other texts."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in encoders}
    for turn in progress(range(rounds), f"timing batch {batch_size}"):
        first = turn * CALLS_PER_ROUND * batch_size
        batches = [
            [texts[(first + call * batch_size + i) % len(texts)] for i in range(batch_size)]
            for call in range(CALLS_PER_ROUND)
        ]
        for name, encode in encoders.items():
            encode(batches[-1])
            seconds[name].append([time_call(encode, batch) for batch in batches])
    return {name: np.array(values) for name, values in seconds.items()}


def time_call(encode: Encode, batch: list[str]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    encode(batch)
    return time.perf_counter() - begin


def summarize(batch_size: int, seconds: Seconds, baseline: Seconds) -> Speed:
    """Percentiles, throughput and the median speed-up over rounds of one encoder at one batch size."""
    ratios = np.median(baseline, axis=1) / np.median(seconds, axis=1)  # [rounds]
    return Speed(
        batch_size=batch_size,
        p50_ms=float(np.percentile(seconds, 50)) * 1e3,
        p99_ms=float(np.percentile(seconds, 99)) * 1e3,
        throughput_texts_per_s=float(batch_size * seconds.size / seconds.sum()),
        speedup=bootstrap_median(ratios),
    )


def bootstrap_median(values: Seconds, seed: int = 0) -> Interval:
    """The median and its bootstrap 95 % interval over rounds (spread within one run, not between)."""
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[draws], axis=1), [2.5, 97.5])
    return Interval(value=float(np.median(values)), low=float(low), high=float(high))
