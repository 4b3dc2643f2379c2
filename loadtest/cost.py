"""Dollars per million requests at the rate that a run measured."""

from models.manifest import Record
from models.prices import Price, usd_per_million


class Cost(Record):
    """Dollars per million requests on one instance at a measured rate."""

    instance: Price
    rate_per_s: float
    usd_per_million: float
    note: str


def cost_of(price: Price, goodput_per_s: float, planned_rate_per_s: float) -> Cost | None:
    """The cost at the rate that was served; None when nothing was.

    The note says how the rate relates to the limit of the machine: a rate that was merely offered
    leaves room, so the same machine may serve a million requests for less.
    """
    if goodput_per_s <= 0:
        return None
    kept_up = goodput_per_s >= 0.95 * planned_rate_per_s
    meaning = (
        "is what was offered, not the limit: a higher rate on the same machine costs less each"
        if kept_up
        else f"is less than the {planned_rate_per_s:.1f}/s offered: the stack did not keep up"
    )
    return Cost(
        instance=price,
        rate_per_s=goodput_per_s,
        usd_per_million=usd_per_million(price.usd_per_hour, goodput_per_s),
        note=(
            f"one {price.name} around the clock, as if it did what this machine did; the measured "
            f"{goodput_per_s:.1f}/s {meaning}"
        ),
    )
