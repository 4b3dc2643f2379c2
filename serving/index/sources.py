"""Where vectors come from: an .npy file, Parquet files, or texts through the encoder. All stream.

A source yields (ids [n], vectors [n, dim]) from any row on, so that a build that was stopped goes on.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.errors import IndexBuildError
from serving.index.metric import Ids, Vectors

CHUNK_ROWS = 16_384

# Texts [n] to vectors [n, dim].
Encode = Callable[[Sequence[str]], Vectors]


class Source(Protocol):
    """Vectors that stream in a fixed order."""

    @property
    def dim(self) -> int:
        """Components of a vector."""

    @property
    def rows(self) -> int | None:
        """How many there are, where that is known."""

    @property
    def identity(self) -> str:
        """What must be unchanged for a build to go on."""

    def chunks(self, start: int) -> Iterator[tuple[Ids, Vectors]]:
        """Ids and vectors from row `start` on."""


@dataclass(frozen=True)
class NpySource:
    """`path` [n, dim] float32 or float16; `ids_path` [n] int64, or rows are numbered."""

    path: Path
    ids_path: Path | None = None

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return int(open_vectors(self.path).shape[1])

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(open_vectors(self.path))

    @property
    def identity(self) -> str:
        """The files with their sizes and times."""
        return " ".join(describe(path) for path in (self.path, self.ids_path) if path)

    def chunks(self, start: int) -> Iterator[tuple[Ids, Vectors]]:
        """Ids and vectors from row `start` on."""
        vectors = open_vectors(self.path)
        ids = open_npy(self.ids_path) if self.ids_path else None
        if ids is not None and (ids.shape != (len(vectors),) or ids.dtype.kind not in "iu"):
            raise IndexBuildError(
                f"{self.ids_path} must hold {len(vectors)} whole numbers, one per vector of {self.path}"
            )
        for at in range(start, len(vectors), CHUNK_ROWS):
            part = vectors[at : at + CHUNK_ROWS]
            numbers = np.arange(at, at + len(part)) if ids is None else ids[at : at + CHUNK_ROWS]
            yield np.asarray(numbers, dtype=np.int64), np.asarray(part, dtype=np.float32)


@dataclass(frozen=True)
class ParquetSource:
    """Parquet files with a column of ids and one of lists of floats."""

    paths: tuple[Path, ...]
    id_column: str = "id"
    vector_column: str = "vector"

    @property
    def dim(self) -> int:
        """Components of a vector, from the first row."""
        _, vectors = next(self.chunks(0), (None, None))
        if vectors is None:
            raise IndexBuildError(f"{self.paths[0]} holds no rows: name files that do")
        return vectors.shape[1]

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(file.metadata.num_rows for file in map(self._open, self.paths))

    @property
    def identity(self) -> str:
        """The files with their sizes and times, and the columns."""
        return " ".join([*map(describe, self.paths), self.id_column, self.vector_column])

    def chunks(self, start: int) -> Iterator[tuple[Ids, Vectors]]:
        """Ids and vectors from row `start` on."""
        for path in self.paths:
            file = self._open(path)
            if start >= file.metadata.num_rows:
                start -= file.metadata.num_rows
                continue
            for batch in self._batches(path, file):
                if start >= len(batch):
                    start -= len(batch)
                    continue
                yield self._read(path, batch.slice(start))
                start = 0

    def _batches(self, path: Path, file: Any) -> Iterator[Any]:
        """Batches of rows. Raises IndexBuildError where the file is damaged or a whole vector is missing."""
        import pyarrow

        try:
            yield from file.iter_batches(CHUNK_ROWS, columns=[self.id_column, self.vector_column])
        except (OSError, pyarrow.ArrowException) as error:
            raise IndexBuildError(
                f"{path} cannot be read: {error}; remove rows without a vector, or write it again"
            ) from error

    def _open(self, path: Path) -> Any:
        import pyarrow
        import pyarrow.parquet

        try:
            file = pyarrow.parquet.ParquetFile(path)
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise IndexBuildError(f"{path} is no Parquet file that can be read: {error}") from error
        names = file.schema_arrow.names
        for column in (self.id_column, self.vector_column):
            if column not in names:
                raise IndexBuildError(
                    f"{path} has no column {column!r}, it has {', '.join(names)}: name the columns with "
                    "--id-column and --vector-column"
                )
        self._check_types(path, file.schema_arrow, pyarrow.types)
        return file

    def _check_types(self, path: Path, schema: Any, types: Any) -> None:
        ids, vectors = schema.field(self.id_column).type, schema.field(self.vector_column).type
        lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
        if not types.is_integer(ids):
            raise IndexBuildError(
                f"{path}: {self.id_column!r} holds {ids}: whole numbers are needed as ids"
            )
        if not any(is_one(vectors) for is_one in lists) or not types.is_floating(
            vectors.value_type
        ):
            raise IndexBuildError(
                f"{path}: {self.vector_column!r} holds {vectors}: lists of floats are needed"
            )

    def _read(self, path: Path, batch: Any) -> tuple[Ids, Vectors]:
        """One batch of rows. Raises IndexBuildError when a value is missing or lists differ in length."""
        ids, vectors = batch.column(self.id_column), batch.column(self.vector_column)
        values = vectors.flatten()
        if ids.null_count or vectors.null_count or values.null_count:
            raise IndexBuildError(f"{path} has missing values: remove those rows")
        width, rest = divmod(len(values), max(len(batch), 1))
        lengths = (
            set(vectors.value_lengths().to_pylist())
            if hasattr(vectors, "value_lengths")
            else {width}
        )
        if rest or lengths != {width}:
            raise IndexBuildError(
                f"{path}: the lists of {self.vector_column!r} differ in length: all must have one number of "
                "components"
            )
        return (
            ids.to_numpy(zero_copy_only=False).astype(np.int64),
            values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(batch), width),
        )


@dataclass(frozen=True)
class TextSource:
    """JSON lines (.jsonl, .jsonl.gz) with `id` and `text`, through an encoder."""

    path: Path
    encode: Encode
    dim: int
    encoder: str
    rows: int | None = None
    chunk_texts: int = 1024

    @property
    def identity(self) -> str:
        """The file with its size and time, and the encoder."""
        return f"{describe(self.path)} {self.encoder}"

    def chunks(self, start: int) -> Iterator[tuple[Ids, Vectors]]:
        """Ids and vectors from row `start` on; the encoder sees no text before it."""
        rows = islice(self._read(), start, None)
        while part := list(islice(rows, self.chunk_texts)):
            ids = np.array([row_id for row_id, _ in part], dtype=np.int64)
            yield ids, self.encode([text for _, text in part])

    def _read(self) -> Iterator[tuple[int, str]]:
        opened = gzip.open if self.path.suffix == ".gz" else open
        with opened(self.path, "rb") as lines:
            for number, line in enumerate(lines_of(self.path, lines), 1):
                yield self._parse(line, number)

    def _parse(self, line: bytes, number: int) -> tuple[int, str]:
        try:
            row = json.loads(line)
            row_id, text = row["id"], row["text"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise IndexBuildError(
                f'{self.path} line {number} is not {{"id": 1, "text": "..."}}: correct it'
            ) from error
        is_id = type(row_id) is int and 0 <= row_id < 2**63
        if not is_id or not isinstance(text, str) or not text.strip():
            raise IndexBuildError(
                f"{self.path} line {number}: `id` must be a whole number from 0 on and `text` a text"
            )
        return row_id, text


def lines_of(path: Path, stream: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file. Raises IndexBuildError when it cannot be decompressed."""
    try:
        yield from stream
    except (OSError, EOFError, zlib.error) as error:
        raise IndexBuildError(f"{path} cannot be read: {error}") from error


def open_vectors(path: Path) -> NDArray[Any]:
    """An .npy file of vectors [n, dim] of floats, memory-mapped. Raises IndexBuildError."""
    vectors = open_npy(path)
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise IndexBuildError(
            f"{path} holds {vectors.dtype} {vectors.shape}: floats [rows, components] are needed"
        )
    return vectors


def open_npy(path: Path) -> NDArray[Any]:
    """An .npy file, memory-mapped; nothing in it is executed. Raises IndexBuildError."""
    try:
        opened: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise IndexBuildError(
            f"{path} is no .npy file of numbers that can be read: {error}"
        ) from error
    return opened


def describe(path: Path) -> str:
    """A file by name, size and time of its last change."""
    found = path.stat()
    return f"{path.resolve()}:{found.st_size}:{found.st_mtime_ns}"
