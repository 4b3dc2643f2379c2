"""Your own data, as CSV, JSON lines or Parquet, into a data folder like the shipped ones."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from models.files import sha256_file, sha256_lines, write_atomically
from optimize.data.boolq import compress, text_id
from optimize.errors import SourceError
from optimize.sections import LabelledFiles, PairFiles

CALIBRATION_TEXTS = 512

Row = dict[str, Any]
Files = dict[str, list[Row]]


@dataclass(frozen=True)
class Table:
    """Rows of stripped texts, and how many were dropped because a column was empty."""

    rows: list[Row]
    dropped: int


def build_from_files(data: PairFiles | LabelledFiles, destination: Path) -> None:
    """The data step: gzipped JSON lines and PROVENANCE.json. Raises SourceError."""
    files, dropped = retrieval_files(data) if isinstance(data, PairFiles) else labelled_files(data)
    lines = {
        name: [json.dumps(row, ensure_ascii=False) for row in rows] for name, rows in files.items()
    }
    for name, content in lines.items():
        write_atomically(destination / f"{name}.jsonl.gz", compress(content))
    provenance = {
        "origin": "your own data: " + ", ".join(path.name for path in paths_of(data)) + dropped,
        "licence": data.licence,
        "cut": f"{data.held_out:.0%} held out by a hash of the text",
        "files": {
            name: {"lines": len(content), "sha256_of_lines": sha256_lines(content)}
            for name, content in lines.items()
        },
    }
    write_atomically(destination / "PROVENANCE.json", json.dumps(provenance, indent=2).encode())


def file_digests(data: PairFiles | LabelledFiles) -> list[str]:
    """sha256 of each of the files. Raises SourceError when one is not there."""
    for path in paths_of(data):
        if not path.is_file():
            raise SourceError(f"no data file at {path}: correct evaluation.data")
    return [sha256_file(path) for path in paths_of(data)]


def paths_of(data: PairFiles | LabelledFiles) -> list[Path]:
    """The files that a recipe names."""
    named = (
        (data.pairs, data.distractors) if isinstance(data, PairFiles) else (data.train, data.test)
    )
    return [path for path in named if path is not None]


def retrieval_files(data: PairFiles) -> tuple[Files, str]:
    """Pairs split by passage: nothing that is evaluated is trained or calibrated on."""
    segment = [data.segment] if data.segment else []
    pairs = read_table(data.pairs, [data.question, data.passage], segment)
    more = read_table(data.distractors, ["passage"]) if data.distractors else Table([], 0)
    held, rest = split(pairs.rows, data.passage, data.held_out)
    if not held or not rest:
        raise SourceError(
            f"{data.pairs.name}: {len(held)} pairs held out, {len(rest)} to train on: add pairs with "
            "other passages, or change held_out"
        )
    asked = {key_of(row[data.question]) for row in held}
    passages = by_key([*(row[data.passage] for row in held), *(r["passage"] for r in more.rows)])
    questions = by_key(row[data.question] for row in rest)
    unasked = [text for key, text in questions.items() if key not in asked | passages.keys()]
    unread = by_key(row[data.passage] for row in rest)
    unread = {key: text for key, text in unread.items() if key not in asked | passages.keys()}
    judged = {(key_of(r[data.question]), key_of(r[data.passage])): r for r in reversed(held)}
    files = {
        "questions": [
            {
                "question": row[data.question],
                "passage_id": text_id(passages[key_of(row[data.passage])]),
                **segment_of(row, data.segment),
            }
            for row in reversed(judged.values())
        ],
        "passages": [{"id": text_id(passage), "text": passage} for passage in passages.values()],
        "calibration": [{"text": text} for text in unasked[:CALIBRATION_TEXTS]],
        "training": [{"text": text} for text in [*unasked, *unread.values()]],
    }
    return files, dropped_words(pairs, more)


def labelled_files(data: LabelledFiles) -> tuple[Files, str]:
    """Labelled texts; without a test file a share of them is held out. Contradictions are dropped."""
    columns, segment = [data.text, data.label], [data.segment] if data.segment else []
    table = read_table(data.train, columns, segment)
    tested = read_table(data.test, columns, segment) if data.test else Table([], 0)
    rows, test = distinct(table.rows, data), distinct(tested.rows, data)
    if data.test is not None:
        known = {key_of(row["text"]) for row in test}
        train = [row for row in rows if key_of(row["text"]) not in known]
    else:
        test, train = split(rows, "text", data.held_out)
    if not test or not train:
        raise SourceError(
            f"{data.train.name}: {len(test)} texts to test, {len(train)} to train on: add texts, or "
            "change held_out"
        )
    calibration = [{"text": row["text"]} for row in train[:CALIBRATION_TEXTS]]
    files = {"train": train, "test": test, "calibration": calibration}
    return files, dropped_words(table, tested)


def distinct(rows: Sequence[Row], data: LabelledFiles) -> list[Row]:
    """Each text once, unless it stands there with several labels."""
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        labels[key_of(row[data.text])].add(row[data.label])
    kept: dict[str, Row] = {}
    for row in rows:
        key = key_of(row[data.text])
        if len(labels[key]) == 1 and key not in kept:
            text = {"text": row[data.text], "label": row[data.label]}
            kept[key] = text | segment_of(row, data.segment)
    return list(kept.values())


def split(rows: Sequence[Row], column: str, share: float) -> tuple[list[Row], list[Row]]:
    """The rows that are evaluated and the others: by a hash, so that the split survives new rows."""
    held = [int(text_id(key_of(row[column])), 16) / 16**16 < share for row in rows]
    return (
        [row for row, is_held in zip(rows, held, strict=True) if is_held],
        [row for row, is_held in zip(rows, held, strict=True) if not is_held],
    )


def key_of(text: str) -> str:
    """What makes two texts the same one: not their case, nor their white space."""
    return " ".join(text.lower().split())


def by_key(texts: Iterable[str]) -> dict[str, str]:
    """Each text once, as it stands first."""
    kept: dict[str, str] = {}
    for text in texts:
        kept.setdefault(key_of(text), text)
    return kept


def segment_of(row: Row, column: str | None) -> dict[str, str]:
    """The segment that a row names, if it names one."""
    return {"segment": row[column]} if column and row[column] else {}


def dropped_words(*tables: Table) -> str:
    """How many rows were not whole, in words."""
    dropped = sum(table.dropped for table in tables)
    return f" ({dropped} rows with an empty column left out)" if dropped else ""


def read_table(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """The rows of a file with these columns, as stripped texts; a row needs all but the optional ones.

    Raises SourceError when the file cannot be read, lacks a column or has no row left.
    """
    table = open_table(path)
    wanted = [*columns, *optional]
    if missing := [column for column in wanted if column not in table.column_names]:
        raise SourceError(
            f"{path.name} has no column {', '.join(missing)}: it has {', '.join(table.column_names)}; "
            "name yours in the recipe's data section"
        )
    try:
        values = {column: table.column(column).to_pylist() for column in wanted}
    except (pa.ArrowException, KeyError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    texts = [map(as_text, values[column]) for column in wanted]
    rows = [dict(zip(wanted, row, strict=True)) for row in zip(*texts, strict=True)]
    kept = [row for row in rows if all(row[column] for column in columns)]
    if not kept:
        empty = [column for column in columns if not any(row[column] for row in rows)]
        raise SourceError(
            f"{path.name}: no row of {len(rows)} is whole (always empty: {', '.join(empty) or 'none'}): "
            "fill the columns, or name others"
        )
    return Table(kept, len(rows) - len(kept))


def column_names(path: Path) -> list[str]:
    """The columns of a data file. Raises SourceError."""
    if not path.is_file():
        raise SourceError(f"no data file at {path}: name one that ends in {', '.join(READERS)}")
    return list(open_table(path).column_names)


def open_table(path: Path) -> pa.Table:
    """A file as a table, read by what its name ends in. Raises SourceError."""
    if path.suffix.lower() not in READERS:
        raise SourceError(
            f"{path.name}: use a file that ends in {', '.join(READERS)}: by it the format is known"
        )
    try:
        table = READERS[path.suffix.lower()](path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    names = table.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SourceError(
            f"{path.name} has the column {', '.join(twice)} twice: rename one of them"
        )
    return table


def unreadable(path: Path, error: Exception) -> SourceError:
    """A file that is not what its name says."""
    reason = str(error).splitlines()[0]
    return SourceError(
        f"{path.name} cannot be read ({reason}): it must be UTF-8, with the same columns and types in "
        "each row"
    )


def as_text(value: Any) -> str:
    """A cell as text. Numbers of a column with gaps are floats: 3.0 means 3, not-a-number a gap."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def read_csv(path: Path) -> pa.Table:
    """A CSV file with a heading; every column is text."""
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    names = pyarrow.csv.open_csv(path, parse_options=parse).schema.names
    convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    return pyarrow.csv.read_csv(path, parse_options=parse, convert_options=convert)


READERS: Mapping[str, Callable[[Path], pa.Table]] = {
    ".csv": read_csv,
    ".jsonl": pyarrow.json.read_json,
    ".parquet": pyarrow.parquet.read_table,
}
