"""Plots for the report page, as SVG text."""

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.manifest import Evidence

Candidates = Sequence[tuple[str, Evidence]]


def pareto_plot(candidates: Candidates, chosen: str | None) -> str:
    """Throughput at the largest batch against nDCG@10 with its interval."""
    figure, axes = new_figure("quality against throughput")
    for name, evidence in candidates:
        speed = max(evidence.speed, key=lambda s: s.batch_size)
        ndcg = evidence.quality["ndcg@10"]
        axes.errorbar(
            speed.throughput_texts_per_s,
            ndcg.value,
            yerr=np.array([[ndcg.value - ndcg.low], [ndcg.high - ndcg.value]]),
            fmt="o",
            capsize=4,
            markersize=9 if name == chosen else 6,
            label=f"{name} (chosen)" if name == chosen else name,
        )
    batch_size = max(s.batch_size for s in candidates[0][1].speed)
    axes.set_xlabel(f"texts per second at batch {batch_size}")
    axes.set_ylabel("nDCG@10, 95 % interval")
    axes.set_xlim(left=0)
    axes.legend()
    return to_svg(figure)


def latency_plot(candidates: Candidates) -> str:
    """p50 (line) up to p99 (whisker) against batch size."""
    figure, axes = new_figure("latency against batch size")
    for name, evidence in candidates:
        p50 = [s.p50_ms for s in evidence.speed]
        whiskers = np.array([[0, s.p99_ms - s.p50_ms] for s in evidence.speed]).T  # [2, sizes]
        sizes = [s.batch_size for s in evidence.speed]
        axes.errorbar(sizes, p50, yerr=whiskers, marker="o", capsize=4, label=name)
    ticks = [s.batch_size for s in candidates[0][1].speed]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("batch size")
    axes.set_ylabel("ms per call: p50, whisker to p99")
    axes.legend()
    return to_svg(figure)


def new_figure(title: str) -> tuple[Figure, Axes]:
    """An empty figure of the page's size."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def to_svg(figure: Figure) -> str:
    """The figure as an SVG element, without the XML prologue that HTML does not take."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):  # text stays text: smaller and searchable
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]
