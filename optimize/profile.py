"""What held-out traffic looked like when the model was packaged, for drift to be measured against."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.manifest import Histogram, ReferenceProfile
from models.profile import count_into, project
from optimize.errors import EvidenceError

Floats = npt.NDArray[np.floating[Any]]

# About two bins per doubling: the same for every model, so that profiles compare.
TOKEN_EDGES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 8192)
CONFIDENCE_EDGES = tuple(round(share / 20, 2) for share in range(21))
DIRECTIONS = 8
QUANTILE_BINS = 20
DECIMALS = 5  # of edges: beyond it, machines differ
UNIT_TOLERANCE = 1e-3


def reference_profile(
    token_counts: npt.NDArray[np.integer[Any]],
    embeddings: Floats | None = None,
    probabilities: Floats | None = None,
    label_names: Sequence[str] = (),
    seed: int = 0,
) -> ReferenceProfile:
    """The profile of N texts: token_counts [N], whole texts; embeddings [N, dim]; probabilities [N, classes].

    Embeddings give quantile histograms along random directions, and of their norms unless all are 1.
    Probabilities give the share of texts per predicted class and a histogram of the largest probability.
    Raises EvidenceError when there is no text, a number is not finite, or the lengths disagree.
    """
    refuse_unusable(token_counts, embeddings, probabilities, label_names)
    return ReferenceProfile(
        texts=len(token_counts),
        token_lengths=count_into(TOKEN_EDGES, token_counts),
        embedding_norms=None if embeddings is None else norm_histogram(embeddings),
        projections=[] if embeddings is None else projection_histograms(embeddings, seed),
        seed=seed,
        class_priors=None if probabilities is None else class_shares(probabilities, label_names),
        confidence=None
        if probabilities is None
        else count_into(CONFIDENCE_EDGES, probabilities.max(axis=1)),
        centroid=[] if embeddings is None else centroid_of(embeddings).tolist(),
        centroid_cosines=None if embeddings is None else centroid_histogram(embeddings),
    )


def refuse_unusable(
    token_counts: npt.NDArray[np.integer[Any]],
    embeddings: Floats | None,
    probabilities: Floats | None,
    label_names: Sequence[str],
) -> None:
    """Raise EvidenceError for what would give an empty or a misleading profile."""
    if not len(token_counts):
        raise EvidenceError("a reference profile needs texts: add held-out data to the recipe")
    for name, values in (("embeddings", embeddings), ("probabilities", probabilities)):
        if values is None:
            continue
        if len(values) != len(token_counts):
            raise EvidenceError(
                f"{len(values)} {name} for {len(token_counts)} texts: profile the same texts"
            )
        if not np.isfinite(values).all():
            raise EvidenceError(
                f"{name} of held-out texts are not finite: the model is broken, package another variant"
            )
    if probabilities is not None and probabilities.shape[1] != len(label_names):
        raise EvidenceError(
            f"the model gives {probabilities.shape[1]} probabilities for {len(label_names)} labels: "
            "name the labels that it was trained with"
        )


def norm_histogram(embeddings: Floats) -> Histogram | None:
    """Quantiles of the norms; None for unit vectors, whose norm tells nothing."""
    norms = np.linalg.norm(embeddings, axis=1)
    if np.abs(norms - 1).max() < UNIT_TOLERANCE:
        return None
    return quantile_histogram(norms)


def centroid_of(embeddings: Floats) -> Floats:
    """The direction [dim] of the mean embedding."""
    mean = embeddings.mean(axis=0)
    return np.asarray((mean / max(float(np.linalg.norm(mean)), 1e-12)).round(DECIMALS))


def centroid_histogram(embeddings: Floats) -> Histogram:
    """Quantiles of the cosines to the centroid: a change of topic moves them far."""
    norms = np.maximum(np.linalg.norm(embeddings, axis=1), 1e-12)
    return quantile_histogram(embeddings @ centroid_of(embeddings) / norms)


def projection_histograms(embeddings: Floats, seed: int) -> list[Histogram]:
    """One histogram per random direction."""
    return [quantile_histogram(values) for values in project(embeddings, DIRECTIONS, seed).T]


def quantile_histogram(values: Floats) -> Histogram:
    """A histogram whose bins hold about equally many values; fewer bins where values repeat."""
    quantiles = np.quantile(values, np.linspace(0, 1, QUANTILE_BINS + 1)).round(DECIMALS)
    edges = np.unique(quantiles).tolist()
    if len(edges) == 1:  # all values are the same
        edges.append(edges[0] + 10.0**-DECIMALS)
    return count_into(edges, values)


def class_shares(probabilities: Floats, label_names: Sequence[str]) -> dict[str, float]:
    """The share of texts for which each class is the most probable."""
    counts = np.bincount(probabilities.argmax(axis=1), minlength=len(label_names))
    return dict(zip(label_names, (counts / len(probabilities)).round(6).tolist(), strict=True))
