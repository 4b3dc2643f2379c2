from collections.abc import Sequence
from pathlib import Path

import pytest

from optimize.errors import TuneError
from optimize.tune.confirm import (
    Confirmed,
    Turn,
    choose,
    finalists,
    play_round,
    read_rounds,
    write_rounds,
)
from optimize.tune.objective import Probed
from optimize.tune.trials import Trial

DEFAULT, OTHER, THIRD = {"instances": 1}, {"instances": 2}, {"instances": 3}
MIB = 2**20


def confirmed(
    parameters: dict[str, int], rates: Sequence[float], memory_mib: int = 200
) -> Confirmed:
    turns = [Turn(rate_per_s=r, p99_ms=40.0, memory_bytes=memory_mib * MIB) for r in rates]
    return Confirmed(parameters=parameters, turns=turns)


def held(parameters: dict[str, int], rate: float, outcome: str = "held") -> Trial:
    return Trial(number=0, parameters=parameters, outcome=outcome, reason="", rate_per_s=rate)


def test_the_best_median_is_chosen_when_it_is_above_all_of_the_default():
    default = confirmed(DEFAULT, [300, 310, 320])
    better, best = confirmed(OTHER, [330, 340, 350]), confirmed(THIRD, [310, 360, 400])
    chosen, words = choose([default, better, best], None)
    assert chosen.parameters == THIRD
    assert "360/s (310 to 400) against 310/s (300 to 320)" in words


def test_the_default_stays_when_nothing_beats_it_beyond_its_spread():
    default = confirmed(DEFAULT, [300, 310, 400])
    chosen, words = choose([default, confirmed(OTHER, [340, 350, 360])], None)
    assert chosen.parameters == DEFAULT
    assert "not beyond the noise" in words


def test_a_high_median_that_is_not_ahead_in_every_round_is_noise():
    default, erratic = confirmed(DEFAULT, [48, 95, 95]), confirmed(OTHER, [190, 21, 597])
    steady = confirmed(THIRD, [100, 110, 120])
    assert choose([default, erratic], None)[0].parameters == DEFAULT
    assert choose([default, erratic, steady], None)[0].parameters == THIRD


def test_what_takes_too_much_memory_is_not_chosen():
    default, large = confirmed(DEFAULT, [300]), confirmed(OTHER, [900], memory_mib=600)
    chosen, words = choose([default, large], max_memory_mib=500)
    assert chosen.parameters == DEFAULT
    assert "nothing else held the limits" in words


def test_a_default_that_needs_too_much_memory_gives_way_to_what_fits():
    default, small = confirmed(DEFAULT, [600], memory_mib=900), confirmed(OTHER, [400])
    chosen, words = choose([default, small], max_memory_mib=500)
    assert chosen.parameters == OTHER
    assert "900 MiB, more than 500" in words


def test_nothing_that_fits_into_the_memory_allowed_is_refused():
    with pytest.raises(TuneError, match=r"900 MiB.*tune\.max_memory_mib"):
        choose([confirmed(DEFAULT, [600], memory_mib=900)], max_memory_mib=500)


def test_a_rate_that_may_be_the_generators_is_a_lower_bound_in_the_verdict():
    limited = Turn(rate_per_s=900.0, p99_ms=40.0, memory_bytes=MIB, generator_limited=True)
    other = Confirmed(parameters=OTHER, turns=[limited])
    _, words = choose([confirmed(DEFAULT, [600]), other], None)
    assert words == (
        "900/s (900 to 900, the load generator at its limit) against 600/s (600 to 600) of the "
        "default, in 1 rounds"
    )


def test_the_finalists_are_the_default_and_the_best_that_held_all_limits():
    trials = [
        held(DEFAULT, 900.0),
        held(OTHER, 500.0),
        held(THIRD, 600.0),
        held({"instances": 4}, 550.0),
        held({"instances": 5}, 9_999.0, outcome="missed"),
    ]
    assert finalists(trials, DEFAULT) == [DEFAULT, THIRD, {"instances": 4}]


def test_finished_rounds_count_for_the_same_candidates_only(tmp_path: Path):
    path = tmp_path / "rounds.json"
    rounds = [[Turn(rate_per_s=300.0, p99_ms=None, memory_bytes=1)] * 2]
    assert read_rounds(path, [DEFAULT, OTHER]) == []
    write_rounds(path, [DEFAULT, OTHER], rounds)
    assert read_rounds(path, [DEFAULT, OTHER]) == rounds
    assert read_rounds(path, [DEFAULT, THIRD]) == []


class Machine:
    """A server with a limit that notes who was asked, and by which arrivals."""

    asked: list[tuple[float, int]]

    def __init__(self, limit_per_s: float, asked: list[tuple[float, int]]) -> None:
        self.limit_per_s, self.asked = limit_per_s, asked

    def memory_bytes(self) -> int:
        return MIB

    def probe(self, rate_per_s: float, seed: int) -> Probed:
        self.asked.append((self.limit_per_s, seed))
        holds = rate_per_s <= self.limit_per_s
        return Probed(
            rate_per_s=rate_per_s,
            p50_ms=1.0,
            p99_ms=10.0 if holds else 90.0,
            holds=holds,
            errors=0,
            generator_saturated=False,
        )


@pytest.mark.parametrize(("number", "first"), [(0, 300.0), (1, 500.0)])
def test_every_other_round_goes_backwards_with_its_own_arrivals(number: int, first: float):
    asked: list[tuple[float, int]] = []
    machines = [Machine(300.0, asked), Machine(500.0, asked)]
    turns = play_round([(m, m.probe, m.limit_per_s) for m in machines], number, 1.0)
    assert [turn.rate_per_s for turn in turns] == [
        pytest.approx(300, rel=0.06),
        pytest.approx(500, rel=0.06),
    ]
    assert asked[0] == (first, number + 1)
    assert {seed for _, seed in asked} == {number + 1}
