from collections.abc import Callable

import pytest

from optimize.tune.objective import (
    MAX_PROBES,
    TOLERANCE,
    Figures,
    Probed,
    highest_rate,
    pareto_front,
    value_of,
    violations,
)


def server(limit_per_s: float, saturated_above: float = 1e9) -> Callable[[float], Probed]:
    """A probe of a server that holds up to a rate, with a generator that has a limit of its own."""

    def probe(rate_per_s: float) -> Probed:
        return Probed(
            rate_per_s=rate_per_s,
            p50_ms=5.0,
            p99_ms=10.0 if rate_per_s <= limit_per_s else 80.0,
            holds=rate_per_s <= limit_per_s,
            errors=0,
            generator_saturated=rate_per_s > saturated_above,
        )

    return probe


@pytest.mark.parametrize("limit", [3.0, 40.0, 99.0, 100.0, 777.0, 20_000.0])
@pytest.mark.parametrize("best", [None, 100.0])
def test_the_limit_is_found_within_the_tolerance_from_either_side(limit: float, best: float | None):
    reached = highest_rate(server(limit), 100.0, 1.0, best)
    hopeless = best is not None and limit < 0.8 * best
    if not hopeless and len(reached.probes) < MAX_PROBES:
        assert limit / TOLERANCE <= reached.rate_per_s <= limit
    assert reached.rate_per_s <= limit
    assert reached.rate_per_s > 0
    assert len(reached.probes) <= MAX_PROBES


def test_a_configuration_far_below_the_best_is_placed_with_few_probes():
    close = highest_rate(server(450.0), 500.0, 1.0, best_per_s=500.0)
    hopeless = highest_rate(server(240.0), 500.0, 1.0, best_per_s=500.0)
    assert close.rate_per_s > 420
    assert 0 < hopeless.rate_per_s <= 240
    assert len(hopeless.probes) <= 3


def test_a_configuration_that_does_not_even_hold_the_least_rate_reaches_nothing():
    reached = highest_rate(server(5.0), 100.0, 10.0)
    assert reached.rate_per_s == 0
    assert reached.p99_ms is None
    assert reached.probes[-1].rate_per_s == 10.0


def test_one_spoilt_window_does_not_decide_when_a_rate_may_be_tried_twice():
    hold = server(200.0)
    spoilt = iter([True])

    def probe(rate_per_s: float) -> Probed:
        found = hold(rate_per_s)
        return found.model_copy(update={"holds": found.holds and not next(spoilt, False)})

    assert highest_rate(probe, 100.0, 1.0, attempts=2).rate_per_s > 190


def test_the_figures_are_those_of_the_rate_that_held():
    reached = highest_rate(server(200.0), 100.0, 1.0)
    assert reached.p99_ms == 10.0
    assert not reached.generator_limited


def test_a_limit_that_may_be_the_generators_own_says_so():
    assert highest_rate(server(1_000.0, saturated_above=300.0), 100.0, 1.0).generator_limited
    assert not highest_rate(server(200.0, saturated_above=900.0), 100.0, 1.0).generator_limited


def test_requests_per_dollar_are_what_cost_maximises():
    # $0.36 an hour at 100/s are $1 per million: a million requests per dollar.
    assert value_of("cost", 100.0, 0.36) == pytest.approx(1e6)
    assert value_of("throughput", 100.0, 0.36) == 100.0
    assert value_of("cost", 0.0, 0.36) == 0.0


def figures(rate: float, memory: int, p99: float | None = 20.0) -> Figures:
    return Figures(parameters={"instances": 1}, rate_per_s=rate, p99_ms=p99, memory_bytes=memory)


def test_a_limit_counts_as_exceeded_only_when_it_is():
    within = violations(figures(100, 300 * 2**20), max_p99_ms=20.0, max_memory_mib=300)
    above = violations(figures(100, 330 * 2**20, p99=30.0), max_p99_ms=20.0, max_memory_mib=300)
    assert all(by <= 0 for by in within.values())
    assert above == {"p99": pytest.approx(0.5), "memory": pytest.approx(0.1)}
    assert violations(figures(0, 1, p99=None), 20.0, None)["p99"] > 0


def test_the_front_holds_what_no_other_beats_in_both():
    fast, small, both_worse = figures(500, 300), figures(300, 200), figures(290, 250)
    equal_but_larger = figures(500, 310)
    front = pareto_front([both_worse, small, equal_but_larger, fast])
    assert front == [fast, small]
