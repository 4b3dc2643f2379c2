"""Latency and throughput of all variants and the baseline, interleaved round by round in one process.

Timings drift on shared machines, so every round runs every encoder on the same texts, and ratios are
taken within rounds. Threads of the encoder before keep spinning for a few milliseconds after its last
call and would slow its successor: each turn therefore begins with a call that is not timed.
"""

import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from models.manifest import Interval, Speed
from models.triton.text_encoder.tokens import Item
from optimize.progress import progress
from optimize.quality import RESAMPLES, Encode
from optimize.sections import SpeedRun

CALLS_PER_ROUND = 5
SAMPLES = 64  # different items of one length
Seconds = npt.NDArray[np.float64]


def write_speeds(
    open_encoders: Callable[[], Mapping[str, Encode]],
    baseline: str,
    items: Sequence[Item],
    tokenizer: Callable[[], Tokenizer],
    run: SpeedRun,
    destination: Path,
) -> None:
    """The speed step: speed.json and lengths.json, each with a list of timings per encoder."""
    encoders = open_encoders()
    speeds = measure_speed(encoders, baseline, items, run.batch_sizes, run.rounds)
    stored = {name: [speed.model_dump() for speed in values] for name, values in speeds.items()}
    (destination / "speed.json").write_text(json.dumps(stored, indent=2) + "\n")
    lengths = measure_lengths(encoders, baseline, items, tokenizer(), run)
    (destination / "lengths.json").write_text(json.dumps(lengths, indent=2) + "\n")


def measure_lengths(
    encoders: Mapping[str, Encode],
    baseline: str,
    items: Sequence[Item],
    tokenizer: Tokenizer,
    run: SpeedRun,
) -> dict[str, list[dict[str, Any]]]:
    """Timings per encoder for items of one length each, at the first batch size.

    Lengths where `tokenizer` truncates would only repeat its longest.
    """
    timed: dict[str, list[dict[str, Any]]] = {name: [] for name in encoders}
    longest = (tokenizer.truncation or {"max_length": math.inf})["max_length"]
    for tokens in (length for length in run.token_lengths if length <= longest):
        cut = items_of_length(tokenizer, items, tokens)
        speeds = measure_speed(encoders, baseline, cut, run.batch_sizes[:1], run.length_rounds)
        for name, values in speeds.items():
            timed[name] += [{**speed.model_dump(), "tokens": tokens} for speed in values]
    return timed


def items_of_length(tokenizer: Tokenizer, items: Sequence[Item], tokens: int) -> list[Item]:
    """Real words in `SAMPLES` items of `tokens` tokens each; of a pair, the second text is as long as it
    takes.
    """
    texts = [item if isinstance(item, str) else item[1] for item in items]
    made: list[Item] = []
    for start in range(SAMPLES):
        words = itertools.islice(itertools.cycle(texts), start, start + tokens)
        item = items[start % len(items)]
        query = None if isinstance(item, str) else item[0]
        text = cut_to_tokens(tokenizer, query, " ".join(words), tokens)
        made.append(text if query is None else (query, text))
    return made


def cut_to_tokens(tokenizer: Tokenizer, query: str | None, text: str, tokens: int) -> str:
    """The beginning of a text that is `tokens` long with its query and the special tokens."""
    pair = query is not None
    used = tokenizer.num_special_tokens_to_add(pair)
    used += len(tokenizer.encode(query, add_special_tokens=False)) if pair else 0
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets[: max(1, tokens - used)]
    return text[: offsets[-1][1]]


def measure_speed(
    encoders: Mapping[str, Encode],
    baseline: str,
    texts: Sequence[Item],
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
    encoders: Mapping[str, Encode], texts: Sequence[Item], batch_size: int, rounds: int
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


def time_call(encode: Encode, batch: list[Item]) -> float:
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
