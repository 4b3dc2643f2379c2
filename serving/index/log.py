"""The durable log of a shard: what was upserted and deleted since its segment was made.

    header      MAGIC, version
    record      head (mark, payload's length, crc32 of these two), crc32 of the payload, payload
    payload     operation, sequence, version_ns, count, dim, ids int64 [count], vectors float32 [count, dim]

A record that was cut short (the process died while writing, so nobody was told that it is safe) is cut off
when the log is opened. A record that is all there and wrong was told to be safe: the log is refused.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from models.files import sync_directory
from serving.errors import CorruptIndexError
from serving.index.metric import Ids, Vectors

MAGIC = b"FARSHORE-LOG-1\n\0"
HEAD = struct.Struct("<4sII")  # mark, payload's length, crc32 of both
CHECK = struct.Struct("<I")
FIXED = struct.Struct("<B7xqqII")  # operation, sequence, version_ns, count, dim
MARK = b"rec\n"

Operation = Literal["upsert", "delete"]
OPERATIONS: tuple[Operation, ...] = ("upsert", "delete")


@dataclass(frozen=True)
class Change:
    """`ids` [count] and, for an upsert, their `vectors` [count, dim].

    `version_ns` decides between changes of one id: the larger one holds, however they arrive.
    """

    operation: Operation
    sequence: int
    version_ns: int
    ids: Ids
    vectors: Vectors


class Log:
    """An open log, for appending."""

    def __init__(self, path: Path) -> None:
        """Open `path` behind its last whole record, creating it when it is not there.

        Raises CorruptIndexError.
        """
        self.path = path
        if not path.exists():
            create(path)
        end = sum(size for _, size in scan(path)) + len(MAGIC)
        self._file = path.open("r+b", buffering=0)
        self._file.truncate(end)
        self._file.seek(end)

    def append_all(self, changes: Sequence[Change]) -> None:
        """Write changes behind the others; when this returns they survive a crash of the machine.

        Raises OSError, with the log as it was before, when the disk does not take them.
        """
        end = self._file.tell()
        try:
            write_all(self._file, b"".join(encode(change) for change in changes))
            os.fdatasync(self._file.fileno())
        except OSError:
            self._file.seek(end)
            self._file.truncate(end)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def create(path: Path) -> None:
    """An empty log, whole or not there."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as stream:
        stream.write(MAGIC)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(path)
    sync_directory(path.parent)


def read_log(path: Path) -> Iterator[Change]:
    """Every whole change of a log, in order. Raises CorruptIndexError."""
    return (change for change, _ in scan(path))


def scan(path: Path) -> Iterator[tuple[Change, int]]:
    """Every whole change and its size in bytes. Raises CorruptIndexError."""
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise CorruptIndexError(f"{path} is no log of a shard: restore it from a replica")
        at = len(MAGIC)
        while True:
            head = stream.read(HEAD.size + CHECK.size)
            if len(head) < HEAD.size + CHECK.size:
                return
            if is_blank(head, stream):
                return
            payload = read_payload(path, at, head, stream)
            if payload is None:
                return
            size = len(head) + len(payload)
            yield decode(payload), size
            at += size


def read_payload(path: Path, at: int, head: bytes, stream: BinaryIO) -> bytes | None:
    """The checked payload behind a head, None when it was cut short."""
    mark, length, head_check = HEAD.unpack_from(head)
    if mark != MARK or zlib.crc32(head[:8]) != head_check:
        raise damaged(path, at)
    payload = stream.read(length)
    if len(payload) < length:
        return None
    if zlib.crc32(payload) != CHECK.unpack_from(head, HEAD.size)[0]:
        raise damaged(path, at)
    return payload


def is_blank(head: bytes, stream: BinaryIO) -> bool:
    """Whether nothing but zeros follows: a crashed machine may leave a file longer than its content."""
    if any(head):
        return False
    here = stream.tell()
    blank = not any(stream.read())
    stream.seek(here)
    return blank


def damaged(path: Path, at: int) -> CorruptIndexError:
    """What is said of a record that is all there and wrong."""
    return CorruptIndexError(
        f"{path} is damaged at byte {at}: restore it from a replica or a backup; to give up what was "
        f"written from there on, run `truncate --size={at} {path}`"
    )


def encode(change: Change) -> bytes:
    """A change as a record."""
    count = len(change.ids)
    dim = change.vectors.shape[1] if change.operation == "upsert" else 0
    fixed = FIXED.pack(
        OPERATIONS.index(change.operation), change.sequence, change.version_ns, count, dim
    )
    payload = b"".join(
        (
            fixed,
            np.ascontiguousarray(change.ids, dtype="<i8").tobytes(),
            np.ascontiguousarray(change.vectors, dtype="<f4").tobytes() if dim else b"",
        )
    )
    head = MARK + struct.pack("<I", len(payload))
    return head + CHECK.pack(zlib.crc32(head)) + CHECK.pack(zlib.crc32(payload)) + payload


def decode(payload: bytes) -> Change:
    """The change of a checked payload."""
    operation, sequence, version_ns, count, dim = FIXED.unpack_from(payload)
    ids = np.frombuffer(payload, dtype="<i8", count=count, offset=FIXED.size)
    start = FIXED.size + ids.nbytes
    vectors = np.frombuffer(payload, dtype="<f4", count=count * dim, offset=start)
    shape = (count, dim) if dim else (0, 0)
    return Change(OPERATIONS[operation], sequence, version_ns, ids, vectors.reshape(shape))


def write_all(file: BinaryIO, content: bytes) -> None:
    """Write all of `content`: an unbuffered file may take a part of it."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
