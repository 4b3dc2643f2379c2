"""From samples to figures: what was sent, how long it took, and whether the figures can be trusted.

Latency counts from the moment a request was *due*, so a server that stalls cannot hide the requests
that should have been sent meanwhile (G. Tene's "coordinated omission"). Values go into an
HdrHistogram in microseconds with three significant digits (an error below 0.1 %).
"""

import math
from array import array
from collections import Counter
from typing import NamedTuple

import numpy as np
from hdrh.histogram import HdrHistogram

from models.manifest import Record

HIGHEST_US = 3_600_000_000  # one hour; a longer wait is recorded as one hour
SIGNIFICANT_DIGITS = 3

# How a request ended. An HTTP answer that is not a success is an answer, and an error.
OK, REFUSED, SERVER_ERROR, TIMEOUT, CONNECTION = (
    "ok",
    "refused",
    "server_error",
    "timeout",
    "connection",
)
ANSWERS = (OK, REFUSED, SERVER_ERROR)
ERRORS = (REFUSED, SERVER_ERROR, TIMEOUT, CONNECTION)

# Lateness is part of every latency that we report, so it only makes figures worse. Above half of the
# p99, that figure says more about the generator than about the server; below 5 ms it is what timers
# and a busy machine cost anyway.
LATENESS_SHARE_LIMIT = 0.5
LATENESS_FLOOR_MS = 5.0
# The generator has one thread. Above this share of its core, requests queue inside it: at 85 % the
# mean queue of a single server with random arrivals is already more than five requests long.
CPU_SHARE_LIMIT = 0.85

CURVE_QUANTILES = (*np.round(1 - np.logspace(0, -4, 61), 6).tolist(), 1.0)


class Sample(NamedTuple):
    """One finished request; times in s from the start of the measured window (warm-up is negative).

    `done_s` is the arrival of the answer's last byte, or the moment of giving up; `origin_s` is the
    system's monotonic clock at the start of the window.
    """

    planned_s: float
    sent_s: float
    done_s: float
    outcome: str
    origin_s: float = 0.0


class Latency(Record):
    """Milliseconds from planned send to last byte, of requests served or given up on (timeouts).

    Refusals, server errors and failed connections are not in it: a quick "no" is no quick answer.
    """

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    p99_upper_bound_ms: float | None  # with 99 % confidence; None: not enough requests


class Second(Record):
    """What happened to the requests that were due in one interval of the run."""

    start_s: float
    requests: int
    errors: int
    p50_ms: float
    p90_ms: float
    max_ms: float


class Result(Record):
    """One run. Rates are per second over `window_s`, the time until the last answer."""

    planned: int
    sent: int
    answered: int
    served: int
    errors: dict[str, int]
    window_s: float
    planned_rate_per_s: float
    achieved_rate_per_s: float
    goodput_per_s: float
    latency: Latency | None
    lateness_p99_ms: float
    lateness_max_ms: float
    generator_cpu_share: float
    generator_saturated: bool
    saturation_reasons: list[str]
    interrupted: bool
    curve: list[tuple[float, float]]  # (quantile, ms)
    timeline: list[Second]
    latency_histogram: str  # HdrHistogram V2, base64, microseconds


class Recorder:
    """Takes samples one by one; `summarise` turns it into a Result."""

    def __init__(self) -> None:
        self.latency = new_histogram()
        self.lateness = new_histogram()
        self.outcomes: Counter[str] = Counter()
        self.last_done_s = 0.0
        self.planned_s = array("d")
        self.latency_ms = array("d")
        self.failed = array("b")

    def record(self, sample: Sample) -> None:
        """Add one request; those of the warm-up are thrown away."""
        if sample.planned_s < 0:
            return
        latency_s = sample.done_s - sample.planned_s
        self.outcomes[sample.outcome] += 1
        self.last_done_s = max(self.last_done_s, sample.done_s)
        _record_s(self.lateness, sample.sent_s - sample.planned_s)
        if sample.outcome in (OK, TIMEOUT):
            _record_s(self.latency, latency_s)
        self.planned_s.append(sample.planned_s)
        self.latency_ms.append(latency_s * 1e3)
        self.failed.append(sample.outcome != OK)


def new_histogram() -> HdrHistogram:
    """An empty histogram of microseconds up to one hour."""
    return HdrHistogram(1, HIGHEST_US, SIGNIFICANT_DIGITS)


def value_at_quantile_ms(histogram: HdrHistogram, quantile: float) -> float:
    """The nearest-rank quantile in ms: the smallest value with at least that share at or below."""
    # Rounding keeps 0.07 * 100 = 7.000000000000001 from becoming rank 8.
    rank = math.ceil(round(quantile * histogram.total_count, 6))
    return value_at_rank_ms(histogram, rank)


def value_at_rank_ms(histogram: HdrHistogram, rank: int) -> float:
    """The value of the rank-th smallest sample (from 1), in ms; 0 for an empty histogram."""
    if not histogram.total_count:
        return 0.0
    percentile = 100.0 * max(rank, 1) / histogram.total_count
    value_us = int(histogram.get_value_at_percentile(percentile))
    return min(value_us, int(histogram.max_value)) / 1e3


