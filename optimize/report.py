"""What `make optimize` found: a terminal table, report.json, report.md and one self-contained page."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import jinja2
from rich import box
from rich.console import Console
from rich.table import Table

from models.files import write_atomically
from models.manifest import Evidence, Interval, Speed, VectorFigures
from optimize import plots
from optimize.outcome import Outcome, VariantReport, metrics_of
from optimize.tasks.classify import ClassFigures
from optimize.tune.apply import Tuned

SEGMENTS_IN_PLOT = 8


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
    for heading in ("variant", outcome.primary, *batches, "MB", "verdict"):
        table.add_column(heading, no_wrap=True)
    for variant in outcome.variants:
        evidence = variant.evidence
        speeds = [f"{s.p50_ms:.1f} ({s.speedup.value:.1f}x)" for s in evidence.speed]
        quality = f"{evidence.quality[outcome.primary].value:.4f}"
        size = f"{evidence.size_bytes / 1e6:.0f}"
        style = "bold green" if variant.name == outcome.chosen else None
        table.add_row(variant.name, quality, *speeds, size, variant.verdict, style=style)
    console.print(table)
    for name, reason in reasons_of(outcome):
        console.print(f"  {name}: {reason}", highlight=False, markup=False)
    if outcome.frozen:
        console.print(f"  {frozen_line(outcome)}", highlight=False, markup=False)
    if outcome.tuned is not None:
        console.print(f"  {tuned_line(outcome.tuned)}", highlight=False, markup=False)


def render_markdown(outcome: Outcome) -> str:
    """The same table in Markdown, with the machine and the data named."""
    body = [cells(outcome, variant) for variant in outcome.variants]
    rows = [headings(outcome), ["---"] * len(headings(outcome)), *body]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    reasons = "\n".join(f"- {name}: {reason}" for name, reason in reasons_of(outcome))
    frozen = f"- {frozen_line(outcome)}\n" if outcome.frozen else ""
    return (
        f"# {outcome.name}: {outcome.chosen or 'no variant passed'}\n\n{table}\n\n{reasons}\n{frozen}\n"
        f"{machine_line(outcome)}\n\n{data_line(outcome)}\n"
    )


def reasons_of(outcome: Outcome) -> list[tuple[str, str]]:
    """The gate's reasons by variant, also for those that cannot be made."""
    judged = [(variant.name, reason) for variant in outcome.variants for reason in variant.reasons]
    return [*judged, *((name, f"it cannot be made: {why}") for name, why in outcome.unmade.items())]


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
        rows=[(variant, cells(outcome, variant)) for variant in outcome.variants],
        refused=[v for v in outcome.variants if v.verdict not in ("accepted", "baseline")],
        segment_rows=segment_rows(outcome),
        class_headings=class_headings(outcome),
        class_rows=class_rows(outcome),
        vector_rows=[vector_cells(figures) for figures in outcome.stored_vectors],
        plots=draw(outcome),
        frozen=frozen_line(outcome) if outcome.frozen else None,
        tuned=tuned_line(outcome.tuned) if outcome.tuned else None,
        machine=machine_line(outcome),
        data=data_line(outcome),
    )


def draw(outcome: Outcome) -> list[str]:
    """The plots that this run has the figures for."""
    evidence = {variant.name: variant.evidence for variant in outcome.variants}
    segments = list(outcome.variants[0].evidence.segments)[:SEGMENTS_IN_PLOT]
    drawn = []
    if outcome.usd_per_million:
        costs = outcome.usd_per_million
        drawn.append(plots.waterfall_plot(outcome.waterfall))
        drawn.append(plots.pareto_plot(evidence, outcome.chosen, outcome.primary, costs))
        drawn.append(plots.latency_plot(evidence))
    if outcome.variants[0].evidence.lengths:
        drawn.append(plots.length_plot(evidence))
    if outcome.tuned is not None:
        drawn.append(plots.tuning_plot(outcome.tuned.tried, outcome.tuned.parameters))
    if segments:
        drawn.append(
            plots.segment_plot(shown_by_segment(outcome, evidence), outcome.primary, segments)
        )
    return drawn


def shown_by_segment(outcome: Outcome, evidence: Mapping[str, Evidence]) -> Mapping[str, Evidence]:
    """The baseline and the chosen variant; all of them when none was chosen."""
    names = [outcome.baseline, outcome.chosen]
    return {name: evidence[name] for name in names if name is not None} if names[1] else evidence


def segment_rows(outcome: Outcome) -> list[list[str]]:
    """Per segment the primary metric of every candidate, with its interval."""
    segments = outcome.variants[0].evidence.segments
    return [
        [
            segment,
            *(
                interval_text(variant.evidence.segments[segment][outcome.primary])
                for variant in outcome.variants
            ),
        ]
        for segment in segments
    ]


