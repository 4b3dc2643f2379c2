import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support

from optimize.data.labelled import Labelled
from optimize.errors import SourceError
from optimize.tasks.classify import (
    class_figures,
    expected_calibration_error,
    macro_f1,
    measure,
    predict,
)


def certain(guesses: list[int], classes: int) -> np.ndarray:
    """Probabilities of a model that guesses these classes."""
    return np.eye(classes, dtype=np.float32)[guesses]


def labelled(labels: list[int], classes: int) -> Labelled:
    return Labelled(
        texts=[str(n) for n in range(len(labels))],
        labels=np.array(labels),
        label_names=[f"class {n}" for n in range(classes)],
        train_texts=[],
        train_labels=np.array([], dtype=np.int64),
        segments={},
        calibration=[],
        provenance="made up",
        digests={},
    )


def test_macro_f1_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, guesses = rng.integers(0, 5, 200), rng.integers(0, 6, 200)
    expected = f1_score(labels, guesses, average="macro", zero_division=0)
    assert macro_f1(guesses, labels, 8) == pytest.approx(expected)


def test_a_model_that_is_as_often_right_as_it_says_is_calibrated():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.5, 1, 20_000).astype(np.float32)
    right = rng.random(20_000) < confidence
    assert expected_calibration_error(confidence, right) < 0.02


def test_a_model_that_is_always_certain_and_half_right_is_off_by_a_half():
    confidence = np.ones(100, dtype=np.float32)
    right = np.arange(100) % 2 == 0
    assert expected_calibration_error(confidence, right) == pytest.approx(0.5)


def test_bins_are_of_equal_width_and_weigh_by_their_size():
    confidence = np.array([0.95, 0.95, 0.95, 0.5], dtype=np.float32)
    right = np.array([True, True, True, False])
    assert expected_calibration_error(confidence, right) == pytest.approx((3 * 0.05 + 0.5) / 4)


def test_every_metric_is_of_the_rows_asked_for():
    data = labelled([0, 1, 1], classes=2)
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], dtype=np.float32)
    assert measure(data, probabilities, np.array([0, 1]))["accuracy"] == 1.0
    assert measure(data, probabilities, np.array([0, 1, 2]))["accuracy"] == pytest.approx(2 / 3)
    assert measure(data, probabilities, np.array([0]))["ece"] == pytest.approx(0.1, abs=1e-6)


def test_the_figures_of_each_class_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels, guesses = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    found = class_figures(labelled(labels.tolist(), 4), certain(guesses.tolist(), 4))
    expected = precision_recall_fscore_support(labels, guesses)
    assert [figures.label for figures in found] == [f"class {n}" for n in range(4)]
    for name, values in zip(("precision", "recall", "f1", "texts"), expected, strict=True):
        assert [getattr(figures, name) for figures in found] == pytest.approx(values.tolist())


def test_a_class_with_few_texts_or_none_is_there_and_marked():
    labels = [0] * 30 + [1] * 29
    common, few, none = class_figures(labelled(labels, 3), certain([0] * 59, 3))
    assert (common.texts, common.enough) == (30, True)
    assert (few.texts, few.enough) == (29, False)
    assert (few.precision, few.recall, few.f1) == (None, 0, 0)  # it was never guessed
    assert (none.texts, none.enough) == (0, False)
    assert (none.precision, none.recall, none.f1) == (None, None, None)


def test_a_model_of_other_classes_is_refused_with_those_of_the_data():
    with pytest.raises(SourceError, match=r"knows 3 classes, the data 2 \(class 0, class 1\)"):
        predict(lambda _: certain([0, 1], 3), labelled([0, 1], 2))
