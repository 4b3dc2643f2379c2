"""When requests are due: schedules of planned send times, pure functions of rate and seed."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Schedule = NDArray[np.float64]  # [requests] planned send times in s, ascending, from 0


def constant(rate_per_s: float, duration_s: float, seed: int) -> Schedule:  # noqa: ARG001
    """Evenly spaced send times; the seed does not matter."""
    return np.arange(0.0, duration_s, 1.0 / rate_per_s)


def poisson(rate_per_s: float, duration_s: float, seed: int) -> Schedule:
    """A Poisson process: independent users, exponential gaps with mean 1 / rate.

    Drawn by its defining property: the count over the window is Poisson distributed, and given the
    count the times are independent and uniform.
    """
    random = np.random.default_rng(seed)
    return np.sort(random.uniform(0.0, duration_s, random.poisson(rate_per_s * duration_s)))


ARRIVALS: Mapping[str, Callable[[float, float, int], Schedule]] = {
    "poisson": poisson,
    "constant": constant,
}
