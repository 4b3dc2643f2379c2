import pytest

from loadtest.bench.ratios import Spread, ratios, spread


def test_a_spread_is_the_median_between_the_lowest_and_the_highest_round():
    assert spread([3.0, 1.0, 2.0, 9.0, 2.5]) == Spread(median=2.5, low=1.0, high=9.0)


def test_one_round_is_its_own_spread():
    assert spread([4.0]) == Spread(median=4.0, low=4.0, high=4.0)


def test_no_round_has_no_spread():
    with pytest.raises(ValueError, match="no median"):
        spread([])


def test_a_slowdown_of_the_machine_cancels_out_of_ratios_by_round():
    quiet, busy = (200.0, 100.0), (20.0, 10.0)
    on, off = zip(quiet, busy, quiet, strict=True)
    assert ratios(on, off) == [2.0, 2.0, 2.0]


def test_rounds_that_do_not_pair_up_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])
