"""`make bench-batching`: what dynamic batching gains, and what each layer around the model costs.

On the real server with the packaged model, one text per request. All cases take turns within a
round and each round compares its own: a machine that becomes slower slows both sides of a ratio.

Exit status: 0 everything required was shown; 1 it was not, or it could not be measured.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.progress import track

from loadtest.bench.batching_report import (
    CASES,
    Measured,
    Round,
    make_report,
    table_of,
    write_report,
)
from loadtest.bench.client import Client, Order, Target, client
from loadtest.bench.servers import gateway, triton
from loadtest.bench.triton import copy_without_batching, read_counts
from loadtest.errors import LoadtestError, SettingsError, StackError
from loadtest.stack import check_model
from models.manifest import Manifest, ManifestError, read_manifest

SHOWN, NOT_SHOWN, INTERRUPTED, TERMINATED = 0, 1, 130, 143
WARMUP_S = 0.5

Measure = Callable[[Order], Measured]


def main(arguments: list[str] | None = None) -> int:
    """Run the bench and return its exit status."""
    options = parse(arguments)
    # So that the servers started here are stopped on SIGTERM too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    console = Console()
    try:
        return run(options, console)
    except (LoadtestError, ManifestError) as error:
        console.print(f"[red]error[/red] {error}", highlight=False)
        return NOT_SHOWN
    except KeyboardInterrupt:
        console.print("interrupted, nothing was written")
        return INTERRUPTED


def run(options: argparse.Namespace, console: Console) -> int:
    """Measure all rounds, write the report and show it."""
    if options.rounds < 1 or options.seconds <= 0:
        raise SettingsError("a bench needs at least one round of windows longer than zero seconds")
    manifest = read_manifest(options.repository)
    load_before = os.getloadavg()[0]
    with stacks(options.repository, manifest) as measures:
        rounds = measure_rounds(measures, options.rounds, options.seconds, console)
    report = make_report(manifest, options.seconds, rounds, load_before)
    write_report(report, options.output)
    panel = Panel(table_of(report), title=f"{report.model} ({report.variant})", title_align="left")
    console.print(panel)
    console.print(f"load average before: {load_before:.1f}; every window: {options.output}")
    return NOT_SHOWN if any(line.met is False for line in report.lines) else SHOWN


@contextlib.contextmanager
def stacks(repository: Path, manifest: Manifest) -> Iterator[dict[str, Measure]]:
    """Everything that is compared, up at the same time; the windows load one after the other.

    Yields how to measure each target, by the name that cases use.
    """
    name = manifest.name
    with contextlib.ExitStack() as up:
        work = Path(up.enter_context(tempfile.TemporaryDirectory(prefix="farshore-bench-")))
        edited = work / "unbatched"
        copy_without_batching(repository, edited, name)
        on = up.enter_context(triton(repository, work, "triton"))
        off = up.enter_context(triton(edited, work, "triton-unbatched", edited=True))
        front = up.enter_context(gateway(repository, work, on))
        check_model(f"http://{front}", manifest)

        def measures(target: Target, counters: str | None) -> Measure:
            ask = up.enter_context(client(target))
            return lambda order: measure(ask, order, counters, name)

        version = str(repository / name / str(manifest.version))
        yield {
            "direct": measures(Target(kind="direct", model=name, where=version), None),
            "triton": measures(Target(kind="triton", model=name, where=on), on),
            "unbatched": measures(Target(kind="triton", model=name, where=off), off),
            "gateway": measures(Target(kind="gateway", model=name, where=front), on),
        }


def measure(ask: Client, order: Order, triton_address: str | None, model: str) -> Measured:
    """One window, with what Triton counted meanwhile; `triton_address` None when there is none."""
    if triton_address is None:
        return Measured(window=ask(order), mean_batch=None)
    before = read_counts(triton_address, model)
    window = ask(order)
    counted = read_counts(triton_address, model) - before
    return Measured(window=window, mean_batch=counted.mean_batch)


def measure_rounds(
    measures: dict[str, Measure], rounds: int, window_s: float, console: Console
) -> list[Round]:
    """All cases in each round; every other round goes backwards, so that drift favours none.

    Raises StackError when the copy without dynamic batching batches all the same.
    """
    turns = [(i, case) for i in range(rounds) for case in (CASES if i % 2 == 0 else CASES[::-1])]
    measured: list[Round] = [{} for _ in range(rounds)]
    for i, case in track(turns, "measuring", console=console, transient=True):
        order = Order(concurrency=case.texts, warmup_s=WARMUP_S, seconds=window_s)
        measured[i][case.name] = found = measures[case.target](order)
        if case.target == "unbatched" and found.mean_batch != 1.0:
            raise StackError(
                f"Triton without dynamic batching ran {found.mean_batch} texts at a time: read the "
                "release notes of its batcher, because there is nothing to compare with"
            )
    return measured


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.batching",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--repository", type=Path, default=Path("build/repository"))
    add("--seconds", type=float, default=4.0, help="length of a window (there are 7 in a round)")
    add("--rounds", type=int, default=5, help="how often each case is measured")
    add("--output", type=Path, default=Path("build/bench/batching.json"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
