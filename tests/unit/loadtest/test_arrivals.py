import numpy as np
import pytest

from loadtest.arrivals import ARRIVALS, constant, poisson


def test_constant_arrivals_are_evenly_spaced_and_end_before_the_duration():
    times_s = constant(50, 2, seed=1)
    assert len(times_s) == 100
    assert np.diff(times_s) == pytest.approx(0.02)
    assert times_s[-1] < 2


def test_poisson_arrivals_have_the_planned_rate():
    counts = [len(poisson(100, 10, seed)) for seed in range(200)]
    # Mean and variance of a Poisson count are both rate * duration; 4 standard errors each.
    assert np.mean(counts) == pytest.approx(1_000, abs=4 * np.sqrt(1_000 / 200))
    assert np.var(counts) == pytest.approx(1_000, rel=4 * np.sqrt(2 / 200))


def test_poisson_gaps_are_exponential():
    gaps_s = np.diff(poisson(100, 1_000, seed=1))
    assert np.mean(gaps_s) == pytest.approx(0.01, rel=0.02)
    assert np.std(gaps_s) == pytest.approx(0.01, rel=0.02)
    assert np.mean(gaps_s > 0.03) == pytest.approx(np.exp(-3), rel=0.06)


def test_poisson_gaps_do_not_depend_on_the_gap_before():
    gaps_s = np.diff(poisson(100, 1_000, seed=1))
    assert np.corrcoef(gaps_s[1:], gaps_s[:-1])[0, 1] == pytest.approx(0, abs=4 / np.sqrt(1e5))


@pytest.mark.parametrize("name", ARRIVALS)
def test_the_same_seed_plans_the_same_times_in_ascending_order(name):
    first, second = (ARRIVALS[name](200, 5, 7) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.all(np.diff(first) >= 0)


def test_another_seed_plans_other_poisson_times():
    assert not np.array_equal(poisson(200, 5, 7)[:10], poisson(200, 5, 8)[:10])
