"""The result of the batching bench: its cases, the lines that follow from them, table and JSON."""

import contextlib
import datetime
import itertools
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.table import Table

from loadtest.bench.client import Window
from loadtest.bench.ratios import Spread, ratios, spread
from models.files import write_atomically
from models.hardware import hardware_facts
from models.manifest import Manifest, Record

CONCURRENCY = 32
LEAST_GAIN = 1.3
LEAST_MEAN_BATCH = 4.0
PACKAGES = (
    *("farshore", "nvidia-pytriton", "onnxruntime", "onnxruntime-gpu", "tokenizers", "numpy"),
    *("tritonclient", "grpcio", "fastapi", "uvicorn"),
)


class Case(Record):
    """What is measured in every round: one target with so many texts under way.

    `unbatched` is Triton without dynamic batching. `direct` is no server at all: the packaged
    encoder in one process, all texts in one call.
    """

    target: Literal["direct", "triton", "unbatched", "gateway"]
    texts: int

    @property
    def name(self) -> str:
        return f"{self.target}-{self.texts}"


DIRECT_ONE = Case(target="direct", texts=1)
TRITON_ONE = Case(target="triton", texts=1)
GATEWAY_ONE = Case(target="gateway", texts=1)
DIRECT_MANY = Case(target="direct", texts=CONCURRENCY)
TRITON_MANY = Case(target="triton", texts=CONCURRENCY)
GATEWAY_MANY = Case(target="gateway", texts=CONCURRENCY)
UNBATCHED_MANY = Case(target="unbatched", texts=CONCURRENCY)

# What is compared most closely runs back to back.
CASES = (
    *(UNBATCHED_MANY, TRITON_MANY, GATEWAY_MANY, DIRECT_MANY),
    *(DIRECT_ONE, TRITON_ONE, GATEWAY_ONE),
)


class Measured(Record):
    """One window of one case; `mean_batch` is texts per run of the model, None without Triton."""

    window: Window
    mean_batch: float | None


Round = dict[str, Measured]  # by the name of the case


