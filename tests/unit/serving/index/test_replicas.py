"""Which replica is asked, when a second one is, and which is left out: functions of records and time."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.index.client import ShardClient
from serving.index.replicas import (
    FAILURES_TO_EJECT,
    FIRST_EJECTION_S,
    LONGEST_EJECTION_S,
    MIN_SAMPLES,
    WINDOW,
    HedgeBudget,
    HedgeDelay,
    Replica,
    choose,
    choose_other,
    eject_slow,
)

LATENCIES_S = st.lists(st.floats(1e-4, 10), max_size=2 * WINDOW)


def replica(name: str = "one", latencies_s: tuple[float, ...] = (), **known: float) -> Replica:
    made = Replica(ShardClient(None, name, "demo-g1-0000"), **known)
    made.latencies_s.extend(latencies_s)
    return made


def steady(name: str, latency_s: float) -> Replica:
    return replica(name, (latency_s,) * MIN_SAMPLES)


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers())
def test_of_two_the_less_busy_one_is_asked(first: int, second: int, seed: int):
    one, other = replica(in_flight=first), replica(in_flight=second)
    chosen = choose([one, other], 0.0, random.Random(seed))
    assert chosen.in_flight == min(first, second)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=8, unique=True), st.integers())
def test_of_many_the_busiest_one_is_never_asked(in_flight: list[int], seed: int):
    chosen = choose([replica(in_flight=n) for n in in_flight], 0.0, random.Random(seed))
    assert chosen.in_flight < max(in_flight)


def test_equally_busy_ones_are_asked_equally_often():
    idle = [replica() for _ in range(4)]
    chance = random.Random(1)
    chosen = [id(choose(idle, 0.0, chance)) for _ in range(4000)]
    assert all(800 < chosen.count(id(one)) < 1200 for one in idle)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=6), st.floats(0, 10), st.integers())
def test_one_that_is_left_out_is_asked_only_when_all_are(
    until_s: list[float], now_s: float, seed: int
):
    known = [replica(ejected_until_s=one) for one in until_s]
    chosen = choose(known, now_s, random.Random(seed))
    assert chosen.ejected_until_s <= now_s or min(until_s) > now_s


@given(st.lists(st.floats(0, 10), min_size=1, max_size=6), st.integers(1, 6), st.integers())
def test_a_second_one_is_another_one_that_is_not_left_out(
    until_s: list[float], count: int, seed: int
):
    known = [replica(ejected_until_s=one) for one in until_s]
    asked = known[:count]
    other = choose_other(known, asked, 5.0, random.Random(seed))
    willing = [r for r in known[count:] if r.ejected_until_s <= 5.0]
    assert (other is None) == (not willing)
    assert other is None or any(other is one for one in willing)


@given(st.floats(0.01, 1), st.lists(st.booleans(), max_size=400))
def test_extra_requests_never_pass_their_share_and_the_reserve(share: float, wants: list[bool]):
    budget = HedgeBudget(share)
    taken = 0
    for requests, wanted in enumerate(wants, 1):
        budget.note_request()
        taken += wanted and budget.take()
        assert taken <= budget.reserve + share * requests


@given(st.floats(0.01, 1))
def test_a_budget_that_is_wanted_is_spent(share: float):
    budget = HedgeBudget(share)
    taken = 0
    for _ in range(1000):
        budget.note_request()
        taken += budget.take()
    assert taken >= int(1000 * share)


def test_quiet_times_save_no_more_than_the_reserve():
    budget = HedgeBudget(0.05)
    for _ in range(10_000):
        budget.note_request()
    assert [budget.take() for _ in range(4)] == [True, True, False, False]


def test_a_share_of_zero_allows_not_even_the_reserve():
    budget = HedgeBudget(0.0)
    budget.note_request()
    assert not budget.take()


def test_a_second_replica_is_asked_after_what_nearly_all_requests_take():
    delay = HedgeDelay()
    for number in range(MIN_SAMPLES - 1):
        delay.note(number / 1000)
        assert delay.delay_s is None
    for number in range(MIN_SAMPLES - 1, 101):
        delay.note(number / 1000)
    assert delay.delay_s == pytest.approx(1.5 * 0.095)
    for _ in range(256):
        delay.note(1.0)
    assert delay.delay_s == 1.5


def test_failures_in_a_row_leave_one_out_for_twice_as_long_each_time():
    failing, now_s, ejected_s = replica(), 0.0, []
    for _ in range(8):
        while failing.ejected_until_s <= now_s:
            failing.note_failure(now_s)
        ejected_s.append(failing.ejected_until_s - now_s)
        now_s = failing.ejected_until_s
    assert failing.failures == FAILURES_TO_EJECT + 7  # once it was left out, one failure is enough
    assert ejected_s == [1, 2, 4, 8, 16, LONGEST_EJECTION_S, LONGEST_EJECTION_S, LONGEST_EJECTION_S]


def test_all_that_is_in_flight_when_one_dies_counts_as_one_ejection():
    dying = replica()
    for _ in range(64):
        dying.note_failure(10.0)
    assert (dying.ejections, dying.ejected_until_s) == (1, 10.0 + FIRST_EJECTION_S)


def test_an_answer_between_failures_makes_up_for_them():
    shaky = replica()
    for _ in range(10):
        shaky.note_failure(0.0)
        shaky.note_failure(0.0)
        shaky.note_answer(0.001)
    assert shaky.ejections == 0


def test_a_call_that_nobody_waited_for_makes_up_for_no_failure():
    hung = replica()
    for _ in range(FAILURES_TO_EJECT):
        hung.note_unfinished(0.05)
        hung.note_failure(0.0)
    assert hung.ejections == 1


def test_a_whole_window_of_answers_makes_up_for_earlier_ejections():
    recovered = replica()
    for _ in range(4):
        recovered.eject(0.0)
    for _ in range(WINDOW):
        assert recovered.ejections == 4
        recovered.note_answer(0.001)
    assert recovered.ejections == 0


def test_an_unfinished_call_counts_when_it_took_longer_than_usual():
    slow, usual = steady("slow", 0.2), steady("usual", 0.001)
    for waited_s in (0.02, 0.02, 0.3):
        slow.note_unfinished(waited_s)
    usual.note_unfinished(0.009)  # a client in a hurry
    assert list(slow.latencies_s)[MIN_SAMPLES:] == [0.3]
    assert len(usual.latencies_s) == MIN_SAMPLES


def test_nothing_is_said_of_a_replica_before_enough_answers():
    new = replica(latencies_s=(9.0,) * (MIN_SAMPLES - 1))
    assert new.median_s is None
    assert eject_slow([new, steady("other", 0.001)], 0.0) is None


def test_the_one_that_is_slow_on_all_it_does_is_left_out_and_forgotten():
    quick, slow = steady("quick", 0.002), steady("slow", 0.2)
    assert eject_slow([slow, quick], 5.0) is slow
    assert (slow.ejected_until_s, slow.median_s) == (5.0 + FIRST_EJECTION_S, None)
    assert eject_slow([slow, quick], 5.5) is None


def test_one_that_is_slow_now_and_then_stays():
    usual, shaky = steady("usual", 0.002), steady("shaky", 0.002)
    for _ in range(MIN_SAMPLES - 1):
        shaky.note_answer(0.2)
    assert eject_slow([usual, shaky], 0.0) is None


def test_microseconds_do_not_matter():
    assert eject_slow([steady("one", 0.0001), steady("other", 0.009)], 0.0) is None


@given(st.lists(st.tuples(LATENCIES_S, st.floats(0, 10)), max_size=5), st.floats(0, 10))
def test_the_only_one_that_is_left_is_never_ejected(
    of_each: list[tuple[list[float], float]], now_s: float
):
    known = [replica(latencies_s=tuple(ls), ejected_until_s=until_s) for ls, until_s in of_each]
    willing = sum(r.ejected_until_s <= now_s for r in known)
    ejected = eject_slow(known, now_s)
    left = sum(r.ejected_until_s <= now_s for r in known)
    assert left == willing - (ejected is not None)
    assert left >= min(willing, 1)
