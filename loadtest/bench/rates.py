"""The highest rate that a served model holds within a p99 limit, asked of a probe in its own process."""

import contextlib
import math
from collections.abc import Callable, Iterator

from loadtest.bench.worker import worker
from loadtest.probe import Answer, Order, Target
from models.manifest import Record

STEP = 1.05  # how closely a rate is found
GROWTH = 1.25
LEAST_PER_S = 1.0
MAX_WINDOWS = 14

Ask = Callable[[Order], Answer]


class Held(Record):
    """The highest rate that held, 0 when none did, with its p99. `windows` says what it took.

    `generator_limited`: the windows that failed above it may have failed because of the generator.
    """

    rate_per_s: float
    p99_ms: float | None
    generator_limited: bool
    windows: list[Answer]


@contextlib.contextmanager
def probe(target: Target) -> Iterator[Ask]:
    """A load generator in a process of its own; calling it works on one order.

    A call raises GeneratorError, with the generator's words, when it ended early.
    """
    with worker("loadtest.probe", target, "the probe") as ask:
        yield lambda order: Answer.model_validate_json(ask(order))


def highest_rate(measure: Callable[[float], Answer], about_per_s: float) -> Held:
    """Search from `about_per_s` up or down to within STEP; `measure` answers for a rate per second."""
    held, failed, rate = 0.0, math.inf, about_per_s
    windows: list[Answer] = []
    while len(windows) < MAX_WINDOWS and failed > held * STEP and failed > LEAST_PER_S:
        windows.append(measure(rate))
        if windows[-1].holds:
            held = rate
        else:
            failed = rate
        if math.isinf(failed):
            rate = held * GROWTH
        else:
            rate = math.sqrt(held * failed) if held else max(failed / GROWTH, LEAST_PER_S)
    at_held = [window for window in windows if window.rate_per_s == held]
    return Held(
        rate_per_s=held,
        p99_ms=at_held[-1].p99_ms if at_held else None,
        generator_limited=any(w.generator_saturated for w in windows if w.rate_per_s == failed),
        windows=windows,
    )
