"""Vectors into a generation, in bounded memory, resumable:

    spool (rows to their shards) -> train (on a sample) -> finish (each shard) -> publish

The generation grows in `.<name>` beside its place and takes its name when all of it is on disk.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from models.files import sha256_file, sync_directory, write_atomically
from serving.errors import IndexBuildError
from serving.index import faiss_index
from serving.index.check import problem_of_ids, problem_of_vectors
from serving.index.generation import (
    ROWS_NAME,
    SEGMENT_NAME,
    TRAINED_NAME,
    Generation,
    shard_directory,
    write_generation,
)
from serving.index.layout import Layout
from serving.index.metric import Ids, Metric, Vectors
from serving.index.sharding import shard_of
from serving.index.sources import Source
from serving.index.writer import (
    CHUNK_ROWS,
    HEADER_BYTES,
    finish_segment,
    npy_header,
    sync_file,
    write_rows,
)

SPOOL_IDS, SPOOL_ROWS, PROGRESS = "spool-ids.i64", "spool-rows.npy", "progress.json"
CHUNKS_PER_CHECKPOINT = 16

# Told of rows spooled so far and of the rows there are, where that is known.
Announce = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class BuildPlan:
    """What to build. `directory` is that of the index; the generation goes to generations/<name> below."""

    directory: Path
    index: str
    name: str
    metric: Metric
    layout: Layout
    shards: int
    space: str = ""
    follows: str = ""
    includes: tuple[int, ...] = ()

    @property
    def destination(self) -> Path:
        """Where the generation will be."""
        return self.directory / "generations" / self.name

    @property
    def workplace(self) -> Path:
        """Where it grows."""
        return self.destination.with_name(f".{self.name}")


@dataclass(frozen=True)
class FinishOrder:
    """One shard to finish: a value, so that it can be carried out on another machine."""

    workplace: Path
    generation: Generation
    shard: int


# Carries out all of them, in any order, here or elsewhere.
FinishAll = Callable[[Sequence[FinishOrder]], None]


def build(
    plan: BuildPlan, source: Source, announce: Announce, finish_all: FinishAll | None = None
) -> Generation:
    """Build a generation, going on where an earlier try was stopped. Raises IndexBuildError."""
    if plan.shards < 1:
        raise IndexBuildError(f"an index cannot have {plan.shards} shards: name 1 or more")
    if plan.destination.exists():
        raise IndexBuildError(
            f"{plan.destination} is there already: give the new generation another --name"
        )
    begin(plan, source)
    counts = spool(plan, source, announce)
    rows = sum(counts)
    if not rows:
        raise IndexBuildError("there are no vectors: name a source that has some")
    announce("train", 0, None)
    trained_sha256 = train(plan, source.dim, counts)
    generation = Generation(
        index=plan.index,
        name=plan.name,
        dim=source.dim,
        metric=plan.metric,
        layout=plan.layout,
        shards=plan.shards,
        rows=rows,
        space=plan.space,
        trained_sha256=trained_sha256,
        follows=plan.follows,
        includes=plan.includes,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    orders = [FinishOrder(plan.workplace, generation, shard) for shard in range(plan.shards)]
    (finish_all or finish_here(announce))(orders)
    publish(plan, generation)
    return generation


def begin(plan: BuildPlan, source: Source) -> None:
    """Start a workplace, or take over one that was begun for the same."""
    described = {
        "source": source.identity,
        "shards": plan.shards,
        "metric": plan.metric,
        "layout": plan.layout.model_dump(),
    }
    order = plan.workplace / "order.json"
    if order.is_file() and json.loads(order.read_text()) == described:
        return
    shutil.rmtree(plan.workplace, ignore_errors=True)
    for shard in range(plan.shards):
        shard_directory(plan.workplace, shard).mkdir(parents=True)
    write_atomically(order, json.dumps(described).encode())


def spool(plan: BuildPlan, source: Source, announce: Announce) -> list[int]:
    """Append every row to the files of its shard; how many each has. Progress is kept chunk by chunk."""
    progress = plan.workplace / PROGRESS
    counts: list[int] = (
        json.loads(progress.read_text()) if progress.is_file() else [0] * plan.shards
    )
    if (plan.workplace / TRAINED_NAME).is_file():
        return counts
    dim, rows = source.dim, source.rows
    with ExitStack() as opened:
        files = [
            opened.enter_context(open_spool(plan, shard, counts[shard], dim, kind))
            for shard in range(plan.shards)
            for kind in (SPOOL_IDS, SPOOL_ROWS)
        ]
        for number, (ids, vectors) in enumerate(source.chunks(sum(counts)), 1):
            check(ids, vectors, dim, plan.metric, sum(counts))
            append(files, ids, vectors, counts)
            announce("spool", sum(counts), rows)
            if number % CHUNKS_PER_CHECKPOINT == 0:
                keep_progress(files, progress, counts)
        keep_progress(files, progress, counts)
    return counts


def append(files: Sequence[BinaryIO], ids: Ids, vectors: Vectors, counts: list[int]) -> None:
    """Add rows to the spools of their shards, and to the counts."""
    where = shard_of(ids, len(counts))
    for shard in range(len(counts)):
        chosen = where == shard
        files[2 * shard].write(np.ascontiguousarray(ids[chosen], "<i8").data)
        files[2 * shard + 1].write(np.ascontiguousarray(vectors[chosen], "<f4").data)
        counts[shard] += int(chosen.sum())


def keep_progress(files: Sequence[BinaryIO], progress: Path, counts: Sequence[int]) -> None:
    """Flush the spools, then say how far they count."""
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    write_atomically(progress, json.dumps(counts).encode())


def open_spool(plan: BuildPlan, shard: int, rows: int, dim: int, kind: str) -> BinaryIO:
    """A spool file, cut to the rows that count: a stopped build may have written more."""
    path = shard_directory(plan.workplace, shard) / kind
    size = 8 * rows if kind == SPOOL_IDS else HEADER_BYTES + 4 * dim * rows
    path.touch()
    file = path.open("r+b")
    if kind == SPOOL_ROWS and not rows:
        file.write(npy_header(0, dim))
    file.truncate(size)
    file.seek(size)
    return file


def check(ids: Ids, vectors: Vectors, dim: int, metric: Metric, before: int) -> None:
    """Raise IndexBuildError for rows that cannot be indexed."""
    problem = problem_of_vectors(vectors, dim, metric) or problem_of_ids(ids)
    if problem:
        raise IndexBuildError(
            f"in the rows from {before:,} on, {problem}: correct or remove it and run the build again"
        )


def train(plan: BuildPlan, dim: int, counts: Sequence[int]) -> str:
    """Train one index for all shards on rows spread over everything; its sha256."""
    path = plan.workplace / TRAINED_NAME
    if not path.is_file():
        index = faiss_index.new_index(plan.layout, dim, plan.metric)
        wanted = faiss_index.training_size(plan.layout)
        if wanted:
            faiss_index.train(index, sample(plan, dim, counts, wanted))
        temporary = path.with_name(f".{path.name}")
        faiss_index.save(index, temporary)
        sync_file(temporary)
        temporary.rename(path)
    return sha256_file(path)


def sample(plan: BuildPlan, dim: int, counts: Sequence[int], wanted: int) -> Vectors:
    """About `wanted` rows, in equal shares of every shard's. Raises IndexBuildError for too few."""
    least = max(39 * plan.layout.lists, 256)
    if sum(counts) < least:
        raise IndexBuildError(
            f"{sum(counts):,} vectors are too few to train {plan.layout.words}: at least {least:,} are "
            "needed; use fewer lists, or --layout flat"
        )
    share = min(1.0, wanted / sum(counts))
    chosen = np.random.default_rng(1)
    parts = []
    for shard, count in enumerate(counts):
        rows = spooled_rows(shard_directory(plan.workplace, shard), count, dim)
        at = np.sort(chosen.choice(count, size=round(share * count), replace=False))
        parts.append(rows[at])
    return np.concatenate(parts)


