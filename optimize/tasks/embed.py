"""Embedders: nDCG@10, recall@1, recall@10 and MRR@10 of held-out questions over their passages.

Each question has one relevant passage, so nDCG@10 is 1 / log2(1 + rank) within the first ten and the
ideal DCG is 1 (Järvelin and Kekäläinen, 2002).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from optimize.data.retrieval import Retrieval, Rows
from optimize.progress import progress
from optimize.quality import Encode

Vectors = npt.NDArray[np.float32]
Ranks = npt.NDArray[np.int64]

PASSAGES, QUESTIONS = "passages.npy", "questions.npy"
DEPTH = 10
CHUNK = 256  # texts per call, so that the progress bar moves


def write_predictions(
    open_encoder: Callable[[], Encode], data: Retrieval, documents: Path | None, destination: Path
) -> None:
    """The quality step: ranks [Q] in predictions.npy, with the vectors that they come from.

    Questions are encoded by the variant under test. So are the passages, unless `documents` holds
    vectors of another model that shares its space: then only the query side is under test.
    """
    encode = open_encoder()
    if documents is None:
        passages = encode_all(encode, data.passages, "passages")
        np.save(destination / PASSAGES, passages)
    else:
        passages = np.load(documents / PASSAGES)
    questions = encode_all(encode, data.questions, "questions")
    np.save(destination / QUESTIONS, questions)
    np.save(destination / "predictions.npy", rank_passages(questions, passages, data.relevant))


def rank_passages(questions: Vectors, passages: Vectors, relevant: npt.NDArray[np.int64]) -> Ranks:
    """The rank [Q] of each question's relevant passage, from 1; 0 when not among the first ten."""
    _, found = faiss.knn(questions, passages, DEPTH, metric=faiss.METRIC_INNER_PRODUCT)
    return ranks_of_hits(found == relevant[:, None])


def ranks_of_hits(hits: npt.NDArray[np.bool_]) -> Ranks:
    """The place [Q] of the hit in each row of [Q, DEPTH], from 1; 0 where there is none."""
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0).astype(np.int64)


def encode_all(encode: Encode, texts: Sequence[str], label: str) -> Vectors:
    """N texts -> [N, dim], in chunks under a progress bar."""
    starts = range(0, len(texts), CHUNK)
    bar = progress(starts, f"encoding {len(texts):,} {label}")
    return np.concatenate([encode(list(texts[start : start + CHUNK])) for start in bar])


def measure(_: Retrieval | None, ranks: Ranks, rows: Rows) -> dict[str, float]:
    """Each metric over some rows of the questions, from ranks where 0 means not found."""
    counts = np.bincount(ranks[rows], minlength=DEPTH + 1)  # how often each rank
    return {name: float(values @ counts / len(rows)) for name, values in VALUE_OF_RANK.items()}


RANKS = np.arange(1, DEPTH + 1)
# What a question adds to each metric, by the rank of its passage; rank 0 is not found.
VALUE_OF_RANK = {
    "ndcg@10": np.array([0.0, *(1 / np.log2(1 + RANKS))]),
    "recall@1": np.array([0.0, 1.0, *[0.0] * (DEPTH - 1)]),
    "recall@10": np.array([0.0, *[1.0] * DEPTH]),
    "mrr@10": np.array([0.0, *(1 / RANKS)]),
}
