import gzip
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from serving.errors import IndexBuildError
from serving.index import sources
from serving.index.metric import Ids, Vectors
from serving.index.sources import NpySource, ParquetSource, Source, TextSource

RandomVectors = Callable[..., Vectors]

DIM = 8
FLOATS = pyarrow.float32()
COLUMNS = [
    pyarrow.list_(FLOATS),
    pyarrow.large_list(FLOATS),
    pyarrow.list_(FLOATS, DIM),
    pyarrow.list_(pyarrow.float64()),
]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK_ROWS", 7)


def read_all(source: Source, start: int = 0) -> tuple[Ids, Vectors]:
    chunks = [*source.chunks(start)]
    if not chunks:
        return np.empty(0, np.int64), np.empty((0, source.dim), np.float32)
    ids, vectors = zip(*chunks, strict=True)
    return np.concatenate(ids), np.concatenate(vectors)


def write_parquet(path: Path, ids: Sequence[Any], vectors: Sequence[Any], kind: Any) -> Path:
    table = pyarrow.table({"id": pyarrow.array(ids), "vector": pyarrow.array(vectors, kind)})
    pyarrow.parquet.write_table(table, path, row_group_size=11)
    return path


def write_lines(path: Path, rows: Sequence[object]) -> Path:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def lengths(texts: Sequence[str]) -> Vectors:
    """Stands for an encoder: the vector of a text tells its length."""
    return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


# .npy


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_rows_of_an_npy_file_are_numbered(
    tmp_path: Path, random_vectors: RandomVectors, dtype: str
) -> None:
    written = random_vectors(20).astype(dtype)
    np.save(tmp_path / "v.npy", written)
    source = NpySource(tmp_path / "v.npy")
    assert (source.dim, source.rows) == (DIM, 20)
    ids, vectors = read_all(source)
    assert ids.tolist() == [*range(20)]
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, written.astype(np.float32))


@pytest.mark.parametrize("start", [0, 1, 7, 13, 19, 20])
def test_every_source_goes_on_from_any_row(
    tmp_path: Path, random_vectors: RandomVectors, start: int
) -> None:
    rows, numbers = random_vectors(20), np.arange(100, 120, dtype=np.int32)
    np.save(tmp_path / "v.npy", rows)
    np.save(tmp_path / "i.npy", numbers)
    parts = [
        write_parquet(
            tmp_path / f"{at}-{end}.parquet", numbers[at:end], [*rows[at:end]], COLUMNS[0]
        )
        for at, end in ((0, 12), (12, 12), (12, 20))
    ]
    texts = [{"id": int(i), "text": "x" * (int(i) - 99)} for i in numbers]
    lines = write_lines(tmp_path / "t.jsonl", texts)
    vector_sources = [
        NpySource(tmp_path / "v.npy", tmp_path / "i.npy"),
        ParquetSource((parts[0], parts[1], parts[2])),
    ]
    for source in vector_sources:
        ids, vectors = read_all(source, start)
        assert ids.tolist() == numbers[start:].tolist()
        np.testing.assert_array_equal(vectors, rows[start:])
    ids, vectors = read_all(TextSource(lines, lengths, 2, "e", 20, chunk_texts=3), start)
    assert ids.tolist() == numbers[start:].tolist()
    assert vectors[:, 0].tolist() == [*range(start + 1, 21)]


@pytest.mark.parametrize(
    "ids", [np.arange(3), np.arange(5.0), np.arange(5).reshape(5, 1), np.array(["a"] * 5)]
)
def test_ids_that_are_not_one_whole_number_per_vector_are_refused(
    tmp_path: Path, random_vectors: RandomVectors, ids: Ids
) -> None:
    np.save(tmp_path / "v.npy", random_vectors(5))
    np.save(tmp_path / "i.npy", ids)
    with pytest.raises(IndexBuildError, match=r"i\.npy must hold 5 whole numbers"):
        read_all(NpySource(tmp_path / "v.npy", tmp_path / "i.npy"))


@pytest.mark.parametrize(
    "array", [np.arange(5), np.ones(5), np.ones((2, 2, 2)), np.ones((2, 2), bool)]
)
def test_an_npy_file_of_something_else_is_refused(tmp_path: Path, array: Ids) -> None:
    np.save(tmp_path / "v.npy", array)
    with pytest.raises(IndexBuildError, match=r"floats \[rows, components\] are needed"):
        read_all(NpySource(tmp_path / "v.npy"))


def test_a_file_that_is_no_npy_or_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    path.write_bytes(b"no array")
    with pytest.raises(IndexBuildError, match="can be read"):
        read_all(NpySource(path))
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(IndexBuildError, match="can be read"):
        read_all(NpySource(path))


def test_a_source_is_known_by_its_files_and_their_content(
    tmp_path: Path, random_vectors: RandomVectors
) -> None:
    path = tmp_path / "v.npy"
    np.save(path, random_vectors(5))
    before = NpySource(path).identity
    assert NpySource(path).identity == before
    np.save(path, random_vectors(6))
    assert NpySource(path).identity != before
    one, other = (TextSource(path, lengths, 2, encoder).identity for encoder in ("a", "b"))
    assert one != other


# Parquet


@pytest.mark.parametrize("kind", COLUMNS, ids=str)
def test_lists_of_every_kind_are_read(
    tmp_path: Path, random_vectors: RandomVectors, kind: Any
) -> None:
    rows = random_vectors(20)
    ids = pyarrow.array(range(50, 70), pyarrow.uint16())
    source = ParquetSource((write_parquet(tmp_path / "a.parquet", ids, [*rows], kind),))
    assert (source.dim, source.rows) == (DIM, 20)
    found, vectors = read_all(source)
    assert found.tolist() == [*range(50, 70)]
    np.testing.assert_array_equal(vectors, rows)


