"""Metrics with bootstrap intervals, and what a variant loses of them against the source model.

Percentile bootstrap over examples (Efron and Tibshirani, 1993). Losses are resampled in pairs: both
models answer the same examples.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from models.manifest import Interval
from models.triton.text_encoder.tokens import Item

Encode = Callable[[list[Item]], npt.NDArray[np.float32]]  # N texts or pairs -> [N, dim]
Rows = npt.NDArray[np.intp]
Measure = Callable[[Rows], dict[str, float]]  # each metric over some rows of the data

RESAMPLES = 1000
LOWER_IS_BETTER = ("ece",)


def bootstrap_metrics(measure: Measure, rows: Rows, seed: int = 0) -> dict[str, Interval]:
    """Every metric over `rows` with its 95 % interval."""
    resampled = [measure(draw) for draw in resamples(rows, seed)]
    return {
        name: interval(value, [values[name] for values in resampled])
        for name, value in measure(rows).items()
    }


def bootstrap_losses(
    variant: Measure, baseline: Measure, rows: Rows, relative: Sequence[str], seed: int = 0
) -> dict[str, Interval]:
    """What `variant` loses of each metric: a share of the baseline's for those in `relative`, else points.

    Not a number where there is nothing to lose a share of: the baseline finds nothing.
    """
    resampled = [losses(variant(d), baseline(d), relative) for d in resamples(rows, seed)]
    return {
        name: interval(value, [values[name] for values in resampled])
        for name, value in losses(variant(rows), baseline(rows), relative).items()
    }


def losses(
    variant: Mapping[str, float], baseline: Mapping[str, float], relative: Sequence[str]
) -> dict[str, float]:
    """The loss of each metric, positive when the variant is worse."""
    return {
        name: relative_loss(variant[name], value)
        if name in relative
        else (variant[name] - value) * (1 if name in LOWER_IS_BETTER else -1)
        for name, value in baseline.items()
    }


def relative_loss(variant: float, baseline: float) -> float:
    """The share of the baseline's value that is lost."""
    return 1 - variant / baseline if baseline else float("nan")


def resamples(rows: Rows, seed: int) -> list[Rows]:
    """`RESAMPLES` draws of as many rows with replacement; one seed draws the same ones each time."""
    generator = np.random.default_rng(seed)
    return [rows[generator.integers(0, len(rows), len(rows))] for _ in range(RESAMPLES)]


def interval(value: float, resampled: Sequence[float]) -> Interval:
    """A value with the middle 95 % of its resampled values."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(value=value, low=float(low), high=float(high))
