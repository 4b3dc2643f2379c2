"""Dollars per million requests: a price list and one division."""

import datetime
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from loadtest.errors import PricesError
from models.manifest import Record

PRICES = Path(__file__).parent / "prices.yaml"


class Price(Record):
    """What one instance type costs on demand, where, when, and who says so."""

    name: str
    provider: str
    region: str
    vcpu: int
    memory_gib: float
    gpu: str | None = None
    usd_per_hour: float
    date: datetime.date
    source: str


class Cost(Record):
    """Dollars per million requests on one instance at a measured rate."""

    instance: Price
    rate_per_s: float
    usd_per_million: float
    note: str


def usd_per_million(usd_per_hour: float, rate_per_s: float) -> float:
    """Dollars for one million requests on an instance that serves `rate_per_s` all the time."""
    return usd_per_hour / (rate_per_s * 3600.0) * 1e6


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


def load_prices(own: Path | None = None) -> dict[str, Price]:
    """The price list by instance name; entries of the user's own file win.

    Raises PricesError when a file is missing or malformed.
    """
    return {price.name: price for path in (PRICES, own) if path for price in _read(path)}


def find_price(prices: dict[str, Price], name: str) -> Price:
    """The price of an instance type; raises PricesError with the names that are known."""
    if name not in prices:
        known = ", ".join(sorted(prices))
        raise PricesError(
            f"no price for {name!r}: choose one of {known}, or add it to your own file (--prices)"
        )
    return prices[name]


def _read(path: Path) -> list[Price]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return TypeAdapter(list[Price]).validate_python(content)
    except FileNotFoundError as error:
        raise PricesError(f"no price file at {path}: check --prices") from error
    except yaml.YAMLError as error:
        raise PricesError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise PricesError(
            f"{path}: {where or 'content'}: {problem['msg']}; loadtest/prices.yaml shows the fields"
        ) from error
