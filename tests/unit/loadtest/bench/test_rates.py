import pytest

from loadtest.bench.rates import MAX_WINDOWS, STEP, highest_rate, probe
from loadtest.errors import GeneratorError
from loadtest.probe import Answer, Order, Target


def answer(rate_per_s: float, limit_per_s: float, saturated: bool = False) -> Answer:
    """What a server with this limit would show."""
    holds = rate_per_s <= limit_per_s
    return Answer(
        rate_per_s=rate_per_s,
        achieved_rate_per_s=rate_per_s,
        planned=100,
        answered=100,
        errors=0,
        error_kinds={},
        p50_ms=3.0,
        p99_ms=20.0 if holds else 80.0,
        holds=holds,
        cut_short=not holds,
        late_sends=0,
        generator_cpu_share=0.1,
        generator_saturated=saturated and not holds,
        reasons=[],
    )


@pytest.mark.parametrize("limit", [70.0, 100.0, 130.0, 300.0])
def test_the_limit_is_found_from_either_side(limit: float):
    found = highest_rate(lambda rate: answer(rate, limit), 100.0)
    assert limit / STEP <= found.rate_per_s <= limit
    assert found.p99_ms == 20.0
    assert len(found.windows) <= MAX_WINDOWS


def test_a_server_that_holds_nothing_reaches_nothing():
    found = highest_rate(lambda rate: answer(rate, 0.0), 3.0)
    assert found.rate_per_s == 0.0
    assert found.p99_ms is None


def test_a_limit_that_may_be_the_generators_own_says_so():
    assert highest_rate(lambda rate: answer(rate, 90.0, saturated=True), 100.0).generator_limited
    assert not highest_rate(lambda rate: answer(rate, 90.0), 100.0).generator_limited


def test_a_probe_that_cannot_work_says_why():
    target = Target(address="127.0.0.1:1", model="m", inputs=("image",))
    with probe(target) as ask, pytest.raises(GeneratorError, match="name a file of items"):
        ask(Order(rate_per_s=1.0, seconds=0.1))
