"""Plots for the report page, as SVG text."""

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.manifest import Evidence, Interval
from optimize.tune.objective import Figures, pareto_front
from optimize.waterfall import Stage, largest

Candidates = Mapping[str, Evidence]


def pareto_plot(
    candidates: Candidates, chosen: str | None, metric: str, usd_per_million: Mapping[str, float]
) -> str:
    """The metric with its interval against dollars per million texts, cheaper to the right."""
    figure, axes = new_figure(f"quality against cost: {metric}")
    for name, evidence in candidates.items():
        quality = evidence.quality[metric]
        axes.errorbar(
            usd_per_million[name],
            quality.value,
            yerr=whiskers([quality]),
            fmt="o",
            capsize=4,
            markersize=10 if name == chosen else 6,
            label=f"{name} (chosen)" if name == chosen else name,
        )
    batch_size = largest(next(iter(candidates.values()))).batch_size
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_xlabel(f"$ per million texts at batch {batch_size} (log, cheaper to the right)")
    axes.set_ylabel(f"{metric}, 95 % interval")
    axes.legend(fontsize=8)
    return to_svg(figure)


def latency_plot(candidates: Candidates) -> str:
    """p50 (line) up to p99 (whisker) against batch size."""
    figure, axes = new_figure("latency against batch size")
    for name, evidence in candidates.items():
        p50 = [s.p50_ms for s in evidence.speed]
        up_to_p99 = np.array([[0, s.p99_ms - s.p50_ms] for s in evidence.speed]).T  # [2, sizes]
        sizes = [s.batch_size for s in evidence.speed]
        axes.errorbar(sizes, p50, yerr=up_to_p99, marker="o", capsize=4, label=name)
    sizes = [s.batch_size for s in next(iter(candidates.values())).speed]
    finish_latency(axes, "batch size", sizes)
    return to_svg(figure)


def length_plot(candidates: Candidates) -> str:
    """p50 at the smallest batch against the length of the texts."""
    first = next(iter(candidates.values())).lengths
    batch_size = min(speed.batch_size for speed in first)
    figure, axes = new_figure(f"latency against length, batch {batch_size}")
    for name, evidence in candidates.items():
        speeds = [s for s in evidence.lengths if s.batch_size == batch_size]
        axes.plot([s.tokens for s in speeds], [s.p50_ms for s in speeds], marker="o", label=name)
    finish_latency(axes, "tokens per text", sorted({speed.tokens for speed in first}))
    return to_svg(figure)


def finish_latency(axes: Axes, label: str, ticks: Sequence[int]) -> None:
    """Logarithmic axes with the measured places as ticks."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel(label)
    axes.set_ylabel("ms per call: p50, whisker to p99")
    axes.legend(fontsize=8)


def segment_plot(candidates: Candidates, metric: str, segments: Sequence[str]) -> str:
    """The metric of each candidate on each segment, with intervals."""
    figure, axes = new_figure(f"{metric} by segment")
    step = 0.8 / len(candidates)
    for index, (name, evidence) in enumerate(candidates.items()):
        intervals = [evidence.segments[segment][metric] for segment in segments]
        places = np.arange(len(segments)) + index * step
        values = [interval.value for interval in intervals]
        axes.errorbar(places, values, yerr=whiskers(intervals), fmt="o", capsize=3, label=name)
    axes.set_xticks(np.arange(len(segments)) + 0.4 - step / 2, segments, fontsize=8)
    axes.set_ylabel(f"{metric}, 95 % interval")
    axes.legend(fontsize=8)
    return to_svg(figure)


def waterfall_plot(stages: Sequence[Stage]) -> str:
    """Dollars per million requests, from the demo at the top to what is packaged."""
    figure, axes = new_figure("$ per million requests, from demo to production")
    costs = [stage.usd_per_million for stage in stages]
    bars = axes.barh([stage.label for stage in stages], costs, color="#4c78a8")
    axes.bar_label(bars, [f"${cost:,.3f}" for cost in costs], padding=3)
    axes.invert_yaxis()
    axes.set_xlim(right=max(costs) * 1.2)
    axes.set_xlabel("$ per million requests")
    return to_svg(figure)


def tuning_plot(tried: Sequence[Figures], chosen: Mapping[str, int]) -> str:
    """What each served configuration held against its memory, with the Pareto front as a line."""
    figure, axes = new_figure("serving parameters tried on Triton")
    front = pareto_front(tried)
    for label, some, style in (
        ("tried", tried, "."),
        ("Pareto front", front, "o-"),
        ("chosen", [one for one in tried if one.parameters == chosen], "*"),
    ):
        memory = [one.memory_bytes / 2**20 for one in some]
        size = 14 if label == "chosen" else 6
        axes.plot(memory, [one.rate_per_s for one in some], style, markersize=size, label=label)
    axes.set_xlabel("memory of the server, MiB")
    axes.set_ylabel("texts per second within the p99 limit")
    axes.legend(fontsize=8)
    return to_svg(figure)


def whiskers(intervals: Sequence[Interval]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Distances [2, N] from values down and up to the ends of their intervals."""
    distances = [[i.value - i.low, i.high - i.value] for i in intervals]
    return np.maximum(np.array(distances).T, 0.0)


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
