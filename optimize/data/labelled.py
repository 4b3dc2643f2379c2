"""Labelled texts: what a classifier is trained on, validated on and held to."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.files import sha256_file, sha256_lines
from models.triton.text_encoder.tokens import Item
from optimize.data.folder import describe_provenance, read_lines
from optimize.data.retrieval import Rows, segments_by_words
from optimize.errors import SourceError
from optimize.sections import Evaluation

SPEED_TEXTS = 4096
MIN_SEGMENT = 30  # held-out texts: of smaller classes no interval tells anything


@dataclass(frozen=True)
class Labelled:
    """Labels are rows of `label_names`. `texts` are held out; `segments` names rows of them."""

    texts: list[str]
    labels: npt.NDArray[np.int64]
    label_names: list[str]
    train_texts: list[str]
    train_labels: npt.NDArray[np.int64]
    segments: dict[str, Rows]
    calibration: list[str]
    provenance: str
    digests: dict[str, str]

    @property
    def examples(self) -> int:
        """How many held-out texts there are."""
        return len(self.texts)

    @property
    def training(self) -> list[str]:
        """The training texts without their labels."""
        return self.train_texts

    @property
    def profile_items(self) -> list[Item]:
        """What predictions were made for, in their order."""
        return list(self.texts)

    @property
    def speed_items(self) -> list[Item]:
        """What variants are timed on."""
        return list(self.texts[:SPEED_TEXTS])

    @cached_property
    def summary(self) -> str:
        """What quality is measured on, in words."""
        return (
            f"{len(self.texts):,} held-out texts of {len(self.label_names)} classes "
            f"({len(self.train_texts):,} to train on)"
        )

    def shortage(self, needed: Evaluation) -> str | None:
        """What the data lacks for a verdict, or None."""
        if len(self.texts) < needed.min_questions:
            return f"{len(self.texts)} texts evaluated, the recipe asks for {needed.min_questions}"
        counts = Counter(self.labels.tolist())
        rarest = min(range(len(self.label_names)), key=lambda label: counts[label])
        if counts[rarest] < needed.min_per_class:
            return (
                f"{counts[rarest]} texts of class {self.label_names[rarest]} evaluated, the recipe "
                f"asks for {needed.min_per_class} (evaluation.min_per_class)"
            )
        return None


def read_labelled(folder: Path, evaluation: Evaluation) -> Labelled:
    """Read a data folder. Raises SourceError when labels are missing or of one class."""
    train, test = (read_rows(folder, name) for name in ("train", "test"))
    asked = list(getattr(evaluation.data, "labels", ()))
    names = asked or sorted({label for _, label, _ in train})
    if len(names) < 2:
        raise SourceError(
            f"{folder}: every training text has the label {names[0] if names else 'nothing'!r}: a "
            "classifier needs at least two classes"
        )
    if asked and (other := sorted({label for _, label, _ in [*train, *test]} - set(asked))):
        raise SourceError(
            f"{folder}: labels {', '.join(other)} are in the data but not in evaluation.data.labels "
            f"({', '.join(asked)}): write both alike, in the order of the model's outputs"
        )
    if unseen := sorted({label for _, label, _ in test} - set(names)):
        raise SourceError(
            f"{folder}: labels {', '.join(unseen)} are tested but never trained: add training texts of "
            "these classes, or drop them from the test"
        )
    texts = [text for text, _, _ in test]
    labels = np.array([names.index(label) for _, label, _ in test], dtype=np.int64)
    return Labelled(
        texts=texts,
        labels=labels,
        label_names=names,
        train_texts=[text for text, _, _ in train],
        train_labels=np.array([names.index(label) for _, label, _ in train], dtype=np.int64),
        segments=segments_by_words(texts, [s for _, _, s in test]) | by_class(labels, names),
        calibration=[row["text"] for row in read_lines(folder, "calibration")],
        provenance=describe_provenance(folder),
        digests={name: sha256_file(folder / f"{name}.jsonl.gz") for name in ("train", "test")}
        | ({"labels": sha256_lines(asked)} if asked else {}),
    )


def refuse_other_classes(classes: int, label_names: Sequence[str]) -> None:
    """Raise SourceError when a model knows another number of classes than the data."""
    if classes != len(label_names):
        raise SourceError(
            f"the model knows {classes} classes, the data {len(label_names)} ({', '.join(label_names)}): "
            "name all of the model's in evaluation.data.labels"
        )


def read_rows(folder: Path, name: str) -> list[tuple[str, str, str | None]]:
    """Text, label and segment of each row."""
    rows = read_lines(folder, name)
    if missing := sum(not row.get("label") for row in rows):
        raise SourceError(
            f"{folder / name}.jsonl.gz: {missing} of {len(rows)} texts have no label: label them, or "
            "correct the name of the label column"
        )
    return [(row["text"], str(row["label"]), row.get("segment")) for row in rows]


def by_class(labels: npt.NDArray[np.int64], names: Sequence[str]) -> dict[str, Rows]:
    """The rows of each class that has enough of them."""
    rows = {f"class {name}": np.flatnonzero(labels == label) for label, name in enumerate(names)}
    return {name: found for name, found in rows.items() if len(found) >= MIN_SEGMENT}
