"""Layouts tried on a sample: how hard a search must look to reach a recall, and how fast it is then.

Each index is built and asked by the code that shards run. Recall is that of the sample: an index of more rows
has more lists, of which a plan visits the same share.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.manifest import Record
from serving.index import faiss_index
from serving.index.generation import Generation
from serving.index.layout import Layout, suggested_lists
from serving.index.metric import Ids, Metric, Vectors
from serving.index.recall import recall_at_k
from serving.index.segment import Segment

RESCORES = (4, 10, 30)
EFFORTS_SEARCH = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
TIMED_S = 1.0  # of queries, one after the other
LEAST_TIMED = 20

# Told of the layout under way.
Announce = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Sample:
    """`rows` [n, dim] to index, `queries` [N, dim] that are none of them, and what these must find."""

    rows: Vectors
    queries: Vectors
    exact: Ids
    """Positions [N, k] of the truly best."""
    metric: Metric

    @property
    def k(self) -> int:
        """Results of a query."""
        return self.exact.shape[1]


class Step(Record):
    """The recall of one effort."""

    rescore: int
    effort: int
    recall: float


class Trial(Record):
    """What a layout does on the sample: with the least effort that reaches the recall, else with its best."""

    layout: Layout
    """As it was tried, with lists for the sample."""
    recall: float
    reached: bool
    steps: tuple[Step, ...]
    """Everything that was measured."""
    queries_per_s: float
    """One query after the other, one thread."""
    p50_ms: float

    @property
    def share(self) -> float:
        """Of its lists that a search visits."""
        return self.layout.effort / self.layout.lists if self.layout.is_ivf else 1.0


def make_sample(rows: Vectors, queries: Vectors, k: int, metric: Metric) -> Sample:
    """A sample with its exact answers."""
    with_all_cores()
    positions, _ = faiss_index.brute_force(queries, rows, k, metric)
    return Sample(rows, queries, positions, metric)


def try_layouts(
    layouts: Sequence[Layout], sample: Sample, target: float, announce: Announce
) -> Iterator[tuple[Layout, Trial]]:
    """Try each, in order; those that differ in where codes lie share one index and its recall."""
    tried: dict[Layout, tuple[Any, Trial]] = {}
    for layout in sorted(layouts, key=lambda one: one.on_disk):
        announce(f"try {shown(layout)}", 0, 1)
        in_memory = layout.model_copy(update={"on_disk": False})
        if in_memory not in tried:
            tried[in_memory] = try_in_memory(in_memory, sample, target)
        index, trial = tried[in_memory]
        if not in_memory.is_ivf:
            del tried[in_memory]  # only inverted lists are tried twice
        yield layout, try_on_disk(index, trial, sample) if layout.on_disk else trial
        announce(f"try {shown(layout)}", 1, 1)


def try_in_memory(layout: Layout, sample: Sample, target: float) -> tuple[Any, Trial]:
    """The index of a layout, and how it does."""
    if layout.is_ivf:
        layout = layout.model_copy(update={"lists": suggested_lists(len(sample.rows))})
    index = built(layout, sample)
    steps = tuple(climb(index, layout, sample, target))
    chosen = choose(steps, target)
    layout = layout.model_copy(update={"rescore": chosen.rescore, "effort": chosen.effort})
    queries_per_s, p50_ms = timed(index, layout, sample)
    trial = Trial(
        layout=layout,
        recall=chosen.recall,
        reached=chosen.recall >= target,
        steps=steps,
        queries_per_s=queries_per_s,
        p50_ms=p50_ms,
    )
    return index, trial


def built(layout: Layout, sample: Sample) -> Any:
    """The index of all rows of a sample, in memory; FAISS goes on with all cores."""
    with_all_cores()
    index = faiss_index.new_index(layout, sample.rows.shape[1], sample.metric)
    wanted = faiss_index.training_size(layout)
    if wanted:
        faiss_index.train(index, sample.rows[:wanted])
    faiss_index.fill(index, sample.rows)
    return index


def try_on_disk(index: Any, trial: Trial, sample: Sample) -> Trial:
    """The same index mapped from a file, which is in the page cache: the best that a disk can do."""
    layout = trial.layout.model_copy(update={"on_disk": True})
    with tempfile.TemporaryDirectory() as folder:
        faiss_index.save(index, Path(folder) / "index.faiss")
        mapped = faiss_index.load(Path(folder) / "index.faiss", on_disk=True)
        queries_per_s, p50_ms = timed(mapped, layout, sample)
    return trial.model_copy(
        update={"layout": layout, "queries_per_s": queries_per_s, "p50_ms": p50_ms}
    )


def climb(index: Any, layout: Layout, sample: Sample, target: float) -> Iterator[Step]:
    """The recall of growing efforts until one reaches the target, with as few rescored rows as that takes."""
    for rescore in RESCORES if layout.rescore else (0,):
        *lower, highest = efforts(layout)
        best = measure(index, layout, sample, rescore, highest)
        if best.recall >= target:
            for effort in lower:
                step = measure(index, layout, sample, rescore, effort)
                yield step
                if step.recall >= target:
                    return
        yield best
        if best.recall >= target:
            return


def choose(steps: Sequence[Step], target: float) -> Step:
    """The step that reached the target, which is the last; else the least effort with the best recall."""
    reached = [step for step in steps if step.recall >= target]
    best = max(step.recall for step in steps)
    return reached[0] if reached else next(step for step in steps if step.recall == best)


def efforts(layout: Layout) -> tuple[int, ...]:
    """The ladder: lists visited, 1, 2, 3, 4, 6, 8, 12 and so on up to all; or candidates kept by a graph."""
    if layout.is_hnsw:
        return EFFORTS_SEARCH
    if not layout.is_ivf:
        return (0,)
    doubling = [2**power for power in range(layout.lists.bit_length())]
    between = [3 * step // 2 for step in doubling[1:]]
    below = {effort for effort in doubling + between if effort < layout.lists}
    return (*sorted(below), layout.lists)


def measure(index: Any, layout: Layout, sample: Sample, rescore: int, effort: int) -> Step:
    """The mean recall@k of all queries."""
    segment = segment_of(index, layout.model_copy(update={"rescore": rescore}), sample)
    return Step(rescore=rescore, effort=effort, recall=mean_recall(segment, sample, effort))


def mean_recall(segment: Segment, sample: Sample, effort: int) -> float:
    """The mean recall@k of all queries of a sample."""
    found = segment.search(sample.queries, sample.k, effort, None).ids
    recalls = [recall_at_k(*pair) or 0.0 for pair in zip(found, sample.exact, strict=True)]
    return float(np.mean(recalls))


def timed(index: Any, layout: Layout, sample: Sample) -> tuple[float, float]:
    """Queries per second and the median time in ms, one after the other on one thread, after a warm-up."""
    faiss_index.set_threads(1)
    segment = segment_of(index, layout, sample)
    took_s: list[float] = []
    count = len(sample.queries)
    for number in range(-min(LEAST_TIMED, count), 100 * count):
        at = number % count
        began_s = time.perf_counter()
        segment.search(sample.queries[at : at + 1], sample.k, layout.effort, None)
        if number >= 0:
            took_s.append(time.perf_counter() - began_s)
        if len(took_s) >= LEAST_TIMED and sum(took_s) >= TIMED_S:
            break
    return len(took_s) / sum(took_s), 1_000 * float(np.median(took_s))


def segment_of(index: Any, layout: Layout, sample: Sample) -> Segment:
    """The sample as the segment of a shard, whose ids are positions."""
    generation = Generation(
        index="trial",
        name="trial",
        dim=sample.rows.shape[1],
        metric=sample.metric,
        layout=layout,
        shards=1,
        rows=len(sample.rows),
        created_at="",
    )
    ids = np.arange(len(sample.rows))
    return Segment(generation, ids, sample.rows, index, np.empty((2, 0), dtype=np.int64))


def shown(layout: Layout) -> str:
    """A layout before its lists are known."""
    return f"{layout.kind} on disk" if layout.on_disk else layout.kind


def with_all_cores() -> None:
    """Let FAISS build and compare with all cores."""
    faiss_index.set_threads(os.cpu_count() or 1)