def finish_here(announce: Announce) -> FinishAll:
    """Carry out orders one after the other; FAISS uses all cores for each."""

    def finish_all(orders: Sequence[FinishOrder]) -> None:
        for done, order in enumerate(orders):
            announce("finish", done, len(orders))
            finish(order)

    return finish_all


def finish(order: FinishOrder) -> None:
    """Sort, index and describe the rows of one shard, unless that is done. Raises IndexBuildError."""
    directory = shard_directory(order.workplace, order.shard)
    if not (directory / SEGMENT_NAME).is_file():
        make_segment(directory, order)
    for spooled in (SPOOL_IDS, SPOOL_ROWS):
        (directory / spooled).unlink(missing_ok=True)


def make_segment(directory: Path, order: FinishOrder) -> None:
    """The segment of one shard from its spool. Raises IndexBuildError."""
    dim = order.generation.dim
    ids: Ids = np.fromfile(directory / SPOOL_IDS, dtype="<i8")
    order_of_ids = np.argsort(ids, kind="stable")
    ids = ids[order_of_ids]
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twice):
        raise IndexBuildError(
            f"id {ids[twice[0]]} stands twice in the source ({len(twice):,} ids do): give each row an id of "
            "its own and build again"
        )
    write_sorted(directory, order_of_ids, dim)
    finish_segment(directory, order.workplace / TRAINED_NAME, ids)


def write_sorted(directory: Path, order: NDArray[np.intp], dim: int) -> None:
    """The spooled rows in the order of their ids; those that came so are not copied."""
    rows, path = len(order), directory / ROWS_NAME
    path.unlink(missing_ok=True)  # of an earlier try
    if (order[1:] > order[:-1]).all():
        os.link(directory / SPOOL_ROWS, path)
        with path.open("r+b") as file:
            file.write(npy_header(rows, dim))
        return
    spooled = spooled_rows(directory, rows, dim)
    starts = range(0, rows, CHUNK_ROWS)
    write_rows(path, (spooled[order[at : at + CHUNK_ROWS]] for at in starts), rows, dim)


def spooled_rows(directory: Path, rows: int, dim: int) -> Vectors:
    """The rows [n, dim] of a spool, memory-mapped."""
    shape = (rows, dim)
    if not rows:
        return np.empty(shape, dtype=np.float32)
    return np.memmap(directory / SPOOL_ROWS, "<f4", "r", offset=HEADER_BYTES, shape=shape)


def publish(plan: BuildPlan, generation: Generation) -> None:
    """Describe the generation and give it its name."""
    for name in ("order.json", PROGRESS):
        (plan.workplace / name).unlink(missing_ok=True)
    write_generation(plan.workplace, generation)
    plan.workplace.rename(plan.destination)
    sync_directory(plan.destination.parent)
