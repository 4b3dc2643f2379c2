"""Held-out questions and the passages that were judged to answer them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.triton.text_encoder.tokens import Item
from optimize.data.folder import describe_provenance, read_lines, read_texts
from optimize.errors import SourceError
from optimize.sections import Evaluation

Rows = npt.NDArray[np.intp]

SPEED_QUESTIONS = 4096
QUESTION_WORDS = (8, 10)  # upper ends of the short and the middle segment, in words


@dataclass(frozen=True)
class Retrieval:
    """`relevant[i]` is the row in `passages` of the one passage judged for `questions[i]`.

    `segments` names rows of questions that are reported apart.
    """

    questions: list[str]
    passages: list[str]
    relevant: npt.NDArray[np.int64]
    segments: dict[str, Rows]
    calibration: list[str]
    training: list[str]
    provenance: str

    @property
    def examples(self) -> int:
        """How many held-out questions there are."""
        return len(self.questions)

    @property
    def profile_items(self) -> list[Item]:
        """What predictions were made for, in their order."""
        return list(self.questions)

    @property
    def speed_items(self) -> list[Item]:
        """What variants are timed on."""
        return list(self.questions[:SPEED_QUESTIONS])

    @property
    def summary(self) -> str:
        """What quality is measured on, in words."""
        return f"{len(self.questions):,} held-out questions over {len(self.passages):,} passages"

    def shortage(self, needed: Evaluation) -> str | None:
        """What the data lacks for a verdict, or None."""
        if len(self.questions) < needed.min_questions:
            return f"{len(self.questions)} questions evaluated, the recipe asks for {needed.min_questions}"
        if len(self.passages) < needed.min_passages:
            return f"{len(self.passages)} passages evaluated, the recipe asks for {needed.min_passages}"
        return None


def read_retrieval(folder: Path, evaluation: Evaluation) -> Retrieval:
    """Read a data folder. Raises SourceError when files are missing or disagree."""
    questions = read_lines(folder, "questions")[: evaluation.max_questions]
    passages = read_lines(folder, "passages")
    row_of = {passage["id"]: row for row, passage in enumerate(passages)}
    unknown = [q["passage_id"] for q in questions if q["passage_id"] not in row_of]
    if unknown:
        raise SourceError(
            f"{folder}: {len(unknown)} questions name a passage that is not there ({unknown[0]}): "
            "run `make data` and copy its files together"
        )
    if not questions:
        raise SourceError(f"{folder} holds no question: add some, or correct evaluation.data")
    texts = [question["question"] for question in questions]
    return Retrieval(
        questions=texts,
        passages=[passage["text"] for passage in passages],
        relevant=np.array([row_of[q["passage_id"]] for q in questions], dtype=np.int64),
        segments=segments_by_words(texts, [question.get("segment") for question in questions]),
        calibration=[row["text"] for row in read_lines(folder, "calibration")],
        training=read_texts(folder, "training"),
        provenance=describe_provenance(folder),
    )


def segments_by_words(texts: Sequence[str], labels: Sequence[str | None]) -> dict[str, Rows]:
    """Rows by the number of words of a text, and by the segment that the data names for it."""
    short, middle = QUESTION_WORDS
    words = np.array([len(text.split()) for text in texts])
    found = {
        f"up to {short} words": np.flatnonzero(words <= short),
        f"{short + 1} to {middle} words": np.flatnonzero((words > short) & (words <= middle)),
        f"over {middle} words": np.flatnonzero(words > middle),
    }
    names = sorted({label for label in labels if label})
    found |= {name: np.flatnonzero([label == name for label in labels]) for name in names}
    return {name: rows for name, rows in found.items() if len(rows)}
