"""From demo to production on one page: what the optimizer gained, what the service measured."""

import json
from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import ReportError
from loadtest.report import Report, read_report, render_page
from models.files import write_atomically
from models.manifest import Evidence, Interval, Manifest, read_manifest


@dataclass(frozen=True)
class Row:
    """One line of the comparison: the demo's value, production's value and what became of it."""

    label: str
    demo: str
    production: str
    change: str


def join_reports(repository: Path, loadtest: Path, optimize: Path) -> tuple[Manifest, Report]:
    """The manifest and the load test of the same bytes.

    Raises ManifestError or ReportError when one is missing or they are about different digests; the
    message says which to run again. The optimizer's report is optional, but not a stale one.
    """
    manifest = read_manifest(repository)
    report = read_report(loadtest)
    if report.model.digest != manifest.digest:
        raise ReportError(
            f"{loadtest} measured digest {report.model.digest[:12]}, {repository} holds "
            f"{manifest.digest[:12]}: run `make loadtest` again"
        )
    optimized = _digest_in(optimize)
    if optimized not in (None, manifest.digest):
        raise ReportError(
            f"{optimize} is about digest {str(optimized)[:12]}, {repository} holds "
            f"{manifest.digest[:12]}: run `make optimize` again"
        )
    return manifest, report


def compare(manifest: Manifest) -> list[Row]:
    """The baseline against the chosen variant, measured side by side by the optimizer."""
    demo, production = manifest.baseline, manifest.evidence
    return [
        *_speed_rows(demo, production),
        *(
            Row(name, _interval(before), _interval(production.quality[name]), "")
            for name, before in demo.quality.items()
            if name in production.quality
        ),
        Row(
            "size",
            f"{demo.size_bytes / 1e6:.1f} MB",
            f"{production.size_bytes / 1e6:.1f} MB",
            f"{production.size_bytes / demo.size_bytes:.0%}",
        ),
    ]


def headline(manifest: Manifest, report: Report) -> str:
    """One sentence: how fast, at which rate, for how much."""
    latency, cost = report.result.latency, report.cost
    p99 = f"p99 {latency.p99_ms:.1f} ms" if latency else "no answers"
    price = f", ${cost.usd_per_million:.2f} per million requests" if cost else ""
    return (
        f"{manifest.name} ({manifest.variant}) serves {report.result.goodput_per_s:.1f} requests/s "
        f"with {p99}{price}"
    )


def write_summary(manifest: Manifest, report: Report, optimize: Path, page: Path) -> None:
    """Write the page, with links to both reports where they exist."""
    content = render_page(
        "summary.html.j2",
        manifest=manifest,
        report=report,
        headline=headline(manifest, report),
        rows=compare(manifest),
        optimize_link="../optimize/report.html" if optimize.is_file() else None,
    )
    write_atomically(page, content.encode())


def _speed_rows(demo: Evidence, production: Evidence) -> list[Row]:
    before = {speed.batch_size: speed for speed in demo.speed}
    rows = []
    for after in production.speed:
        if after.batch_size not in before:
            continue
        then = before[after.batch_size]
        label = f"batch of {after.batch_size}" if after.batch_size > 1 else "one text"
        rows.append(
            Row(
                label,
                f"{then.p50_ms:.1f} ms, {then.throughput_texts_per_s:.0f} texts/s",
                f"{after.p50_ms:.1f} ms, {after.throughput_texts_per_s:.0f} texts/s",
                f"× {after.speedup.value:.2f} [{after.speedup.low:.2f}, {after.speedup.high:.2f}]",
            )
        )
    return rows


def _interval(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _digest_in(optimize: Path) -> str | None:
    """The digest that the optimizer's report is about; None when it is missing or names none."""
    if not optimize.is_file():
        return None
    try:
        report = json.loads(optimize.read_bytes())
    except ValueError as error:
        raise ReportError(f"{optimize} is not JSON: run `make optimize` again") from error
    digest = report.get("digest")
    return None if digest is None else str(digest)
