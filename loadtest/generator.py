"""Runs Locust in a process of its own and turns what it sends back into a result.

Locust patches the standard library, so it stays out of this process; and a generator that only
sends has less to be late for. Ctrl-C stops the sending; what was measured until then is the result.
"""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import FrameType

import numpy as np

from loadtest.arrivals import ARRIVALS
from loadtest.errors import GeneratorError
from loadtest.results import Recorder, Result, Sample, summarise
from loadtest.settings import Settings

STOP_TIMEOUT_S = 5.0


def measure(
    settings: Settings, on_sample: Callable[[Sample, Recorder], None] = lambda *_: None
) -> Result:
    """Send the load and measure it; `on_sample` sees each sample, the warm-up's too.

    Raises GeneratorError when Locust ends early or nothing was sent, KeyboardInterrupt when it was
    interrupted before the measured window.
    """
    recorder = Recorder()
    with tempfile.TemporaryFile("w+") as log, _locust(settings, log.fileno()) as process:
        with _interrupts_go_to(process) as interrupts:
            cpu_share = _read_samples(process, recorder, on_sample)
        process.wait()
        log.seek(0)
        tail = "".join(log.readlines()[-10:]).strip()
    if cpu_share is None and not interrupts:
        raise GeneratorError(f"Locust ended early (status {process.returncode}): {tail}")
    if not recorder.planned_s:
        if interrupts:
            raise KeyboardInterrupt
        raise GeneratorError(f"nothing was sent, lower the rate or check the queries: {tail}")
    duration_s, planned = _what_was_due(settings, recorder if interrupts else None)
    return summarise(
        recorder,
        planned=planned,
        duration_s=duration_s,
        cpu_share=cpu_share or 0.0,
        interrupted=bool(interrupts),
    )


def _what_was_due(settings: Settings, interrupted: Recorder | None) -> tuple[float, int]:
    """Seconds measured, requests planned in them; an interrupted run ends at its last request."""
    schedule = ARRIVALS[settings.arrivals](settings.rate_per_s, settings.total_s, settings.seed)
    due_s = schedule - settings.warmup_s
    until_s = max(interrupted.planned_s) if interrupted else settings.duration_s
    planned = int(np.count_nonzero((due_s >= 0) & (due_s <= until_s)))
    return until_s, planned


def _read_samples(
    process: subprocess.Popen[str],
    recorder: Recorder,
    on_sample: Callable[[Sample, Recorder], None],
) -> float | None:
    """Record samples until the process ends; its share of a core, None when it did not say."""
    cpu_share = None
    for line in process.stdout or ():
        if not line.endswith("\n"):
            break  # cut off, because the process was killed
        message = json.loads(line)
        if isinstance(message, dict):
            cpu_share = float(message["cpu_share"])
            continue
        sample = Sample(*message)
        recorder.record(sample)
        on_sample(sample, recorder)
    return cpu_share


@contextlib.contextmanager
def _locust(settings: Settings, log: int) -> Iterator[subprocess.Popen[str]]:
    """The generator's process, in its own session so that Ctrl-C reaches it only through us."""
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest.users", settings.model_dump_json()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


@contextlib.contextmanager
def _interrupts_go_to(process: subprocess.Popen[str]) -> Iterator[list[int]]:
    """Ctrl-C asks the generator to stop, a second one kills it; yields the list of interrupts."""
    interrupts: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        interrupts.append(number)
        process.send_signal(signal.SIGINT if len(interrupts) == 1 else signal.SIGKILL)

    previous = signal.signal(signal.SIGINT, forward)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, previous)
