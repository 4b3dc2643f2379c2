"""From probes of a served configuration to one figure: the highest rate that holds the limits. Pure."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

from models.manifest import Record
from models.prices import usd_per_million

TOLERANCE = 1.05  # the rate is known when the next rate that fails is this much higher
SEARCH_TOLERANCE = 1.1  # enough to tell which way to search; finalists are measured anew, closely
GROWTH = 1.25  # from a rate that held to the next, where it is known about where the limit lies
COLD_GROWTH = 2.0  # and where it is not
HOPELESS = 0.8  # of the best rate: a configuration that fails there is not measured closely
MAX_PROBES = 14


class Probed(Record):
    """One window of load. `holds`: p99 was within the limit and nothing failed.

    `generator_saturated`: the load generator could not send as planned; a window that failed then says
    nothing of the server.
    """

    rate_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    holds: bool
    errors: int
    generator_saturated: bool


class Reached(Record):
    """The highest rate that held, with its p99; 0 when none did. `generator_limited`: it is a lower bound."""

    rate_per_s: float
    p99_ms: float | None
    generator_limited: bool
    probes: list[Probed]


class Figures(Record):
    """What a configuration is judged by."""

    parameters: dict[str, int]
    rate_per_s: float
    p99_ms: float | None
    memory_bytes: int


def highest_rate(
    probe: Callable[[float], Probed],
    start_per_s: float,
    floor_per_s: float,
    best_per_s: float | None = None,
    attempts: int = 1,
    tolerance: float = TOLERANCE,
) -> Reached:
    """Search the highest rate that holds, from `start_per_s` up or down, not below `floor_per_s`.

    With `best_per_s`, what others reached, a configuration that fails well below it is only placed, not
    measured closely. A window may be spoilt by something else on the machine: with `attempts` 2 a rate
    fails when it fails twice in a row. Failing is quick, because a probe ends when its verdict is certain.
    """
    held, failed = 0.0, math.inf
    rate = max(start_per_s, floor_per_s)
    probes: list[Probed] = []
    while len(probes) < MAX_PROBES:
        result = first_that_holds(probe, rate, attempts, probes)
        if result.holds:
            held = rate
        else:
            failed = rate
        if failed <= held * tolerance or failed <= floor_per_s:
            break
        if best_per_s is not None and held > 0 and failed <= HOPELESS * best_per_s:
            break
        near = best_per_s is not None and failed > HOPELESS * best_per_s
        rate = next_rate(held, failed, floor_per_s, GROWTH if near else COLD_GROWTH)
    at_held = [found for found in probes if found.holds and found.rate_per_s == held]
    at_failed = [found for found in probes if found.rate_per_s == failed]
    return Reached(
        rate_per_s=held,
        p99_ms=at_held[-1].p99_ms if at_held else None,
        generator_limited=any(found.generator_saturated for found in at_failed),
        probes=probes,
    )


def first_that_holds(
    probe: Callable[[float], Probed], rate: float, attempts: int, probes: list[Probed]
) -> Probed:
    """The first of several probes that holds, else the last; all of them are added to `probes`."""
    for _ in range(attempts):
        probes.append(probe(rate))
        if probes[-1].holds:
            break
    return probes[-1]


def next_rate(held: float, failed: float, floor: float, growth: float) -> float:
    """The rate to try next between the highest that held (or 0) and the lowest that failed (or inf)."""
    if math.isinf(failed):
        return held * growth
    if held == 0:
        return max(floor, failed / growth)
    return math.sqrt(held * failed)


def value_of(
    objective: Literal["throughput", "cost"], rate_per_s: float, usd_per_hour: float
) -> float:
    """What is to be maximised: requests per second, or requests per dollar.

    Requests per dollar, and not dollars per million, so that "holds nothing" is 0 and not infinite.
    """
    if objective == "throughput" or rate_per_s == 0:
        return rate_per_s
    return 1e6 / usd_per_million(usd_per_hour, rate_per_s)


def violations(figures: Figures, max_p99_ms: float, max_memory_mib: int | None) -> dict[str, float]:
    """By how much each limit is exceeded, in its own unit relative to it: above 0 is too much."""
    p99_ms = math.inf if figures.p99_ms is None else figures.p99_ms
    found = {"p99": min(p99_ms / max_p99_ms - 1.0, 10.0)}
    if max_memory_mib is not None:
        found["memory"] = figures.memory_bytes / (max_memory_mib * 2**20) - 1.0
    return found


def pareto_front(figures: Sequence[Figures]) -> list[Figures]:
    """Those that no other beats in rate and memory both, the fastest first."""
    front: list[Figures] = []
    for one in sorted(figures, key=lambda each: (-each.rate_per_s, each.memory_bytes)):
        if not front or one.memory_bytes < front[-1].memory_bytes:
            front.append(one)
    return front
