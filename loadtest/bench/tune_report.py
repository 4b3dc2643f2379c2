"""The result of the tuning bench: its cases, the lines that follow from them, table and JSON."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from loadtest.bench.batching_report import PACKAGES, Line, cells, installed_versions
from loadtest.bench.rates import Held
from loadtest.bench.ratios import ratios, spread
from models.files import write_atomically
from models.hardware import hardware_facts
from models.manifest import Manifest, Record

Case = Literal["tuned", "triton", "recipe", "grid", "shuffled"]

# What is compared, in the order in which it is measured in a round.
CASES: dict[Case, str] = {
    "tuned": "the search",
    "triton": "Triton's defaults",
    "recipe": "the recipe's defaults",
    "grid": "a grid in nested loops",
    "shuffled": "a grid in random order",
}
# A search that is worth its time beats these two at least.
MUST_BEAT: tuple[Case, ...] = ("triton", "grid")

Round = dict[Case, Held]


class Searched(Record):
    """What one way of searching did with its time: configurations tried, and what it chose."""

    trials: int
    seconds: float
    verdict: str
    parameters: dict[str, int]


class TuneBenchReport(Record):
    """One run of the bench, with every window and what is needed to repeat it or to doubt it.

    `generator_limited` names the cases whose rate is a lower bound in some round.
    """

    schema_version: int = 1
    model: str
    variant: str
    digest: str
    max_p99_ms: float
    minutes: float
    window_s: float
    configurations: int
    searched: dict[str, Searched]
    lines: list[Line]
    generator_limited: list[str]
    rounds: list[Round]
    load_before: float
    machine: dict[str, str]
    versions: dict[str, str]
    created_at: str


def make_report(manifest: Manifest, rounds: Sequence[Round], **facts: Any) -> TuneBenchReport:
    """A report of rounds that were measured just now on this machine."""
    return TuneBenchReport(
        model=manifest.name,
        variant=manifest.variant,
        digest=manifest.digest,
        lines=lines_of(rounds),
        generator_limited=generator_limited(rounds),
        rounds=list(rounds),
        machine=hardware_facts(),
        versions=installed_versions((*PACKAGES, "optuna")),
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **facts,
    )


def lines_of(rounds: Sequence[Round]) -> list[Line]:
    """What the rounds show: the search against each other way, then every rate by itself.

    A ratio whose denominator held nothing in some round is left out. Raises ValueError without rounds.
    """
    rates = {case: [measured[case].rate_per_s for measured in rounds] for case in CASES}
    others: list[Case] = [case for case in CASES if case != "tuned"]
    compared = [
        Line(
            topic="rate within the p99 limit",
            label=f"{CASES['tuned']} / {CASES[case]}",
            unit="×",
            value=spread(ratios(rates["tuned"], rates[case])),
            at_least=1.0 if case in MUST_BEAT else None,
        )
        for case in others
        if all(rates[case])
    ]
    stated = [
        Line(topic="requests per second", label=CASES[case], unit="/s", value=spread(rates[case]))
        for case in CASES
    ]
    return [*compared, *stated]


def generator_limited(rounds: Sequence[Round]) -> list[str]:
    """The cases for which the load generator, not the server, may have been the limit in some round."""
    return [
        words
        for case, words in CASES.items()
        if any(measured[case].generator_limited for measured in rounds)
    ]


def table_of(report: TuneBenchReport) -> Table:
    """Every line with its range over the rounds, and in words whether it is what it must be."""
    title = f"p99 within {report.max_p99_ms:g} ms"
    table = Table(title, "median", f"{len(report.rounds)} rounds", "must be", box=None)
    for line in report.lines:
        table.add_row(*cells(line))
    return table


def write_report(report: TuneBenchReport, path: Path) -> None:
    """Write the report as JSON, whole or not at all."""
    write_atomically(path, report.model_dump_json(indent=2).encode() + b"\n")