def test_columns_have_the_names_that_are_given(tmp_path: Path) -> None:
    table = pyarrow.table({"key": [1], "embedding": [[1.0, 2.0]], "id": ["x"], "vector": ["y"]})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path)
    ids, vectors = read_all(ParquetSource((path,), "key", "embedding"))
    assert (ids.tolist(), vectors.tolist()) == ([1], [[1.0, 2.0]])
    with pytest.raises(
        IndexBuildError, match=r"no column 'item', it has key, embedding, id, vector"
    ):
        read_all(ParquetSource((path,), "item", "embedding"))


ONE = [1.0] * DIM


@pytest.mark.parametrize(
    ("ids", "vectors", "kind", "words"),
    [
        ([1, None], [ONE, ONE], COLUMNS[0], "missing values"),
        ([1, 2], [ONE, None], COLUMNS[0], "missing values"),
        ([1, 2], [ONE, None], COLUMNS[2], "remove rows without a vector"),
        ([1, 2], [ONE, [*ONE[1:], None]], COLUMNS[0], "missing values"),
        ([1, 2], [ONE, [*ONE[1:], None]], COLUMNS[2], "missing values"),
        ([1, 2], [ONE, ONE[1:]], COLUMNS[0], "differ in length"),
        ([1, 2, 3], [ONE, ONE[1:], [*ONE, 1.0]], COLUMNS[0], "differ in length"),
        ([1, 2], [ONE, []], COLUMNS[1], "differ in length"),
        (["1", "2"], [ONE, ONE], COLUMNS[0], "whole numbers are needed"),
        ([1.5, 2.5], [ONE, ONE], COLUMNS[0], "whole numbers are needed"),
        ([1, 2], [1.0, 2.0], FLOATS, "lists of floats are needed"),
        ([1, 2], [["1"], ["2"]], pyarrow.list_(pyarrow.string()), "lists of floats are needed"),
    ],
)
def test_parquet_files_that_hold_no_vectors_are_refused_by_name(
    tmp_path: Path, ids: list[Any], vectors: list[Any], kind: Any, words: str
) -> None:
    path = write_parquet(tmp_path / "a.parquet", ids, vectors, kind)
    with pytest.raises(IndexBuildError, match=words) as refused:
        read_all(ParquetSource((path,)))
    assert str(path) in str(refused.value)


def test_a_file_that_is_no_parquet_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(IndexBuildError, match=re.escape(f"{path} is no Parquet file")):
        read_all(ParquetSource((path,)))


def test_a_parquet_file_with_damaged_pages_is_refused_by_name(
    tmp_path: Path, random_vectors: RandomVectors
) -> None:
    path = write_parquet(tmp_path / "a.parquet", range(99), [*random_vectors(99)], COLUMNS[0])
    content = bytearray(path.read_bytes())
    content[8:2000] = bytes(1992)
    path.write_bytes(content)
    with pytest.raises(IndexBuildError, match=re.escape(f"{path} cannot be read")):
        read_all(ParquetSource((path,)))


def test_parquet_files_without_a_row_are_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", pyarrow.array([], pyarrow.int64()), [], COLUMNS[0])
    with pytest.raises(IndexBuildError, match="holds no rows"):
        _ = ParquetSource((path,)).dim


# Texts


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_texts_go_through_the_encoder_part_by_part(tmp_path: Path, name: str) -> None:
    seen: list[list[str]] = []

    def encode(texts: Sequence[str]) -> Vectors:
        seen.append([*texts])
        return lengths(texts)

    rows = [{"id": 10 * i, "text": "ä" * (i + 1), "more": None} for i in range(5)]
    path = write_lines(tmp_path / name, rows)
    ids, vectors = read_all(TextSource(path, encode, 2, "e", chunk_texts=2), start=1)
    assert ids.tolist() == [10, 20, 30, 40]
    assert vectors[:, 0].tolist() == [2, 3, 4, 5]
    assert seen == [["ää", "äää"], ["ääää", "äääää"]]  # nothing of the first


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"1",
        b"no json",
        b'{"id": 1}',
        b'{"text": "a"}',
        b'{"id": 1, "text": "a"',
        b'{"id": 1, "text": "\xff"}',
        b"[" * 100_000,
        b'{"id": "1", "text": "a"}',
        b'{"id": 1.0, "text": "a"}',
        b'{"id": true, "text": "a"}',
        b'{"id": -1, "text": "a"}',
        b'{"id": 9223372036854775808, "text": "a"}',
        b'{"id": 1, "text": " \\n"}',
        b'{"id": 1, "text": null}',
        b'{"id": 1, "text": ["a"]}',
    ],
    ids=lambda line: line[:40].decode(errors="replace"),
)
def test_a_line_that_is_no_text_with_an_id_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"id": 1, "text": "a"}\n' + line + b"\n")
    with pytest.raises(IndexBuildError, match=re.escape(f"{path} line 2")):
        read_all(TextSource(path, lengths, 2, "e"))


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-20], lambda c: c[:40] + b"x" + c[41:], lambda _: b"x"]
)
def test_a_file_that_cannot_be_decompressed_is_named(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = write_lines(tmp_path / "t.jsonl.gz", [{"id": i, "text": f"a{i}"} for i in range(500)])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IndexBuildError, match=re.escape(str(path))):
        read_all(TextSource(path, lengths, 2, "e"))
