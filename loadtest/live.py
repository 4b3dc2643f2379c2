"""One line that shows how a run is going."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from loadtest.results import OK, Recorder, Sample, value_at_quantile_ms
from loadtest.settings import Settings

# A percentile of a histogram takes milliseconds; more often would take the machine from the server.
EVERY_S = 0.5


@contextlib.contextmanager
def live_line(settings: Settings, console: Console) -> Iterator[Callable[[Sample, Recorder], None]]:
    """A progress bar with the figures so far; yields what is to be called with each sample."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("warming up", total=settings.total_s)
        shown_s = 0.0

        def show(sample: Sample, recorder: Recorder) -> None:
            nonlocal shown_s
            if time.monotonic() - shown_s < EVERY_S:
                return
            shown_s = time.monotonic()
            text = describe(recorder) if recorder.planned_s else "warming up"
            progress.update(bar, completed=sample.planned_s + settings.warmup_s, description=text)

        yield show
        progress.update(bar, completed=settings.total_s)


def describe(recorder: Recorder) -> str:
    """The figures so far in a few words."""
    done = recorder.outcomes.total()
    p50_ms, p99_ms = (value_at_quantile_ms(recorder.latency, quantile) for quantile in (0.5, 0.99))
    failed = done - recorder.outcomes[OK]
    return f"{done:,} done, {failed:,} failed, p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms"
