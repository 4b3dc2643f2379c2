"""Classifiers: accuracy, macro-F1 and expected calibration error of held-out texts."""

import numpy as np
import numpy.typing as npt

from optimize.data.labelled import Labelled
from optimize.errors import SourceError
from optimize.quality import Encode
from optimize.tasks.embed import encode_all

Probabilities = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]

ECE_BINS = 15  # of equal width (Guo et al., 2017)


def predict(encode: Encode, data: Labelled) -> Probabilities:
    """The probabilities [N, classes] of the held-out texts. Raises SourceError for other classes."""
    probabilities = encode_all(encode, data.texts, "texts")
    if probabilities.shape[1] != len(data.label_names):
        raise SourceError(
            f"the model knows {probabilities.shape[1]} classes, the data {len(data.label_names)} "
            f"({', '.join(data.label_names)}): name all of the model's in evaluation.data.labels"
        )
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
