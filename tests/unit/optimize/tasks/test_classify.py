import numpy as np
import pytest
from sklearn.metrics import f1_score

from optimize.data.labelled import Labelled
from optimize.tasks.classify import expected_calibration_error, macro_f1, measure


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
