"""What sending and storing vectors in fewer bits costs in quality, with and without rescoring.

Of stored documents: queries stay in FP32 where the stored kind allows it; binary vectors are compared by
Hamming distance.
"""

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from models.manifest import Interval, VectorFigures
from models.triton.text_encoder.vectors import INT8_SCALE, compress
from optimize.quality import bootstrap_metrics
from optimize.sections import VectorType
from optimize.tasks.embed import DEPTH, measure, ranks_of_hits

Vectors = npt.NDArray[np.float32]
Found = npt.NDArray[np.int64]  # [Q, depth] rows of documents, best first

CANDIDATES = 4 * DEPTH  # that rescoring reorders
# How vectors may be stored, and what their best candidates are rescored with.
LAYOUTS: tuple[tuple[VectorType, VectorType | None], ...] = (
    ("fp32", None),
    ("fp16", None),
    ("int8", None),
    ("binary", None),
    ("binary", "int8"),
    ("binary", "fp32"),
)


def vector_figures(
    questions: Vectors, documents: Vectors, relevant: npt.NDArray[np.int64]
) -> list[VectorFigures]:
    """The retrieval quality of each layout. questions [Q, D], documents [N, D], relevant [Q]."""
    usable = [pair for pair in LAYOUTS if pair[0] != "binary" or documents.shape[1] % 8 == 0]
    return [figures_of(questions, documents, relevant, *pair) for pair in usable]


def figures_of(
    questions: Vectors,
    documents: Vectors,
    relevant: npt.NDArray[np.int64],
    kind: VectorType,
    rescore_with: VectorType | None,
) -> VectorFigures:
    """One layout; a rescored one stores both kinds."""
    stored = compress(documents, kind)
    size = stored.nbytes // len(documents)
    found = search(questions, stored, kind, CANDIDATES if rescore_with else DEPTH)
    if rescore_with is not None:
        finer = compress(documents, rescore_with)
        size += finer.nbytes // len(documents)
        found = rescore(questions, finer, rescore_with, found)
    return VectorFigures(
        stored_as=kind,
        bytes_per_vector=size,
        quality=quality_of(found[:, :DEPTH], relevant),
        rescored=CANDIDATES if rescore_with else None,
        rescored_with=rescore_with,
    )


def search(questions: Vectors, stored: npt.NDArray[Any], kind: VectorType, depth: int) -> Found:
    """The `depth` best stored vectors for each question [Q, depth]."""
    depth = min(depth, len(stored))
    if kind == "binary":
        index = faiss.IndexBinaryFlat(stored.shape[1] * 8)
        index.add(stored)
        return np.asarray(index.search(compress(questions, "binary"), depth)[1])
    found = faiss.knn(questions, expand(stored, kind), depth, metric=faiss.METRIC_INNER_PRODUCT)[1]
    return np.asarray(found)


def rescore(questions: Vectors, stored: npt.NDArray[Any], kind: VectorType, found: Found) -> Found:
    """The candidates [Q, C] in the order of their inner product with the FP32 question."""
    scores = np.einsum("qd,qcd->qc", questions, expand(stored[found], kind))
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def expand(stored: npt.NDArray[Any], kind: str) -> Vectors:
    """Stored numbers as FP32 again; sign bits as +1 and -1, which inner products order as Hamming does."""
    if kind == "binary":
        return np.unpackbits(stored, axis=-1).astype(np.float32) * 2 - 1
    return stored.astype(np.float32) / (INT8_SCALE if kind == "int8" else 1.0)


def as_sent(vectors: Vectors, kind: str) -> Vectors:
    """Vectors [N, D] as whoever receives them in this number format reads them."""
    if kind == "fp32":
        return vectors
    return expand(compress(vectors, kind), kind)[:, : vectors.shape[1]]  # bits come in whole bytes


def quality_of(found: Found, relevant: npt.NDArray[np.int64]) -> dict[str, Interval]:
    """The embedder's metrics of a result list [Q, DEPTH], with intervals."""
    ranks = ranks_of_hits(found == relevant[:, None])
    return bootstrap_metrics(lambda rows: measure(None, ranks, rows), np.arange(len(relevant)))
