"""`make bench-tune`: is a search of the serving parameters worth its time?

Three ways to search get the same wall time on the same repository: the search that `make tune` runs, the
grid in nested loops that people write first, and the same grid in random order. What each of them chose is
then compared with Triton's own defaults (batches of at most 4 without a delay, one instance) and with the
recipe's, all served at the same time and loaded one after the other in every round.

Exit status: 0 everything required was shown; 1 it was not, or it could not be measured.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel

from loadtest.bench.rates import Ask, highest_rate, probe
from loadtest.bench.servers import triton
from loadtest.bench.triton import copy_with_parameters, copy_with_triton_defaults
from loadtest.bench.tune_report import (
    CASES,
    Case,
    Round,
    Searched,
    make_report,
    table_of,
    write_report,
)
from loadtest.errors import LoadtestError, SettingsError, StackError
from loadtest.probe import Answer, Order, Target
from models.manifest import INPUTS, Manifest, ManifestError, read_manifest

SHOWN, NOT_SHOWN, INTERRUPTED, TERMINATED = 0, 1, 130, 143
WARMUP_S = 0.5
SEARCHES: dict[Case, str] = {"tuned": "tpe", "grid": "grid", "shuffled": "shuffled-grid"}
ENDLESS_TRIALS = 100_000  # time ends a search, not its trials


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
    """Search in each way, measure all rounds, write the report and show it."""
    deadline_s = time.monotonic() + options.limit_minutes * 60
    if options.rounds < 1 or options.seconds <= 0 or options.minutes <= 0:
        raise SettingsError("a bench needs a round of windows longer than zero seconds")
    manifest = read_manifest(options.repository)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="farshore-bench-") as folder:
        work = Path(folder)
        found = {case: search(case, options, work, console) for case in SEARCHES}
        reference = found["tuned"]
        with asks(options.repository, work, manifest, reference) as probes:
            limit_ms = reference["max_p99_ms"]
            rounds = measure_rounds(probes, found, limit_ms, options, deadline_s, console)
    report = make_report(
        manifest,
        rounds,
        max_p99_ms=limit_ms,
        minutes=options.minutes,
        window_s=options.seconds,
        configurations=reference["configurations"],
        searched={case: summary_of(result) for case, result in found.items()},
        load_before=load_before,
    )
    write_report(report, options.output)
    panel = Panel(table_of(report), title=f"{report.model} ({report.variant})", title_align="left")
    console.print(panel)
    if report.generator_limited:
        limited = ", ".join(report.generator_limited)
        console.print(f"[yellow]lower bounds[/yellow], the load generator was the limit: {limited}")
    console.print(f"load average before: {load_before:.1f}; every window: {options.output}")
    required = [line.met for line in report.lines if line.met is not None]
    return SHOWN if required and all(required) else NOT_SHOWN


def search(case: Case, options: argparse.Namespace, work: Path, console: Console) -> dict[str, Any]:
    """Search in one way for the time allowed; publishes to `work/<case>`. Returns its report.

    Raises StackError when the search fails, with its last words.
    """
    folder = work / f"{case}-study"
    command = [sys.executable, "-m", "optimize", "tune", str(options.recipe)]
    command += ["--repository", str(options.repository), "--publish", str(work / case)]
    command += ["--folder", str(folder), "--search", SEARCHES[case]]
    command += ["--trials", str(ENDLESS_TRIALS), "--minutes", str(options.minutes)]
    command += ["--rounds", str(options.confirm_rounds)]
    with console.status(f"{CASES[case]}: searching for {options.minutes:g} minutes"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StackError(f"{CASES[case]} found nothing: {done.stderr.strip()[-500:]}")
    result: dict[str, Any] = json.loads((folder / "tuning.json").read_bytes())
    console.print(f"{CASES[case]}: {len(result['trials'])} trials; {result['verdict']}")
    return result


def summary_of(result: dict[str, Any]) -> Searched:
    """What a search did, from its report."""
    return Searched(
        trials=len(result["trials"]),
        seconds=sum(trial["seconds"] for trial in result["trials"]),
        verdict=result["verdict"],
        parameters=result["tuned"]["parameters"],
    )


@contextlib.contextmanager
def asks(
    repository: Path, work: Path, manifest: Manifest, reference: dict[str, Any]
) -> Iterator[dict[Case, Ask]]:
    """Everything that is compared, served at the same time: how to load each, by case."""
    default = reference["confirmed"][0]["parameters"]
    copy_with_parameters(repository, work / "recipe", manifest, default)
    copy_with_triton_defaults(work / "recipe", work / "triton", manifest)
    items = next(work.glob("tuned-study/*/items.jsonl"))
    with contextlib.ExitStack() as up:
        found: dict[Case, Ask] = {}
        for case in CASES:
            address = up.enter_context(triton(work / case, work, f"{case}-server", edited=True))
            target = Target(
                address=address, model=manifest.name, inputs=INPUTS[manifest.task], items=items
            )
            found[case] = up.enter_context(probe(target))
        yield found


def measure_rounds(
    probes: dict[Case, Ask],
    found: dict[Case, dict[str, Any]],
    max_p99_ms: float,
    options: argparse.Namespace,
    deadline_s: float,
    console: Console,
) -> list[Round]:
    """All cases in each round; every other round goes backwards, so that drift favours none.

    A round that would end after `deadline_s`, a time.monotonic() value, is not begun, but for the first.
    """
    default_rate = found["tuned"]["tuned"]["tuning"]["default_rate_per_s"] or 100.0
    about = {
        case: found[case]["tuned"]["tuning"]["rate_per_s"] if case in found else default_rate
        for case in CASES
    }
    rounds: list[Round] = []
    longest_s = 0.0
    for number in range(options.rounds):
        began_s = time.monotonic()
        if rounds and began_s + longest_s > deadline_s:
            break
        measured: Round = {}
        with console.status(f"round {number + 1} of {options.rounds}"):
            for case in list(CASES) if number % 2 == 0 else list(CASES)[::-1]:
                measure = partial(window, probes[case], number + 1, max_p99_ms, options.seconds)
                measured[case] = highest_rate(measure, about[case])
        rounds.append(measured)
        longest_s = max(longest_s, time.monotonic() - began_s)
    return rounds


def window(ask: Ask, seed: int, max_p99_ms: float, seconds: float, rate_per_s: float) -> Answer:
    """One window at a rate; all cases of a round get the same arrivals."""
    return ask(
        Order(
            rate_per_s=rate_per_s,
            seconds=seconds,
            warmup_s=WARMUP_S,
            seed=seed,
            max_p99_ms=max_p99_ms,
        )
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--recipe", type=Path, default=Path("models/recipes/search-encoder.yaml"))
    add("--repository", type=Path, default=Path("build/repository"))
    add("--minutes", type=float, default=3.5, help="for each of the three searches")
    add("--confirm-rounds", type=int, default=2, help="at the end of each search")
    add("--seconds", type=float, default=3.0, help="length of a window of the final rounds")
    add("--rounds", type=int, default=5, help="final rounds, in which everything is compared")
    add("--limit-minutes", type=float, default=40.0, help="no final round is begun that ends later")
    add("--output", type=Path, default=Path("build/bench/tune.json"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
