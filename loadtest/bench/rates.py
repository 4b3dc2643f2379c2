"""The highest rate that a served model holds within a p99 limit, asked of a probe in its own process."""

import contextlib
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO

from loadtest.errors import GeneratorError
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
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "loadtest.probe", target.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C in the terminal reaches it only through us
        )
        try:
            yield lambda order: work_on(process, order, log)
        finally:
            process.kill()  # it holds nothing that would need an orderly end
            process.communicate()


def work_on(process: subprocess.Popen[str], order: Order, log: IO[str]) -> Answer:
    """Send one order and read its answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # then there is no answer either
        process.stdin.write(order.model_dump_json() + "\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        log.seek(0)
        last_words = "".join(log.readlines()[-1:]).strip()
        raise GeneratorError(f"the probe ended early ({last_words}): see what stopped there")
    return Answer.model_validate_json(answer)


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
