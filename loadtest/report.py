"""The report of one run: `report.json` for programs, a page and a terminal table for people."""

import datetime
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
from pydantic import ValidationError

import models
from loadtest.cost import Cost
from loadtest.errors import ReportError
from loadtest.plots import latency_curve_svg, timeline_svg
from loadtest.results import Latency, Result, allowed_late
from loadtest.settings import Settings
from models.files import write_atomically
from models.hardware import hardware_facts
from models.manifest import Manifest, Record

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
PACKAGES = ("farshore", "locust", "gevent", "geventhttpclient", "hdrhistogram")


class MeasuredModel(Record):
    """Which model answered, by the manifest of its repository."""

    name: str
    version: int
    variant: str
    target: str
    digest: str


class Report(Record):
    """One load test, with everything needed to repeat it or to doubt it."""

    schema_version: int = 1
    model: MeasuredModel
    settings: Settings
    result: Result
    cost: Cost | None
    machine: dict[str, str]
    versions: dict[str, str]
    created_at: str


def make_report(
    manifest: Manifest, settings: Settings, result: Result, cost: Cost | None
) -> Report:
    """A report of a run that ended just now on this machine."""
    return Report(
        model=MeasuredModel(
            **{name: getattr(manifest, name) for name in MeasuredModel.model_fields}
        ),
        settings=settings,
        result=result,
        cost=cost,
        machine=hardware_facts(),
        versions={name: metadata.version(name) for name in PACKAGES},
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def write_report(report: Report, directory: Path) -> None:
    """Write `report.json` and `report.html`, each whole or not at all."""
    content = report.model_dump_json(indent=2).encode() + b"\n"
    write_atomically(directory / REPORT_JSON, content)
    write_atomically(directory / REPORT_HTML, render_html(report).encode())


def read_report(path: Path) -> Report:
    """Read a `report.json`; raises ReportError with what to run when there is no usable one."""
    if not path.is_file():
        raise ReportError(f"no load test at {path}: run `make loadtest`")
    try:
        return Report.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ReportError(
            f"{path} is not a report this version reads ({error.errors()[0]['msg']}): run "
            "`make loadtest` again"
        ) from error


def render_html(report: Report) -> str:
    """The report as one self-contained page."""
    result = report.result
    return render_page(
        "report.html.j2",
        report=report,
        warnings=warnings(result),
        figures=figures(report),
        plots=[
            ("Latency by percentile", latency_curve_svg(result.curve)),
            ("Latency over time", timeline_svg(result.timeline)),
        ],
    )


def render_page(template: str, **values: Any) -> str:
    """Fill one of this folder's templates, with Farshore's style inlined."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    style = (Path(models.__file__).parent / "assets" / "page.css").read_text()
    return environment.get_template(template).render(style=style, **values)


def warnings(result: Result) -> list[str]:
    """What keeps a reader from trusting the figures; empty for a whole, valid run."""
    notes = [
        f"The generator was the limit, not the server: {r}." for r in result.saturation_reasons
    ]
    if notes:
        notes.append("This run says nothing about the server: lower the rate or free the machine.")
    if result.interrupted:
        notes.append("Interrupted: the figures cover what was measured until then.")
    return notes


def figures(report: Report) -> list[tuple[str, str]]:
    """(label, value) of everything worth reading, most important first."""
    result, cost = report.result, report.cost
    errors = {kind: count for kind, count in result.errors.items() if count}
    rows = [
        *(_latency_figures(result.latency) if result.latency else ()),
        (
            "rate",
            f"{result.achieved_rate_per_s:.1f} answers/s, {result.planned_rate_per_s:.1f} planned",
        ),
        ("goodput", f"{result.goodput_per_s:.1f} successful answers/s"),
        (
            "requests",
            f"{result.planned:,} planned, {result.sent:,} sent, {result.answered:,} answered",
        ),
        ("errors", ", ".join(f"{count:,} {kind}" for kind, count in errors.items()) or "none"),
        (
            "generator",
            f"p99 {result.lateness_p99_ms:.1f} ms late, at most {result.lateness_max_ms:.1f} ms; "
            f"{result.generator_cpu_share:.0%} of a core",
        ),
    ]
    if cost:
        rows.append(("cost", f"${cost.usd_per_million:.2f} per million requests: {cost.note}"))
    return rows


def _latency_figures(latency: Latency) -> Sequence[tuple[str, str]]:
    bound_ms = latency.p99_upper_bound_ms
    if bound_ms is None:
        fewest = next(n for n in range(latency.count, 1_000) if allowed_late(n) is not None)
        trust = f"not enough requests for 99 % confidence: {latency.count} of {fewest}"
    else:
        trust = f"at most {bound_ms:.1f} ms with 99 % confidence, if requests are independent"
    return (
        ("p50", f"{latency.p50_ms:.1f} ms"),
        ("p90", f"{latency.p90_ms:.1f} ms"),
        ("p99", f"{latency.p99_ms:.1f} ms ({trust})"),
        ("p99.9", f"{latency.p999_ms:.1f} ms"),
        ("max", f"{latency.max_ms:.1f} ms"),
    )
