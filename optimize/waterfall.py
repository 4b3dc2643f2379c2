"""From the demo to the chosen variant, in dollars per million requests: what each step saves."""

from collections.abc import Mapping

from models.manifest import Evidence, Record, Speed, Tuning
from models.prices import Price, usd_per_million
from optimize.variants import Variant, parse_variant


class Stage(Record):
    """One way to run the model on one instance around the clock, at the rate measured for it."""

    label: str
    rate_per_s: float
    usd_per_million: float


def waterfall(
    evidence: Mapping[str, Evidence],
    baseline: str,
    chosen: str | None,
    tuning: Tuning | None,
    price: Price,
) -> list[Stage]:
    """The stages in order. Empty where nothing was timed.

    The first is how most demos run: the baseline on one request after the other. Direct calls have all
    cores to themselves; the tuned stage shares them with Triton and holds a latency limit.
    """
    if not evidence[baseline].speed:
        return []
    one, many = smallest(evidence[baseline]), largest(evidence[baseline])
    rates = {f"{baseline}, one request at a time": 1000 / one.p50_ms}
    if many.batch_size > one.batch_size:
        rates[f"{baseline}, batches of {many.batch_size}"] = many.throughput_texts_per_s
    for name in path_to(chosen, evidence):
        speed = largest(evidence[name])
        rates[f"{name}, batches of {speed.batch_size}"] = speed.throughput_texts_per_s
    if tuning is not None:
        label = f"tuned on Triton, p99 within {tuning.max_p99_ms:g} ms"
        rates[label] = tuning.rate_per_s
    return [
        Stage(
            label=label, rate_per_s=rate, usd_per_million=usd_per_million(price.usd_per_hour, rate)
        )
        for label, rate in rates.items()
    ]


def path_to(chosen: str | None, evidence: Mapping[str, Evidence]) -> list[str]:
    """The measured variants that lie on the way: the plain graph, the chosen precision, the chosen one."""
    if chosen is None:
        return []
    last = parse_variant(chosen)
    steps = [
        "fp32",
        "given",
        Variant("source", last.precision).name,
        Variant(last.family, last.precision).name,
        chosen,
    ]
    return [name for name in dict.fromkeys(steps) if name in evidence]


def smallest(evidence: Evidence) -> Speed:
    """The timings at the smallest batch."""
    return min(evidence.speed, key=lambda speed: speed.batch_size)


def largest(evidence: Evidence) -> Speed:
    """The timings at the largest batch."""
    return max(evidence.speed, key=lambda speed: speed.batch_size)
