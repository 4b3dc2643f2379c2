"""What one load test sends, where to, for how long."""

import ipaddress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import ValidationError, field_validator, model_validator

from loadtest.arrivals import ARRIVALS
from loadtest.errors import SettingsError
from models.manifest import Record

LONGEST_S = 3600.0
# Every planned request costs the generator memory; beyond this one process is the wrong tool.
MOST_REQUESTS = 10_000_000


class Settings(Record):
    """One open-loop load: `rate_per_s` planned requests per second for `duration_s` seconds.

    The first `warmup_s` seconds of the same stream are sent and thrown away. `queries` is a text
    file with one query per line; None takes the questions that come with Farshore.
    """

    url: str
    model: str
    rate_per_s: float
    duration_s: float
    warmup_s: float = 3.0
    arrivals: str = "poisson"
    seed: int = 1
    timeout_s: float = 10.0
    queries: Path | None = None
    allow_long: bool = False

    @property
    def total_s(self) -> float:
        """Seconds of sending, warm-up included."""
        return self.warmup_s + self.duration_s

    @field_validator("url")
    @classmethod
    def _only_loopback(cls, url: str) -> str:
        if not is_loopback(url):
            raise ValueError(
                f"{url} is not on this machine, and load on a host that is not yours is an attack: "
                "run the load test on the host that serves, with http://127.0.0.1:PORT"
            )
        return url.rstrip("/")

    @field_validator("arrivals")
    @classmethod
    def _known_arrivals(cls, arrivals: str) -> str:
        if arrivals not in ARRIVALS:
            raise ValueError(f"unknown arrivals {arrivals!r}: one of {', '.join(ARRIVALS)}")
        return arrivals

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if min(self.rate_per_s, self.duration_s, self.timeout_s) <= 0 or self.warmup_s < 0:
            raise ValueError("rate, duration and timeout must be above zero, the warm-up not below")
        if self.total_s > LONGEST_S and not self.allow_long:
            raise ValueError(f"longer than {LONGEST_S:.0f} s: shorten it, or add --allow-long")
        if self.rate_per_s * self.total_s > MOST_REQUESTS:
            raise ValueError(
                f"more than {MOST_REQUESTS:,} requests: lower the rate or the duration"
            )
        return self


def make_settings(**fields: object) -> Settings:
    """Settings from named fields; raises SettingsError with the first problem in words."""
    try:
        return Settings.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        reason = problem["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{where}: {reason}" if where else reason) from error


def is_loopback(url: str) -> bool:
    """Whether an http URL names this machine by its loopback address."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        return False
    if parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        return False
