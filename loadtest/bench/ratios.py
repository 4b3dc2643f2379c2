"""From values measured in rounds to ratios that the machine's drift does not reach."""

import statistics
from collections.abc import Sequence

from models.manifest import Record


class Spread(Record):
    """The median of the rounds with the lowest and the highest of them."""

    median: float
    low: float
    high: float


def spread(rounds: Sequence[float]) -> Spread:
    """The median and the range of one value per round. Raises ValueError when there is none."""
    return Spread(median=statistics.median(rounds), low=min(rounds), high=max(rounds))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Numerator / denominator of each round: both were measured seconds apart, so that what slowed
    the machine slowed both. Raises ValueError when the rounds do not pair up."""
    return [above / below for above, below in zip(numerators, denominators, strict=True)]
