"""Compaction: a shard's segment and what was written since become a new segment, in a process of their own.

    python -m serving.index.compact <generation> <segment> <destination> <parent pid> <log> ...

A process, not a thread: its memory is given back, it yields every core to searches, and it may be killed.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.files import sha256_file, sync_directory
from serving.errors import CorruptIndexError
from serving.index import faiss_index
from serving.index.delta import Delta, apply
from serving.index.generation import (
    ROWS_NAME,
    TRAINED_NAME,
    Generation,
    read_generation,
    read_ids,
    read_rows,
    read_segment_record,
    read_versions,
    verify_segment,
)
from serving.index.log import read_log
from serving.index.metric import Ids, Vectors
from serving.index.writer import CHUNK_ROWS, finish_segment, write_rows
from serving.triton.server import die_with_parent


def main(arguments: Sequence[str]) -> None:
    """Make the segment. The Compactor that started this has it yield to everything else."""
    generation, segment, destination, parent_pid, *logs = arguments
    die_with_parent()
    if os.getppid() != int(parent_pid):  # it ended before the line above
        return
    faiss_index.set_threads(1)
    compact(Path(generation), Path(segment), [Path(log) for log in logs], Path(destination))


def compact(
    generation_directory: Path, segment: Path, logs: Sequence[Path], destination: Path
) -> None:
    """Write the segment `destination`, whole or not at all. Raises CorruptIndexError."""
    generation = read_generation(generation_directory)
    verify_trained(generation_directory, generation)
    verify_segment(segment, read_segment_record(segment))  # or damage is copied and sealed anew
    temporary = destination.with_name(f".{destination.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    ids, versions = merge_rows(temporary, generation, segment, logs)
    finish_segment(temporary, generation_directory / TRAINED_NAME, ids, versions)
    temporary.rename(destination)
    sync_directory(destination.parent)


def merge_rows(
    directory: Path, generation: Generation, segment: Path, logs: Sequence[Path]
) -> tuple[Ids, Ids]:
    """Write the rows that now hold, ascending by id; their ids [n] and the versions [2, m] that are known.

    What it needs for that is given back before the index takes its memory.
    """
    delta = Delta(generation.dim, generation.metric)
    for log in logs:
        for change in read_log(log):
            apply(change, [delta])
    old_ids = read_ids(segment)
    touched = np.array(sorted(delta.touched.items()), dtype=np.int64).reshape(-1, 2).T
    kept = np.flatnonzero(~np.isin(old_ids, touched[0]))
    ids = np.concatenate([old_ids[kept], delta.ids])
    order = np.argsort(ids, kind="stable")
    chunks = merged(read_rows(segment), kept, delta.vectors, order)
    write_rows(directory / ROWS_NAME, chunks, len(ids), generation.dim)
    return ids[order], newest_versions(read_versions(segment), touched)


def verify_trained(directory: Path, generation: Generation) -> None:
    """Raise CorruptIndexError unless the trained index is the one that the generation was built with."""
    path = directory / TRAINED_NAME
    if not path.is_file() or sha256_file(path) != generation.trained_sha256:
        raise CorruptIndexError(
            f"{path} is missing or not what was written (its sha256 differs): restore it, or build the "
            "generation again"
        )


def newest_versions(old: Ids, touched: Ids) -> Ids:
    """Ids and versions [2, m] of two, both ascending by id; those of `touched` hold."""
    versions = np.concatenate([old[:, ~np.isin(old[0], touched[0])], touched], axis=1)
    newest: Ids = versions[:, np.argsort(versions[0], kind="stable")]
    return newest


def merged(
    old: Vectors, kept: NDArray[np.int64], added: Vectors, order: NDArray[np.int64]
) -> Iterator[Vectors]:
    """Rows in the order of `order`, which counts the `kept` old rows first, then the added ones."""
    for start in range(0, len(order), CHUNK_ROWS):
        part = order[start : start + CHUNK_ROWS]
        is_old = part < len(kept)
        rows = np.empty((len(part), old.shape[1]), dtype=np.float32)
        rows[is_old] = old[kept[part[is_old]]]
        rows[~is_old] = added[part[~is_old] - len(kept)]
        yield rows


if __name__ == "__main__":
    main(sys.argv[1:])