class Line(Record):
    """One result, and what it must reach if anything is required of it."""

    topic: str
    label: str
    unit: str
    value: Spread
    at_least: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the median reaches what is required; None when nothing is."""
        return None if self.at_least is None else self.value.median >= self.at_least


class BatchingReport(Record):
    """One run of the bench, with every window and what is needed to repeat it or to doubt it.

    `load_before` is the system's load average when it began: what else kept the cores busy.
    """

    schema_version: int = 1
    model: str
    variant: str
    digest: str
    window_s: float
    lines: list[Line]
    rounds: list[Round]
    load_before: float
    machine: dict[str, str]
    versions: dict[str, str]
    created_at: str


def make_report(
    manifest: Manifest, window_s: float, rounds: list[Round], load_before: float
) -> BatchingReport:
    """A report of rounds that were measured just now on this machine."""
    return BatchingReport(
        model=manifest.name,
        variant=manifest.variant,
        digest=manifest.digest,
        window_s=window_s,
        lines=lines_of(rounds),
        rounds=rounds,
        load_before=load_before,
        machine=hardware_facts(),
        versions=installed_versions(PACKAGES),
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def write_report(report: BatchingReport, path: Path) -> None:
    """Write the report as JSON, whole or not at all."""
    write_atomically(path, report.model_dump_json(indent=2).encode() + b"\n")


def lines_of(rounds: Sequence[Round]) -> list[Line]:
    """What the rounds show, most important first. Raises ValueError when there is no round."""
    return [*batching_lines(rounds), *latency_lines(rounds), *throughput_lines(rounds)]


def batching_lines(rounds: Sequence[Round]) -> list[Line]:
    """What dynamic batching does under load."""
    topic = f"{CONCURRENCY} callers, batching"
    batches = [measured[TRITON_MANY.name].mean_batch or 0.0 for measured in rounds]
    return [
        compare(
            topic, "with / without", rounds, TRITON_MANY, UNBATCHED_MANY, "texts_per_s", LEAST_GAIN
        ),
        Line(
            topic=topic,
            label="texts per model run",
            unit="",
            value=spread(batches),
            at_least=LEAST_MEAN_BATCH,
        ),
        state(topic, "with batching", "texts/s", rounds, TRITON_MANY, "texts_per_s"),
        state(topic, "without batching", "texts/s", rounds, UNBATCHED_MANY, "texts_per_s"),
    ]


def latency_lines(rounds: Sequence[Round]) -> list[Line]:
    """What each layer adds to one text when nothing else is under way."""
    topic, field = "1 caller, p50", "p50_ms"
    return [
        state(topic, "model alone", "ms", rounds, DIRECT_ONE, field),
        state(topic, "Triton", "ms", rounds, TRITON_ONE, field),
        state(topic, "gateway", "ms", rounds, GATEWAY_ONE, field),
        compare(topic, "Triton / model", rounds, TRITON_ONE, DIRECT_ONE, field),
        compare(topic, "gateway / model", rounds, GATEWAY_ONE, DIRECT_ONE, field),
        compare(topic, "gateway / Triton", rounds, GATEWAY_ONE, TRITON_ONE, field),
        # A server that sometimes forgets a request keeps its median: the tail tells.
        state(topic, "p99 of Triton", "ms", rounds, TRITON_ONE, "p99_ms"),
        state(topic, "p99 of gateway", "ms", rounds, GATEWAY_ONE, "p99_ms"),
    ]


def throughput_lines(rounds: Sequence[Round]) -> list[Line]:
    """What each layer leaves of the model's throughput, and what the clients take of the cores."""
    topic, field = f"{CONCURRENCY} callers, throughput", "texts_per_s"
    return [
        state(topic, f"model, {CONCURRENCY} per call", "texts/s", rounds, DIRECT_MANY, field),
        state(topic, "Triton", "texts/s", rounds, TRITON_MANY, field),
        state(topic, "gateway", "texts/s", rounds, GATEWAY_MANY, field),
        compare(topic, "Triton / model", rounds, TRITON_MANY, DIRECT_MANY, field),
        compare(topic, "gateway / model", rounds, GATEWAY_MANY, DIRECT_MANY, field),
        compare(topic, "gateway / Triton", rounds, GATEWAY_MANY, TRITON_MANY, field),
        state(topic, "client of Triton", "cores", rounds, TRITON_MANY, "cpu_share"),
        state(topic, "client of gateway", "cores", rounds, GATEWAY_MANY, "cpu_share"),
    ]


def state(
    topic: str, label: str, unit: str, rounds: Sequence[Round], case: Case, field: str
) -> Line:
    """A line about one case."""
    return Line(topic=topic, label=label, unit=unit, value=spread(values(rounds, case, field)))


def compare(
    topic: str,
    label: str,
    rounds: Sequence[Round],
    above: Case,
    below: Case,
    field: str,
    at_least: float | None = None,
) -> Line:
    """A line about the ratio of two cases, round by round."""
    found = ratios(values(rounds, above, field), values(rounds, below, field))
    return Line(topic=topic, label=label, unit="×", value=spread(found), at_least=at_least)


def values(rounds: Sequence[Round], case: Case, field: str) -> list[float]:
    """One field of a case's window, per round."""
    return [float(getattr(measured[case.name].window, field)) for measured in rounds]


def table_of(report: BatchingReport) -> Table:
    """Every line with its range over the rounds, and in words whether it is what it must be."""
    table = Table("", "median", f"{len(report.rounds)} rounds", "must be", box=None)
    for topic, lines in itertools.groupby(report.lines, key=lambda line: line.topic):
        table.add_row(f"[bold]{topic}[/bold]")
        for line in lines:
            table.add_row(*cells(line))
    return table


def cells(line: Line) -> list[str]:
    """A line as the texts of its row."""
    value = line.value
    words = {None: "", True: "[green]shown[/green]", False: "[red]not shown[/red]"}[line.met]
    return [
        f"  {line.label}",
        f"{number(value.median)} {line.unit}",
        f"{number(value.low)} to {number(value.high)}",
        f"at least {line.at_least:g}: {words}" if words else "",
    ]


def number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