def shown_classes(outcome: Outcome) -> list[VariantReport]:
    """The baseline and the chosen variant, whose classes are shown; none for tasks without classes."""
    names = (outcome.baseline, outcome.chosen)
    return [variant for variant in outcome.variants if variant.name in names and variant.classes]


def class_headings(outcome: Outcome) -> list[str]:
    """Column headings of the figures per class."""
    return [
        "class",
        "texts",
        *(f"{v.name}: precision / recall / F1" for v in shown_classes(outcome)),
    ]


def class_rows(outcome: Outcome) -> list[tuple[bool, list[str]]]:
    """Per class whether it has enough texts to be judged by, and its figures as text."""
    rows = zip(*(variant.classes for variant in shown_classes(outcome)), strict=True)
    return [
        (first.enough, [first.label, count_text(first), *map(class_text, (first, *others))])
        for first, *others in rows
    ]


def count_text(figures: ClassFigures) -> str:
    """How many texts a class has, and whether they are too few."""
    return f"{figures.texts:,}" if figures.enough else f"{figures.texts:,}, too few to judge"


def class_text(figures: ClassFigures) -> str:
    """Precision, recall and F1; a dash for a share of nothing."""
    shares = (figures.precision, figures.recall, figures.f1)
    return " / ".join("–" if share is None else f"{share:.2f}" for share in shares)


def vector_cells(figures: VectorFigures) -> list[str]:
    """One way to store the document vectors, as text."""
    rescored = f"best {figures.rescored} by {figures.rescored_with}" if figures.rescored else "none"
    quality = [interval_text(figures.quality[metric]) for metric in ("ndcg@10", "recall@1")]
    return [figures.stored_as, f"{figures.bytes_per_vector:,}", rescored, *quality]


def timings(outcome: Outcome) -> list[Speed]:
    """The speeds of the first variant, for their batch sizes."""
    return outcome.variants[0].evidence.speed


def headings(outcome: Outcome) -> list[str]:
    """Column headings: fixed ones around one pair per batch size."""
    speeds = [f"batch {s.batch_size}: p50 / p99 ms (speed-up)" for s in timings(outcome)]
    metrics = [f"{m} [95 %]" if m == outcome.primary else m for m in metrics_of(outcome)]
    return ["variant", "verdict", *metrics, *speeds, "size", "memory"]


def cells(outcome: Outcome, variant: VariantReport) -> list[str]:
    """One row of the table as text."""
    evidence = variant.evidence
    speeds = [f"{s.p50_ms:.1f} / {s.p99_ms:.1f} ({s.speedup.value:.2f}x)" for s in evidence.speed]
    primary, *others = (evidence.quality[name] for name in metrics_of(outcome))
    return [
        variant.name,
        variant.verdict,
        interval_text(primary),
        *(f"{metric.value:.3f}" for metric in others),
        *speeds,
        f"{evidence.size_bytes / 1e6:.0f} MB",
        "–" if evidence.memory_bytes is None else f"{evidence.memory_bytes / 2**20:.0f} MiB",
    ]


def interval_text(interval: Interval) -> str:
    """A value with its interval."""
    return f"{interval.value:.4f} [{interval.low:.3f}, {interval.high:.3f}]"


def frozen_line(outcome: Outcome) -> str:
    """What the same texts give without fine-tuning."""
    found = ", ".join(f"{name} {accuracy:.4f}" for name, accuracy in outcome.frozen.items())
    return f"without fine-tuning, accuracy: {found}"


def tuned_line(tuned: Tuned) -> str:
    """What an earlier search chose for serving, and what that gained."""
    chosen = ", ".join(f"{name} {value}" for name, value in tuned.parameters.items())
    figures = tuned.tuning
    return (
        f"served with what `tune` chose in {figures.trials} trials: {chosen}: "
        f"{figures.rate_per_s:.0f} texts per second with p99 within {figures.max_p99_ms:g} ms, "
        f"{figures.default_rate_per_s:.0f} with the recipe's own values"
    )


def machine_line(outcome: Outcome) -> str:
    """Where it was measured and with what."""
    tools = ", ".join(f"{name} {version}" for name, version in outcome.tool_versions.items())
    hardware = outcome.hardware
    gpu = "no GPU" if hardware["gpu"] == "none" else hardware["gpu"]
    return (
        f"Measured on {hardware['cpu']}, {hardware['cores']} cores, {hardware['memory']}, {gpu}; {tools}"
        f"{opset_words(outcome)}."
    )


def opset_words(outcome: Outcome) -> str:
    """The versions of ONNX's operators in the variants' graphs; a raw graph brings its own."""
    opsets = {variant.name: variant.opset for variant in outcome.variants if variant.opset}
    if len(set(opsets.values())) == 1:
        return f"; ONNX opset {next(iter(opsets.values()))}"
    return "".join(f"; {name}: ONNX opset {opset}" for name, opset in opsets.items())


def data_line(outcome: Outcome) -> str:
    """What quality was measured on."""
    return f"Quality on {outcome.data_summary}. {outcome.data_provenance}."
