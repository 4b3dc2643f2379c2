"""Writes the files of a segment, in bounded memory: rows stream in, in the order of their ids."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from models.files import sync_directory
from serving.index import faiss_index
from serving.index.generation import (
    IDS_NAME,
    INDEX_NAME,
    ROWS_NAME,
    VERSIONS_NAME,
    read_rows,
    write_segment_record,
)
from serving.index.metric import Ids, Vectors

CHUNK_ROWS = 16_384
HEADER_BYTES = 128  # of an .npy file: NumPy pads its own to multiples of 64


def npy_header(rows: int, dim: int) -> bytes:
    """The header of a float32 array [rows, dim] in NumPy's format 1.0, always of one size.

    Rows can so be written before it is known how many there are. Format: numpy.lib.format.
    """
    described = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}"
    magic = b"\x93NUMPY\x01\x00"
    length = HEADER_BYTES - len(magic) - 2
    return magic + length.to_bytes(2, "little") + described.ljust(length - 1).encode() + b"\n"


def write_rows(path: Path, chunks: Iterable[Vectors], rows: int, dim: int) -> None:
    """Stream rows [n, dim] into an .npy file."""
    with path.open("wb") as stream:
        stream.write(npy_header(rows, dim))
        for chunk in chunks:
            stream.write(np.ascontiguousarray(chunk, dtype="<f4").data)


def finish_segment(directory: Path, trained: Path, ids: Ids, versions: Ids | None = None) -> None:
    """Index the rows that `directory` holds already, describe and flush everything.

    `trained` is the generation's trained, empty index. `versions` [2, m] is what is known of them.
    """
    np.save(directory / IDS_NAME, ids, allow_pickle=False)
    index = faiss_index.load(trained)
    faiss_index.fill(index, read_rows(directory))
    faiss_index.save(index, directory / INDEX_NAME)
    names = [IDS_NAME, ROWS_NAME, INDEX_NAME]
    if versions is not None:
        np.save(directory / VERSIONS_NAME, versions, allow_pickle=False)
        names.append(VERSIONS_NAME)
    for name in names:
        sync_file(directory / name)
    write_segment_record(directory, len(ids), names)
    sync_directory(directory)


def sync_file(path: Path) -> None:
    """Return when a file's content would survive a crash of the machine."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
