"""How traffic is turned into the histograms of a reference profile: the same when packaging and when serving.

`optimize` fills manifest.profile with these functions, `serving` counts live traffic with them and compares.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.manifest import Histogram

Floats = npt.NDArray[np.floating[Any]]


def projection_directions(dim: int, directions: int, seed: int) -> npt.NDArray[np.float64]:
    """Random unit vectors [directions, dim], the same from the same seed everywhere.

    RandomState, because NumPy promises its stream for ever; that of default_rng may change with a release
    (NEP 19). The first directions are the same however many are drawn.
    """
    drawn = np.random.RandomState(seed).standard_normal((directions, dim))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def project(embeddings: Floats, directions: int, seed: int) -> npt.NDArray[np.float64]:
    """Embeddings [N, dim] along the random directions: [N, directions]."""
    return embeddings @ projection_directions(embeddings.shape[1], directions, seed).T


def count_into(edges: Sequence[float], values: Floats | npt.NDArray[np.integer[Any]]) -> Histogram:
    """Count values between edges; a bin holds its lower edge, and the two outer bins what lies beyond."""
    inner = np.asarray(edges)[1:-1]
    bins = np.searchsorted(inner, values, side="right")
    counts = np.bincount(bins, minlength=len(edges) - 1)
    return Histogram(edges=list(edges), counts=counts.tolist())


def stability_index(reference: Histogram, live: Histogram) -> float:
    """Population stability index of two histograms over the same edges: 0 when their shares are equal.

    The sum over bins of (p - q) ln(p / q), half a count added to each bin. By convention of credit scoring
    (Siddiqi, 2006) below 0.1 is no shift and above 0.25 a large one. Chance alone gives about
    (bins - 1) (1/N + 1/M) for N and M values, so compare windows of at least 500.
    """
    p, q = (shares(histogram) for histogram in (reference, live))
    return float(np.sum((p - q) * np.log(p / q)))


def shares(histogram: Histogram) -> npt.NDArray[np.float64]:
    """The share of each bin, never zero."""
    counts = np.asarray(histogram.counts, dtype=np.float64) + 0.5
    return np.asarray(counts / counts.sum())
