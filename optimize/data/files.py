"""Your own data, as CSV, JSON lines or Parquet, into a data folder like the shipped ones."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from models.manifest import sha256_file, sha256_lines, write_atomically
from optimize.data.boolq import compress, text_id
from optimize.errors import SourceError
from optimize.sections import LabelledFiles, PairFiles

CALIBRATION_TEXTS = 512

Row = dict[str, Any]
Files = dict[str, list[Row]]


def build_from_files(data: PairFiles | LabelledFiles, destination: Path) -> None:
    """The data step: gzipped JSON lines and PROVENANCE.json. Raises SourceError."""
    files = retrieval_files(data) if isinstance(data, PairFiles) else labelled_files(data)
    lines = {
        name: [json.dumps(row, ensure_ascii=False) for row in rows] for name, rows in files.items()
    }
    for name, content in lines.items():
        write_atomically(destination / f"{name}.jsonl.gz", compress(content))
    provenance = {
        "origin": "your own data: " + ", ".join(path.name for path in paths_of(data)),
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


def retrieval_files(data: PairFiles) -> Files:
    """Pairs split by passage: nothing that is evaluated is trained or calibrated on."""
    columns = [data.question, data.passage, *([data.segment] if data.segment else [])]
    pairs = read_table(data.pairs, columns)
    more = read_table(data.distractors, ["passage"]) if data.distractors else []
    held = [row for row in pairs if is_held_out(row[data.passage], data.held_out)]
    rest = [row for row in pairs if not is_held_out(row[data.passage], data.held_out)]
    if not held or not rest:
        raise SourceError(
            f"{data.pairs.name}: {len(held)} pairs held out, {len(rest)} to train on: add pairs with "
            "other passages, or change held_out"
        )
    asked = {row[data.question] for row in held}
    questions = list(dict.fromkeys(r[data.question] for r in rest if r[data.question] not in asked))
    passages = dict.fromkeys([*(row[data.passage] for row in held), *(r["passage"] for r in more)])
    unread = [p for p in dict.fromkeys(r[data.passage] for r in rest) if p not in passages]
    return {
        "questions": [
            {
                "question": row[data.question],
                "passage_id": text_id(row[data.passage]),
                **({"segment": row[data.segment]} if data.segment else {}),
            }
            for row in held
        ],
        "passages": [{"id": text_id(passage), "text": passage} for passage in passages],
        "calibration": [{"text": text} for text in questions[:CALIBRATION_TEXTS]],
        "training": [{"text": text} for text in [*questions, *unread]],
    }


def labelled_files(data: LabelledFiles) -> Files:
    """Labelled texts; without a test file a share of them is held out. Contradictions are dropped."""
    columns = [data.text, data.label, *([data.segment] if data.segment else [])]
    rows = distinct(read_table(data.train, columns), data)
    if data.test is not None:
        test = distinct(read_table(data.test, columns), data)
        tested = {row["text"] for row in test}
        train = [row for row in rows if row["text"] not in tested]
    else:
        test = [row for row in rows if is_held_out(row["text"], data.held_out)]
        train = [row for row in rows if not is_held_out(row["text"], data.held_out)]
    if not test or not train:
        raise SourceError(
            f"{data.train.name}: {len(test)} texts to test, {len(train)} to train on: add texts, or "
            "change held_out"
        )
    calibration = [{"text": row["text"]} for row in train[:CALIBRATION_TEXTS]]
    return {"train": train, "test": test, "calibration": calibration}


def distinct(rows: Sequence[Row], data: LabelledFiles) -> list[Row]:
    """Each text once, unless it stands there with several labels."""
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        labels[row[data.text]].add(row[data.label])
    kept: dict[str, Row] = {}
    for row in rows:
        if len(labels[row[data.text]]) == 1:
            segment = {"segment": row[data.segment]} if data.segment else {}
            kept[row[data.text]] = {"text": row[data.text], "label": row[data.label], **segment}
    return list(kept.values())


def is_held_out(text: str, share: float) -> bool:
    """Whether a text is evaluated: by its hash, so that the split survives new rows."""
    return int(text_id(text.lower().strip()), 16) / 16**16 < share


def read_table(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a file with these columns, as stripped texts; rows with an empty one are dropped.

    Raises SourceError when the file cannot be read, lacks a column or has no row left.
    """
    try:
        table = READERS[path.suffix.lower()](path)
    except KeyError as error:
        raise SourceError(
            f"{path.name}: use a file that ends in {', '.join(READERS)}: by it the format is known"
        ) from error
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{path.name} cannot be read ({error}): it must be UTF-8, with the same columns in each row"
        ) from error
    if missing := [column for column in columns if column not in table.column_names]:
        raise SourceError(
            f"{path.name} has no column {', '.join(missing)}: it has {', '.join(table.column_names)}; "
            "name yours in the recipe's data section"
        )
    rows = [
        {name: "" if value is None else str(value).strip() for name, value in row.items()}
        for row in table.select(list(columns)).to_pylist()
    ]
    kept = [row for row in rows if all(row[column] for column in columns)]
    if not kept:
        empty = [column for column in columns if not any(row[column] for row in rows)]
        raise SourceError(
            f"{path.name}: no row of {len(rows)} is whole (always empty: {', '.join(empty) or 'none'}): "
            "fill the columns, or name others"
        )
    return kept


def read_csv(path: Path) -> pa.Table:
    """A CSV file with a heading; every column is text."""
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    names = pyarrow.csv.open_csv(path, parse_options=parse).schema.names
    convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    return pyarrow.csv.read_csv(path, parse_options=parse, convert_options=convert)


READERS = {
    ".csv": read_csv,
    ".jsonl": pyarrow.json.read_json,
    ".parquet": pyarrow.parquet.read_table,
}
