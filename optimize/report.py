"""What `make optimize` found: a terminal table, report.json, report.md and one self-contained page."""

from importlib.resources import files
from pathlib import Path

import jinja2
from rich import box
from rich.console import Console
from rich.table import Table

from models.manifest import Evidence, Interval, Record, Speed, write_atomically
from optimize.plots import latency_plot, pareto_plot


class VariantReport(Record):
    """One row: a candidate, what was measured and the gate's words on it."""

    name: str
    evidence: Evidence
    verdict: str
    reasons: list[str]


class Outcome(Record):
    """One run of the pipeline. `chosen` is None when nothing passed the gate."""

    name: str
    repository: str
    repository_changed: bool
    digest: str | None
    chosen: str | None
    baseline: str
    variants: list[VariantReport]
    questions: int
    passages: int
    data_provenance: str
    hardware: dict[str, str]
    tool_versions: dict[str, str]


COLUMNS = ("variant", "nDCG@10 [95 %]", "R@1", "MRR@10", "size", "verdict")


def write_reports(outcome: Outcome, directory: Path) -> None:
    """Write report.json, report.md and report.html."""
    write_atomically(directory / "report.json", outcome.model_dump_json(indent=2).encode() + b"\n")
    write_atomically(directory / "report.md", render_markdown(outcome).encode())
    write_atomically(directory / "report.html", render_page(outcome).encode())


def print_outcome(outcome: Outcome, console: Console) -> None:
    """The table a person reads in the terminal, and the reasons below it."""
    hardware = outcome.hardware
    title = f"{outcome.name} on {hardware['cpu']}, {hardware['cores']} cores: p50 ms (speed-up)"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    batches = [f"batch {speed.batch_size}" for speed in timings(outcome)]
    for heading in ("variant", "nDCG@10", *batches, "MB", "verdict"):
        table.add_column(heading, no_wrap=True)
    for variant in outcome.variants:
        evidence = variant.evidence
        speeds = [f"{s.p50_ms:.1f} ({s.speedup.value:.1f}x)" for s in evidence.speed]
        quality = f"{evidence.quality['ndcg@10'].value:.4f}"
        size = f"{evidence.size_bytes / 1e6:.0f}"
        style = "bold green" if variant.name == outcome.chosen else None
        table.add_row(variant.name, quality, *speeds, size, variant.verdict, style=style)
    console.print(table)
    for variant in outcome.variants:
        for reason in variant.reasons:
            console.print(f"  {variant.name}: {reason}", highlight=False, markup=False)


def render_markdown(outcome: Outcome) -> str:
    """The same table in Markdown, with the machine and the data named."""
    rows = [headings(outcome), ["---"] * len(headings(outcome)), *map(cells, outcome.variants)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    reasons = "\n".join(f"- {v.name}: {reason}" for v in outcome.variants for reason in v.reasons)
    return (
        f"# {outcome.name}: {outcome.chosen or 'no variant passed'}\n\n{table}\n\n{reasons}\n\n"
        f"{machine_line(outcome)}\n\n{data_line(outcome)}\n"
    )


def render_page(outcome: Outcome) -> str:
    """One HTML file with its style and plots inside."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("optimize", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    chosen = next((v for v in outcome.variants if v.name == outcome.chosen), None)
    return environment.get_template("report.html.j2").render(
        outcome=outcome,
        chosen=chosen,
        style=(files("models") / "assets" / "page.css").read_text(),
        headings=headings(outcome),
        rows=[(variant, cells(variant)) for variant in outcome.variants],
        plots=[
            pareto_plot([(v.name, v.evidence) for v in outcome.variants], outcome.chosen),
            latency_plot([(v.name, v.evidence) for v in outcome.variants]),
        ],
        machine=machine_line(outcome),
        data=data_line(outcome),
    )


def headings(outcome: Outcome) -> list[str]:
    """Column headings: fixed ones around one pair per batch size."""
    speeds = [f"batch {s.batch_size}: p50 / p99 ms (speed-up)" for s in timings(outcome)]
    return [*COLUMNS[:4], *speeds, *COLUMNS[4:]]


def timings(outcome: Outcome) -> list[Speed]:
    """The speeds of the first variant, for their batch sizes."""
    return outcome.variants[0].evidence.speed


def cells(variant: VariantReport) -> list[str]:
    """One row of the table as text."""
    evidence = variant.evidence
    speeds = [f"{s.p50_ms:.1f} / {s.p99_ms:.1f} ({s.speedup.value:.2f}x)" for s in evidence.speed]
    quality = evidence.quality
    return [
        variant.name,
        interval_text(quality["ndcg@10"]),
        f"{quality['recall@1'].value:.3f}",
        f"{quality['mrr@10'].value:.3f}",
        *speeds,
        f"{evidence.size_bytes / 1e6:.0f} MB",
        variant.verdict,
    ]


def interval_text(interval: Interval) -> str:
    """A value with its interval."""
    return f"{interval.value:.4f} [{interval.low:.3f}, {interval.high:.3f}]"


def machine_line(outcome: Outcome) -> str:
    """Where it was measured and with what."""
    tools = ", ".join(f"{name} {version}" for name, version in outcome.tool_versions.items())
    hardware = outcome.hardware
    gpu = "no GPU" if hardware["gpu"] == "none" else hardware["gpu"]
    return f"Measured on {hardware['cpu']}, {hardware['cores']} cores, {hardware['memory']}, {gpu}; {tools}."


def data_line(outcome: Outcome) -> str:
    """What quality was measured on."""
    return (
        f"Quality on {outcome.questions:,} held-out questions over {outcome.passages:,} passages. "
        f"{outcome.data_provenance}."
    )
