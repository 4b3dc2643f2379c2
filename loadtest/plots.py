"""Plots as inline SVG."""

import io
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from loadtest.results import Second

BLUE, ORANGE, GREY, RED = "#2563a8", "#d97706", "#9ca3af", "#c2352b"
PERCENTILE_TICKS = (0.0, 0.9, 0.99, 0.999, 0.9999)


def latency_curve_svg(curve: Sequence[tuple[float, float]]) -> str:
    """Latency in ms by percentile, stretched so that each further nine takes equal room."""
    figure = _figure()
    axes = figure.subplots()
    points = [(1 / (1 - quantile), latency_ms) for quantile, latency_ms in curve]
    axes.plot(*zip(*points, strict=True) if points else ((), ()), color=BLUE, linewidth=2)
    top = max((x for x, _ in points), default=10)
    ticks = [q for q in PERCENTILE_TICKS if 1 / (1 - q) <= top * 1.01]
    axes.set_xscale("log")
    axes.set_xticks([1 / (1 - q) for q in ticks], [f"{100 * q:g}" for q in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("percentile")
    axes.set_ylabel("ms from planned send")
    return _svg(figure)


def timeline_svg(timeline: Sequence[Second]) -> str:
    """Median, p90 and maximum in ms by the time at which requests were due; errors as ticks."""
    figure = _figure()
    axes = figure.subplots()
    start_s = [second.start_s for second in timeline]
    for label, colour, values in (
        ("max", GREY, [second.max_ms for second in timeline]),
        ("p90", ORANGE, [second.p90_ms for second in timeline]),
        ("p50", BLUE, [second.p50_ms for second in timeline]),
    ):
        axes.plot(start_s, values, label=label, color=colour, linewidth=1.8)
    failed_s = [second.start_s for second in timeline if second.errors]
    if failed_s:
        axes.plot(failed_s, [0] * len(failed_s), "|", label="errors", color=RED, markersize=14)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("s since the start")
    axes.set_ylabel("ms from planned send")
    axes.legend(frameon=False, ncols=4, loc="upper right")
    return _svg(figure)


def _figure() -> Figure:
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    figure.patch.set_alpha(0)
    return figure


def _svg(figure: Figure) -> str:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e7eb")
        axes.set_axisbelow(True)
    stream = io.StringIO()
    # Without date and with a fixed salt the same figures give the same bytes.
    with mpl.rc_context({"svg.hashsalt": "farshore"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
