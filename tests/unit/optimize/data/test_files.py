import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from optimize.data.files import build_from_files, file_digests, read_table
from optimize.data.labelled import read_labelled
from optimize.data.retrieval import read_retrieval
from optimize.errors import SourceError
from optimize.sections import Evaluation, FolderData, LabelledFiles, PairFiles

PAIRS = [
    {"question": f"question {n}?", "passage": f"the passage {n}, at length"} for n in range(60)
]
LABELLED = [{"text": f"text {n}", "label": f"class {n % 3}"} for n in range(60)]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    quoted = [",".join(f'"{value}"' for value in row.values()) for row in rows]
    path.write_text("\n".join([",".join(rows[0]), *quoted]) + "\n", encoding="utf-8-sig")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)


WRITERS = {".csv": write_csv, ".jsonl": write_jsonl, ".parquet": write_parquet}


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.open(folder / f"{name}.jsonl.gz", "rt")]


def evaluation(folder: Path) -> Evaluation:
    return Evaluation(data=FolderData(folder=folder))


@pytest.mark.parametrize("suffix", WRITERS)
def test_pairs_of_any_format_become_a_retrieval_folder(tmp_path: Path, suffix: str):
    path = tmp_path / f"pairs{suffix}"
    WRITERS[suffix](path, PAIRS)
    build_from_files(PairFiles(kind="pairs", pairs=path, licence="mine"), tmp_path)
    data = read_retrieval(tmp_path, evaluation(tmp_path))
    assert 10 < len(data.questions) < 50
    for question, row in zip(data.questions, data.relevant, strict=True):
        number = question.split()[1].rstrip("?")
        assert data.passages[row] == f"the passage {number}, at length"
    assert "mine" in data.provenance


def test_nothing_that_is_evaluated_is_trained_or_calibrated_on(tmp_path: Path):
    path = tmp_path / "pairs.csv"
    write_csv(path, [*PAIRS, *[{**row, "passage": row["passage"] + "!"} for row in PAIRS]])
    build_from_files(PairFiles(kind="pairs", pairs=path, licence="mine"), tmp_path)
    held = {row["question"] for row in rows_of(tmp_path, "questions")}
    held |= {row["text"] for row in rows_of(tmp_path, "passages")}
    used = {row["text"] for name in ("training", "calibration") for row in rows_of(tmp_path, name)}
    assert held
    assert used
    assert not held & used


def test_distractors_join_the_passages(tmp_path: Path):
    write_csv(tmp_path / "pairs.csv", PAIRS)
    write_csv(tmp_path / "more.csv", [{"passage": "nobody asks for this"}])
    data = PairFiles(
        kind="pairs", pairs=tmp_path / "pairs.csv", distractors=tmp_path / "more.csv", licence="-"
    )
    build_from_files(data, tmp_path)
    assert "nobody asks for this" in {row["text"] for row in rows_of(tmp_path, "passages")}


@pytest.mark.parametrize("suffix", WRITERS)
def test_labelled_texts_of_any_format_become_a_labelled_folder(tmp_path: Path, suffix: str):
    path = tmp_path / f"texts{suffix}"
    WRITERS[suffix](path, LABELLED)
    build_from_files(LabelledFiles(kind="labelled", train=path, licence="mine"), tmp_path)
    data = read_labelled(tmp_path, evaluation(tmp_path))
    assert data.label_names == ["class 0", "class 1", "class 2"]
    assert len(data.texts) + len(data.train_texts) == 60
    assert not set(data.texts) & set(data.train_texts)


def test_a_text_with_two_labels_is_dropped(tmp_path: Path):
    path = tmp_path / "texts.jsonl"
    write_jsonl(path, [*LABELLED, {"text": "text 7", "label": "another"}, LABELLED[3]])
    build_from_files(LabelledFiles(kind="labelled", train=path, licence="-"), tmp_path)
    texts = [row["text"] for name in ("train", "test") for row in rows_of(tmp_path, name)]
    assert sorted(texts) == sorted(row["text"] for row in LABELLED if row["text"] != "text 7")


def test_a_test_file_of_its_own_is_never_trained_on(tmp_path: Path):
    write_csv(tmp_path / "train.csv", LABELLED)
    write_csv(tmp_path / "test.csv", LABELLED[:20])
    data = LabelledFiles(
        kind="labelled", train=tmp_path / "train.csv", test=tmp_path / "test.csv", licence="-"
    )
    build_from_files(data, tmp_path)
    assert len(rows_of(tmp_path, "test")) == 20
    assert len(rows_of(tmp_path, "train")) == 40


@pytest.mark.parametrize(
    ("name", "content", "columns", "words"),
    [
        ("x.csv", b"a,b\n1,2\n", ["text"], "has no column text: it has a, b; name yours"),
        ("x.csv", b"text\n\xff\xfe\n", ["text"], "cannot be read"),
        ("x.csv", b"text,label\none\n", ["text"], "cannot be read"),
        ("x.csv", b"text,label\none,\n", ["text", "label"], "always empty: label"),
        ("x.jsonl", b"{broken\n", ["text"], "cannot be read"),
        ("x.parquet", b"no parquet", ["text"], "cannot be read"),
        ("x.xlsx", b"", ["text"], r"ends in \.csv, \.jsonl, \.parquet"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, columns: list[str], words: str
):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=words):
        read_table(path, columns)


def test_a_missing_file_is_named(tmp_path: Path):
    data = LabelledFiles(kind="labelled", train=tmp_path / "none.csv", licence="-")
    with pytest.raises(SourceError, match=r"no data file at .*none\.csv"):
        file_digests(data)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text": f"t{n}", "label": "one"} for n in range(40)], "at least two classes"),
        ([{"text": f"t{n}", "label": ""} for n in range(40)], "always empty: label"),
    ],
)
def test_labels_that_are_missing_or_all_the_same_are_refused(
    tmp_path: Path, rows: list[dict[str, str]], words: str
):
    path = tmp_path / "texts.csv"
    write_csv(path, rows)
    data = LabelledFiles(kind="labelled", train=path, licence="-")
    with pytest.raises(SourceError, match=words):
        build_and_read(data, tmp_path)


def build_and_read(data: LabelledFiles, folder: Path) -> None:
    build_from_files(data, folder)
    read_labelled(folder, evaluation(folder))


def test_too_few_of_a_class_is_a_shortage_and_not_an_error(tmp_path: Path):
    path = tmp_path / "texts.csv"
    write_csv(path, LABELLED)
    build_from_files(LabelledFiles(kind="labelled", train=path, licence="-"), tmp_path)
    asked = Evaluation(data=FolderData(folder=tmp_path), min_questions=5, min_per_class=1000)
    shortage = read_labelled(tmp_path, asked).shortage(asked)
    assert shortage is not None
    assert "the recipe asks for 1000" in shortage
