"""A generation on disk: everything that answers of one build of an index come from.

    generations/<name>/
        generation.json          Generation
        trained.faiss            the trained, empty index that every shard's was filled from
        shard-0000/
            segment.json         SegmentRecord: rows and sha256 of each file beside it
            index.faiss          codes, in the order of ids.npy
            ids.npy              int64 [n], ascending
            rows.npy             float32 [n, dim], the vectors themselves, memory-mapped when served
            versions.npy         int64 [2, m]: ids, ascending, and version_ns of what was written to the
                                 replica, deleted rows too; only in segments that compaction made

Nothing here is changed once it is written: what is upserted and deleted later lies in the state of a replica.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np

from models.files import sha256_file
from models.manifest import Record
from serving.errors import CorruptIndexError
from serving.index.layout import Layout
from serving.index.metric import Ids, Metric, Vectors
from serving.index.sealed import read_sealed, write_sealed

GENERATION_NAME = "generation.json"
TRAINED_NAME = "trained.faiss"
SEGMENT_NAME = "segment.json"
INDEX_NAME = "index.faiss"
IDS_NAME = "ids.npy"
ROWS_NAME = "rows.npy"
VERSIONS_NAME = "versions.npy"


class Generation(Record):
    """What one build of an index holds and how."""

    index: str
    """The index that it is a generation of."""
    name: str
    """Its own name, such as g1."""
    dim: int
    """Components of a vector."""
    metric: Metric
    """inner_product keeps the largest scores, l2 the smallest."""
    layout: Layout
    """How vectors are stored."""
    shards: int
    """Parts that the rows are spread over by their ids."""
    rows: int
    """Rows of all shards when it was built."""
    space: str = ""
    """Which encoder's vectors these are (manifest.space); empty: unknown."""
    trained_sha256: str = ""
    """sha256 of trained.faiss; empty where nothing is trained."""
    follows: str = ""
    """The generation that its rows were read from while that was served; empty: none."""
    includes: tuple[int, ...] = ()
    """By shard of that one, the changes that are in here."""
    created_at: str
    """ISO 8601."""


class SegmentRecord(Record):
    """What lies in the directory of a segment."""

    rows: int
    """Rows it holds."""
    files: dict[str, str]
    """sha256 by name."""


def shard_directory(generation: Path, shard: int) -> Path:
    """Where a shard of a generation lies."""
    return generation / f"shard-{shard:04d}"


def read_generation(directory: Path) -> Generation:
    """The description of a generation. Raises CorruptIndexError when there is none or it cannot be read."""
    return _read(directory / GENERATION_NAME, Generation)


def read_segment_record(directory: Path) -> SegmentRecord:
    """The description of a segment. Raises CorruptIndexError."""
    return _read(directory / SEGMENT_NAME, SegmentRecord)


def write_generation(directory: Path, generation: Generation) -> None:
    """Write the description last: a directory without it is no generation."""
    write_sealed(directory / GENERATION_NAME, generation)


def write_segment_record(directory: Path, rows: int, names: Iterable[str]) -> None:
    """Describe the files of a segment that is complete."""
    files = {name: sha256_file(directory / name) for name in names}
    write_sealed(directory / SEGMENT_NAME, SegmentRecord(rows=rows, files=files))


def read_ids(directory: Path) -> Ids:
    """The ids [n] of a segment, ascending."""
    ids: Ids = np.load(directory / IDS_NAME, allow_pickle=False)
    return ids


def read_rows(directory: Path) -> Vectors:
    """The rows [n, dim] of a segment, memory-mapped."""
    rows: Vectors = np.load(directory / ROWS_NAME, mmap_mode="r", allow_pickle=False)
    return rows


def read_versions(directory: Path) -> Ids:
    """Ids and versions [2, m] of what was written to a replica before its segment was made."""
    path = directory / VERSIONS_NAME
    if not path.is_file():
        return np.empty((2, 0), dtype=np.int64)
    versions: Ids = np.load(path, mmap_mode="r", allow_pickle=False)
    return versions


def verify_segment(directory: Path, record: SegmentRecord) -> None:
    """Raise CorruptIndexError unless every file is, byte for byte, what was written."""
    for name, expected in record.files.items():
        path = directory / name
        if not path.is_file():
            raise CorruptIndexError(f"{path} is missing: restore it, or build the generation again")
        if sha256_file(path) != expected:
            raise CorruptIndexError(
                f"{path} is not what was written (its sha256 differs): restore it from a replica or a "
                "backup, or build the generation again"
            )


R = TypeVar("R", bound=Record)


def _read(path: Path, kind: type[R]) -> R:
    try:
        return read_sealed(path, kind, "restore it, or build the generation again")
    except FileNotFoundError as error:
        raise CorruptIndexError(
            f"{path} is missing: name the directory of a finished generation, or build it again"
        ) from error
