"""Retrieval quality on held-out questions: nDCG@10, recall@1, MRR@10, with bootstrap intervals.

Each question has one relevant passage, so nDCG@10 is 1 / log2(1 + rank) within the first ten and the
ideal DCG is 1 (Järvelin and Kekäläinen, 2002).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from models.manifest import Interval
from optimize.evaluation import Evaluation
from optimize.progress import progress

Encode = Callable[[list[str]], npt.NDArray[np.float32]]
Scores = npt.NDArray[np.float64]

DEPTH = 10
CHUNK = 256  # texts per call, so that the progress bar moves
RESAMPLES = 1000


def write_ranks(open_encoder: Callable[[], Encode], data: Evaluation, destination: Path) -> None:
    """The quality step: ranks.json, one rank per question."""
    ranks = rank_questions(open_encoder(), data.questions, data.passages, data.relevant)
    (destination / "ranks.json").write_text(json.dumps(ranks.tolist()))


def rank_questions(
    encode: Encode,
    questions: Sequence[str],
    passages: Sequence[str],
    relevant: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """The rank [Q] of each question's relevant passage, from 1; 0 when it is not among the first ten.

    Questions and passages are both encoded by the variant under test.
    """
    passage_vectors = encode_all(encode, passages, "passages")
    question_vectors = encode_all(encode, questions, "questions")
    _, found = faiss.knn(
        question_vectors, passage_vectors, DEPTH, metric=faiss.METRIC_INNER_PRODUCT
    )
    hits = found == relevant[:, None]  # [Q, DEPTH]
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0).astype(np.int64)


def encode_all(encode: Encode, texts: Sequence[str], label: str) -> npt.NDArray[np.float32]:
    """N texts -> [N, dim], in chunks under a progress bar."""
    starts = range(0, len(texts), CHUNK)
    bar = progress(starts, f"encoding {len(texts):,} {label}")
    return np.concatenate([encode(list(texts[start : start + CHUNK])) for start in bar])


def scores_of(ranks: npt.NDArray[np.int64]) -> dict[str, Scores]:
    """Each metric's value per question [Q], from ranks where 0 means not found."""
    found = ranks > 0
    safe = np.maximum(ranks, 1)
    return {
        "ndcg@10": np.where(found, 1 / np.log2(1 + safe), 0.0),
        "recall@1": (ranks == 1).astype(np.float64),
        "mrr@10": np.where(found, 1 / safe, 0.0),
    }


def bootstrap_mean(values: Scores, seed: int = 0) -> Interval:
    """The mean and its percentile bootstrap 95 % interval over questions."""
    means = resampled_means(values, seed)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(value=float(values.mean()), low=float(low), high=float(high))


def bootstrap_relative_loss(variant: Scores, baseline: Scores, seed: int = 0) -> Interval:
    """The mean loss relative to the baseline, resampled in pairs: both answer the same questions.

    Not a number where the baseline finds nothing: there is no loss to speak of.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        losses = 1 - resampled_means(variant, seed) / resampled_means(baseline, seed)
        low, high = np.percentile(losses, [2.5, 97.5])
        loss = 1 - variant.mean() / baseline.mean()
    return Interval(value=float(loss), low=float(low), high=float(high))


def resampled_means(values: Scores, seed: int) -> Scores:
    """Means of `RESAMPLES` resamples with replacement; one seed draws the same questions each time."""
    generator = np.random.default_rng(seed)
    draws = (generator.integers(0, len(values), len(values)) for _ in range(RESAMPLES))
    return np.array([values[draw].mean() for draw in draws])
