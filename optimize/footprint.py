"""The memory and the processor time of a fresh process that serves one variant, or the source itself."""

import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from models.triton.text_encoder.tokens import Item
from optimize.quality import Encode

ITEMS = 512
BATCH = 32


def write_footprints(
    openers: Mapping[str, Callable[[], Encode]], items: Sequence[Item], destination: Path
) -> None:
    """The footprint step: footprint.json, {"memory_bytes", "cpu_s_per_1000"} per candidate.

    The openers must be picklable: each runs in a process of its own.
    """
    some = list(items[:ITEMS])
    context = multiprocessing.get_context("spawn")  # a fork would begin with this process's memory
    found = {}
    for name, opener in openers.items():
        with context.Pool(1) as pool:
            found[name] = pool.apply(footprint_of, (opener, some))
    (destination / "footprint.json").write_text(json.dumps(found, indent=2) + "\n")


def footprint_of(open_encoder: Callable[[], Encode], items: Sequence[Item]) -> dict[str, Any]:
    """Encode all items in batches; what this process has used then."""
    encode = open_encoder()
    encode(list(items[:BATCH]))  # allocations happen in the first run
    begin_s = time.process_time()
    for start in range(0, len(items), BATCH):
        encode(list(items[start : start + BATCH]))
    cpu_s = time.process_time() - begin_s
    return {
        "memory_bytes": psutil.Process().memory_info().rss,
        "cpu_s_per_1000": cpu_s / len(items) * 1000,
    }
