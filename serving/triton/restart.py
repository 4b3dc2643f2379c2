"""When a server that died is started again."""

from collections.abc import Sequence

MAX_RESTARTS = 3
WINDOW_S = 300.0
FIRST_DELAY_S = 0.5


def restart_delay_s(died_at_s: Sequence[float], now_s: float) -> float | None:
    """Seconds to wait before the next start; None to give up.

    `died_at_s` holds every death so far, the latest included, on the clock of `now_s`. The delay
    doubles with each death in the window, and the fourth death in the window is the last.
    """
    recent = sum(now_s - died_s < WINDOW_S for died_s in died_at_s)
    if recent > MAX_RESTARTS:
        return None
    return FIRST_DELAY_S * 2.0 ** max(recent - 1, 0)