def allowed_late(count: int, quantile: float = 0.99, confidence: float = 0.99) -> int | None:
    """How many of `count` requests may be later than L to still claim "quantile <= L".

    The number of requests above the true quantile is binomial (count, 1 - quantile). The claim
    holds with the confidence when seeing so few late ones would otherwise have a probability of at
    most 1 - confidence: for p99 at 99 %, 459 requests with none late, 662 with one. None: not
    enough requests for any claim. Assumes independent requests.
    """
    late_log, soon_log = math.log(1 - quantile), math.log(quantile)
    cumulative = 0.0
    for late in range(count + 1):
        ways_log = math.lgamma(count + 1) - math.lgamma(late + 1) - math.lgamma(count - late + 1)
        cumulative += math.exp(ways_log + late * late_log + (count - late) * soon_log)
        if cumulative > 1 - confidence:
            return late - 1 if late else None
    return count


def p99_upper_bound_ms(histogram: HdrHistogram) -> float | None:
    """The value that the true p99 does not exceed with 99 % confidence; None: too few requests."""
    late = allowed_late(histogram.total_count)
    return None if late is None else value_at_rank_ms(histogram, histogram.total_count - late)


def saturation_reasons(
    *, planned: int, sent: int, lateness_p99_ms: float, latency_p99_ms: float, cpu_share: float
) -> list[str]:
    """Why the generator, and not the server, may have shaped the figures; empty if it did not."""
    reasons = []
    if sent < planned:
        reasons.append(f"it sent only {sent:,} of {planned:,} planned requests in time")
    limit_ms = max(LATENESS_FLOOR_MS, LATENESS_SHARE_LIMIT * latency_p99_ms)
    if lateness_p99_ms > limit_ms:
        reasons.append(
            f"1 in 100 left {lateness_p99_ms:.1f} ms late or later (limit {limit_ms:.1f} ms)"
        )
    if cpu_share > CPU_SHARE_LIMIT:
        reasons.append(f"it used {cpu_share:.0%} of its core (limit {CPU_SHARE_LIMIT:.0%})")
    return reasons


def summarise(
    recorder: Recorder, *, planned: int, duration_s: float, cpu_share: float, interrupted: bool
) -> Result:
    """Everything worth saying of a run.

    `planned` counts the requests due in `duration_s` (until the interruption, if there was one);
    `cpu_share` is what the generator used of one core.
    """
    outcomes = recorder.outcomes
    sent = outcomes.total()
    answered = sum(outcomes[kind] for kind in ANSWERS)
    window_s = max(duration_s, recorder.last_done_s)
    latency = _latency(recorder.latency)
    lateness_p99_ms = value_at_quantile_ms(recorder.lateness, 0.99)
    reasons = saturation_reasons(
        planned=planned,
        sent=sent,
        lateness_p99_ms=lateness_p99_ms,
        latency_p99_ms=latency.p99_ms if latency else 0.0,
        cpu_share=cpu_share,
    )
    return Result(
        planned=planned,
        sent=sent,
        answered=answered,
        served=outcomes[OK],
        errors={kind: outcomes[kind] for kind in ERRORS},
        window_s=window_s,
        planned_rate_per_s=planned / duration_s,
        achieved_rate_per_s=answered / window_s,
        goodput_per_s=outcomes[OK] / window_s,
        latency=latency,
        lateness_p99_ms=lateness_p99_ms,
        lateness_max_ms=value_at_quantile_ms(recorder.lateness, 1.0),
        generator_cpu_share=cpu_share,
        generator_saturated=bool(reasons),
        saturation_reasons=reasons,
        interrupted=interrupted,
        curve=_curve(recorder.latency),
        timeline=_timeline(recorder, duration_s),
        latency_histogram=recorder.latency.encode().decode(),
    )


def _record_s(histogram: HdrHistogram, value_s: float) -> None:
    histogram.record_value(min(max(round(value_s * 1e6), 1), HIGHEST_US))


def _latency(histogram: HdrHistogram) -> Latency | None:
    if not histogram.total_count:
        return None
    p50, p90, p99, p999, top = (
        value_at_quantile_ms(histogram, quantile) for quantile in (0.5, 0.9, 0.99, 0.999, 1.0)
    )
    return Latency(
        count=histogram.total_count,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=top,
        p99_upper_bound_ms=p99_upper_bound_ms(histogram),
    )


def _curve(histogram: HdrHistogram) -> list[tuple[float, float]]:
    """(quantile, ms) up to the last quantile that the number of requests can resolve."""
    count = histogram.total_count
    return [
        (quantile, value_at_quantile_ms(histogram, quantile))
        for quantile in CURVE_QUANTILES
        if count and (1 - quantile) * count >= 1
    ]


def _timeline(recorder: Recorder, duration_s: float, intervals: int = 60) -> list[Second]:
    """At most `intervals` equal parts of the run, none shorter than a second."""
    width_s = max(1.0, duration_s / intervals)
    parts = np.floor_divide(np.array(recorder.planned_s), width_s).astype(int)
    latency_ms, failed = np.array(recorder.latency_ms), np.array(recorder.failed, dtype=bool)
    timeline = []
    for part in np.unique(parts):
        mine = parts == part
        p50, p90, top = np.quantile(latency_ms[mine], (0.5, 0.9, 1.0), method="inverted_cdf")
        timeline.append(
            Second(
                start_s=float(part * width_s),
                requests=int(mine.sum()),
                errors=int(failed[mine].sum()),
                p50_ms=float(p50),
                p90_ms=float(p90),
                max_ms=float(top),
            )
        )
    return timeline
