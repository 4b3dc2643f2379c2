from collections.abc import Sequence

import pytest

from optimize.quantize.exclusion import Spared, exclude_until_held

DAMAGE = {"first": 0.01, "second": 0.04, "third": 0.02}


def score(excluded: Sequence[str]) -> float:
    return 1 - sum(damage for name, damage in DAMAGE.items() if name not in excluded)


@pytest.mark.parametrize(
    ("limit", "left_out"),
    [
        (0.9, []),
        (0.96, ["second"]),
        (0.98, ["second", "third"]),
        (0.995, ["second", "third", "first"]),
    ],
)
def test_the_worst_operators_are_left_out_first_and_no_more_than_it_takes(limit, left_out):
    found = exclude_until_held(list(DAMAGE), score, limit, 3)
    assert found.operators == left_out
    assert found.before == pytest.approx(0.93)
    assert found.after == pytest.approx(score(left_out))


def test_no_more_than_allowed_are_left_out_and_the_words_say_that_it_did_not_hold():
    found = exclude_until_held(list(DAMAGE), score, 0.99, 1)
    assert found.operators == ["second"]
    assert "second" in found.words
    assert "0.9300 -> 0.9700, still below 0.99" in found.words


def test_nothing_is_tried_where_nothing_may_be_left_out():
    tried: list[list[str]] = []

    def counted(excluded: Sequence[str]) -> float:
        tried.append(list(excluded))
        return 0.5

    found = exclude_until_held(list(DAMAGE), counted, 0.99, 0)
    assert tried == [[]]
    assert found.operators == []


def test_equally_harmful_operators_are_taken_in_the_order_of_the_graph():
    found = exclude_until_held(["b", "a"], lambda left_out: 0.5 + 0.1 * len(left_out), 0.6, 2)
    assert found.operators == ["b"]


@pytest.mark.parametrize(
    ("limit", "left_out"),
    [
        (0.5, ["second", "third"]),
        (0.98, ["second", "third"]),
        (0.995, ["second", "third", "first"]),
    ],
)
def test_what_is_to_be_spared_is_left_out_also_where_the_limit_holds_without(limit, left_out):
    found = exclude_until_held(list(DAMAGE), score, limit, 3, Spared(2))
    assert found.operators == left_out
    assert found.ranked == ["second", "third", "first"]


def test_an_order_that_is_known_is_not_found_again():
    tried: list[list[str]] = []

    def counted(excluded: Sequence[str]) -> float:
        tried.append(list(excluded))
        return score(excluded)

    known = ("third", "second", "first")
    found = exclude_until_held(list(DAMAGE), counted, 0.5, 3, Spared(2, known))
    assert found.operators == ["third", "second"]
    assert tried == [[], ["third", "second"]]


def test_the_words_say_when_no_more_may_be_left_out():
    bound = "the most that may be (quantize.max_excluded)"
    assert bound in exclude_until_held(list(DAMAGE), score, 0.99, 2).words
    assert bound not in exclude_until_held(list(DAMAGE), score, 0.95, 2).words
