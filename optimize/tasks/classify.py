"""Classifiers: accuracy, macro-F1 and expected calibration error of held-out texts."""

import numpy as np
import numpy.typing as npt

from models.manifest import Record
from optimize.data.labelled import MIN_SEGMENT, Labelled, refuse_other_classes
from optimize.quality import Encode
from optimize.tasks.embed import encode_all

Probabilities = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]

ECE_BINS = 15  # of equal width (Guo et al., 2017)


class ClassFigures(Record):
    """How one class fares among the held-out texts. A share of nothing is None."""

    label: str
    texts: int
    """Held-out texts of this class."""
    enough: bool
    """Whether they are enough to judge the class by."""
    precision: float | None
    """Right guesses among the guesses of this class."""
    recall: float | None
    """Right guesses among the texts of this class."""
    f1: float | None
    """The harmonic mean of both."""


def predict(encode: Encode, data: Labelled) -> Probabilities:
    """The probabilities [N, classes] of the held-out texts. Raises SourceError for other classes."""
    probabilities = encode_all(encode, data.texts, "texts")
    refuse_other_classes(probabilities.shape[1], data.label_names)
    return probabilities


def measure(data: Labelled, predictions: Probabilities, rows: Rows) -> dict[str, float]:
    """Every metric over some rows of the held-out texts."""
    probabilities, labels = predictions[rows], data.labels[rows]
    guesses = probabilities.argmax(axis=1)
    right = guesses == labels
    return {
        "accuracy": float(right.mean()),
        "macro_f1": macro_f1(guesses, labels, len(data.label_names)),
        "ece": expected_calibration_error(probabilities.max(axis=1), right),
    }


def class_figures(data: Labelled, predictions: Probabilities) -> list[ClassFigures]:
    """Every class in the order of the labels, also those with few held-out texts or none."""
    guesses, classes = predictions.argmax(axis=1), len(data.label_names)
    hits = np.bincount(data.labels[guesses == data.labels], minlength=classes).tolist()
    texts = np.bincount(data.labels, minlength=classes).tolist()
    guessed = np.bincount(guesses, minlength=classes).tolist()
    return [
        ClassFigures(
            label=label,
            texts=texts[row],
            enough=texts[row] >= MIN_SEGMENT,
            precision=share(hits[row], guessed[row]),
            recall=share(hits[row], texts[row]),
            f1=share(2 * hits[row], texts[row] + guessed[row]),
        )
        for row, label in enumerate(data.label_names)
    ]


def share(part: int, whole: int) -> float | None:
    """A part of a whole; None of nothing."""
    return part / whole if whole else None


def macro_f1(guesses: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], classes: int) -> float:
    """The mean F1 of the classes that occur among labels or guesses."""
    hits = np.bincount(labels[guesses == labels], minlength=classes)
    both = np.bincount(labels, minlength=classes) + np.bincount(guesses, minlength=classes)
    present = both > 0
    return float((2 * hits[present] / both[present]).mean())


def expected_calibration_error(
    confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]
) -> float:
    """How far confidence is from accuracy, averaged over ECE_BINS bins of confidence by their size."""
    bins = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(confidence))
