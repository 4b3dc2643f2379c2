import math

import numpy as np
import pytest

from models.manifest import Interval
from optimize.quality import Measure, bootstrap_losses, bootstrap_metrics


def mean_of(values: np.ndarray, name: str = "ndcg@10") -> Measure:
    """One metric: the mean over rows."""
    return lambda rows: {name: float(values[rows].mean())}


def bootstrap_mean(values: np.ndarray) -> Interval:
    return bootstrap_metrics(mean_of(values), np.arange(len(values)))["ndcg@10"]


def bootstrap_relative_loss(variant: np.ndarray, baseline: np.ndarray) -> Interval:
    rows = np.arange(len(baseline))
    return bootstrap_losses(mean_of(variant), mean_of(baseline), rows, ["ndcg@10"])["ndcg@10"]


def test_the_interval_holds_the_mean_and_shrinks_with_more_questions():
    values = np.random.default_rng(1).random(4000)
    few, many = bootstrap_mean(values[:100]), bootstrap_mean(values)
    for interval, sample in ((few, values[:100]), (many, values)):
        assert interval.value == pytest.approx(sample.mean())
        assert interval.low < interval.value < interval.high
    # 40 times the questions: about 1 / sqrt(40) of the width
    assert (many.high - many.low) / (few.high - few.low) == pytest.approx(40**-0.5, rel=0.3)


def test_the_interval_is_as_wide_as_the_central_limit_theorem_says():
    values = np.random.default_rng(2).random(1000)
    interval = bootstrap_mean(values)
    expected = 2 * 1.96 * values.std() / math.sqrt(len(values))
    assert interval.high - interval.low == pytest.approx(expected, rel=0.1)


def test_the_same_scores_give_the_same_interval():
    values = np.random.default_rng(3).random(50)
    assert bootstrap_mean(values) == bootstrap_mean(values.copy())


def test_a_variant_loses_nothing_against_itself():
    values = np.random.default_rng(4).random(100)
    loss = bootstrap_relative_loss(values, values)
    assert (loss.value, loss.low, loss.high) == (0.0, 0.0, 0.0)


def test_losing_a_tenth_everywhere_is_a_certain_loss_of_a_tenth():
    values = np.random.default_rng(5).random(100)
    loss = bootstrap_relative_loss(0.9 * values, values)
    assert [loss.value, loss.low, loss.high] == pytest.approx([0.1, 0.1, 0.1])


def test_pairing_the_questions_makes_the_loss_more_certain_than_the_scores():
    baseline = np.random.default_rng(6).random(200)
    variant = np.where(np.arange(200) % 10 == 0, 0.9, 1.0) * baseline
    loss, score = bootstrap_relative_loss(variant, baseline), bootstrap_mean(baseline)
    assert loss.high - loss.low < 0.5 * (score.high - score.low)


def test_against_a_baseline_that_finds_nothing_the_loss_is_not_a_number():
    loss = bootstrap_relative_loss(np.zeros(10), np.zeros(10))
    assert math.isnan(loss.value)
    assert math.isnan(loss.high)


@pytest.mark.parametrize(("metric", "loss"), [("accuracy", 0.2), ("ece", -0.2)])
def test_an_absolute_loss_is_in_points_and_positive_when_the_variant_is_worse(
    metric: str, loss: float
):
    baseline, variant = np.full(50, 0.9), np.full(50, 0.7)
    rows = np.arange(50)
    losses = bootstrap_losses(mean_of(variant, metric), mean_of(baseline, metric), rows, [])
    assert losses[metric].value == pytest.approx(loss)


def test_only_the_rows_asked_for_count():
    values = np.array([0.0] * 50 + [1.0] * 50)
    found = bootstrap_metrics(mean_of(values), np.arange(50, 100))["ndcg@10"]
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
