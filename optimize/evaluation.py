"""Held-out questions and the passages that were judged to answer them."""

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.manifest import sha256_file
from optimize.errors import SourceError

FILES = ("questions", "passages", "calibration")


@dataclass(frozen=True)
class Evaluation:
    """`relevant[i]` is the row in `passages` of the one passage judged for `questions[i]`."""

    questions: list[str]
    passages: list[str]
    relevant: npt.NDArray[np.int64]
    calibration: list[str]
    provenance: str


def read_evaluation(directory: Path) -> Evaluation:
    """Read the data step's files. Raises SourceError when they are missing or disagree."""
    questions, passages, calibration = (read_lines(directory, name) for name in FILES)
    row_of = {passage["id"]: row for row, passage in enumerate(passages)}
    unknown = [q["passage_id"] for q in questions if q["passage_id"] not in row_of]
    if unknown:
        raise SourceError(
            f"{directory}: {len(unknown)} questions name a passage that is not there ({unknown[0]}): "
            "run `make data` and copy its files together"
        )
    return Evaluation(
        questions=[q["question"] for q in questions],
        passages=[p["text"] for p in passages],
        relevant=np.array([row_of[q["passage_id"]] for q in questions], dtype=np.int64),
        calibration=[c["text"] for c in calibration],
        provenance=describe(directory),
    )


def read_lines(directory: Path, name: str) -> list[dict[str, Any]]:
    """The JSON lines of one gzipped file."""
    path = directory / f"{name}.jsonl.gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            return [json.loads(line) for line in stream]
    except FileNotFoundError as error:
        raise SourceError(f"no evaluation data at {path}: correct evaluation.data") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise SourceError(f"{path} is damaged ({error}): restore it or run `make data`") from error


def evaluation_digests(directory: Path) -> dict[str, str]:
    """sha256 of each file, for the key of the steps that read them."""
    paths = {name: directory / f"{name}.jsonl.gz" for name in FILES}
    return {name: sha256_file(path) for name, path in paths.items() if path.is_file()}


def describe(directory: Path) -> str:
    """One line on the origin and licence of the data, from PROVENANCE.json."""
    path = directory / "PROVENANCE.json"
    if not path.is_file():
        return f"{directory.name}: no PROVENANCE.json, origin and licence unknown"
    try:
        stored = json.loads(path.read_text())
        return f"{stored['origin']}; {stored['package']} {stored['path']}; {stored['licence']}"
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path} cannot be read ({type(error).__name__}: {error}): give it the fields origin, "
            "package, path and licence, or remove it"
        ) from error
