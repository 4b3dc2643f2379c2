from hypothesis import given
from hypothesis import strategies as st

from serving.triton.restart import MAX_RESTARTS, WINDOW_S, restart_delay_s


def test_the_delay_doubles_with_each_death_until_the_server_is_given_up() -> None:
    delays = [restart_delay_s([0.0] * deaths, now_s=1.0) for deaths in (1, 2, 3, 4)]
    assert delays == [0.5, 1.0, 2.0, None]


def test_deaths_before_the_window_are_forgotten() -> None:
    assert restart_delay_s([0.0, 1.0, 2.0, WINDOW_S + 2], now_s=WINDOW_S + 2) == 0.5


@given(st.lists(st.floats(min_value=0.01, max_value=2 * WINDOW_S), max_size=50))
def test_no_window_holds_more_restarts_than_allowed(gaps_s: list[float]) -> None:
    died_at_s: list[float] = []
    restarted_at_s: list[float] = []
    for gap_s in gaps_s:
        now_s = (died_at_s[-1] if died_at_s else 0.0) + gap_s
        died_at_s.append(now_s)
        if restart_delay_s(died_at_s, now_s) is None:
            break
        restarted_at_s.append(now_s)
        recent = [s for s in restarted_at_s if now_s - s < WINDOW_S]
        assert len(recent) <= MAX_RESTARTS
