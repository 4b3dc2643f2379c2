"""What instances cost: a dated price list, and dollars per million requests at a measured rate."""

import datetime
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from models.manifest import Record

PRICES = Path(__file__).parent / "prices.yaml"


class PricesError(Exception):
    """The price list cannot be read, or has no such instance."""


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


def usd_per_million(usd_per_hour: float, rate_per_s: float) -> float:
    """Dollars for one million requests on an instance that serves `rate_per_s` all the time."""
    return usd_per_hour / (rate_per_s * 3600.0) * 1e6


def load_prices(own: Path | None = None) -> dict[str, Price]:
    """The price list by instance name; entries of the user's own file win.

    Raises PricesError when a file is missing or malformed.
    """
    return {price.name: price for path in (PRICES, own) if path for price in read_prices(path)}


def find_price(prices: dict[str, Price], name: str) -> Price:
    """The price of an instance type; raises PricesError with the names that are known."""
    if name not in prices:
        known = ", ".join(sorted(prices))
        raise PricesError(
            f"no price for {name!r}: choose one of {known}, or add it to your own file (--prices)"
        )
    return prices[name]


def read_prices(path: Path) -> list[Price]:
    """The entries of one file."""
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
            f"{path}: {where or 'content'}: {problem['msg']}; models/prices.yaml shows the fields"
        ) from error
