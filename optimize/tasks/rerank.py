"""Rerankers: the metrics of embedders after a cross-encoder reordered BM25's best passages."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bm25s
import numpy as np
import numpy.typing as npt

from models.triton.text_encoder.tokens import Item
from optimize.data.retrieval import Retrieval, Rows, read_retrieval
from optimize.progress import progress
from optimize.quality import Encode
from optimize.sections import Evaluation
from optimize.tasks import embed

Ranks = npt.NDArray[np.int64]

SPEED_PAIRS = 1024
CHUNK = 8  # questions per call, so that the progress bar moves


@dataclass(frozen=True)
class Reranking:
    """`candidates` [Q, K] are rows of the passages, BM25's best first; a right passage that is not among
    them is lost for any reranker.
    """

    retrieval: Retrieval
    candidates: npt.NDArray[np.int64]
    segments: dict[str, Rows]
    calibration: list[Item]

    @property
    def examples(self) -> int:
        """How many held-out questions there are."""
        return len(self.retrieval.questions)

    @property
    def training(self) -> list[str]:
        """Single texts train no cross-encoder."""
        return []

    @property
    def provenance(self) -> str:
        """Where the data is from."""
        return self.retrieval.provenance

    @property
    def profile_items(self) -> list[Item]:
        """What a served reranker would see."""
        return self.speed_items

    @property
    def speed_items(self) -> list[Item]:
        """What variants are timed on: pairs of a question and one of its candidates."""
        rows = range(min(SPEED_PAIRS, self.examples * self.candidates.shape[1]))
        width = self.candidates.shape[1]
        return [pair_of(self, row // width, row % width) for row in rows]

    @property
    def summary(self) -> str:
        """What quality is measured on, in words."""
        found = (self.candidates == self.retrieval.relevant[:, None]).any(axis=1).mean()
        first = embed.measure(None, first_stage_ranks(self), np.arange(self.examples))["ndcg@10"]
        return (
            f"{self.retrieval.summary}, BM25's best {self.candidates.shape[1]} reranked: they hold the "
            f"right passage for {found:.1%}; BM25 alone has nDCG@10 {first:.4f}"
        )

    def shortage(self, needed: Evaluation) -> str | None:
        """What the data lacks for a verdict, or None."""
        return self.retrieval.shortage(needed)


def read_data(folder: Path, evaluation: Evaluation) -> Reranking:
    """Read a retrieval folder and run the first stage. Raises SourceError."""
    data = read_retrieval(folder, evaluation)
    candidates = best_by_bm25(data.questions, data.passages, evaluation.candidates)
    return Reranking(
        retrieval=data,
        candidates=candidates,
        segments=data.segments | by_first_stage(candidates, data.relevant),
        calibration=calibration_pairs(data),
    )


def best_by_bm25(
    questions: Sequence[str], passages: Sequence[str], depth: int
) -> npt.NDArray[np.int64]:
    """Rows [Q, depth] of the passages with the highest BM25 scores, best first."""
    options = {"stopwords": "en", "show_progress": False}
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(passages), **options), show_progress=False)
    found, _ = index.retrieve(
        bm25s.tokenize(list(questions), **options),
        k=min(depth, len(passages)),
        show_progress=False,
    )
    return np.asarray(found, dtype=np.int64)


def calibration_pairs(data: Retrieval) -> list[Item]:
    """Calibration questions beside passages of the training part; without one, beside questions."""
    texts = [text for text in data.training if len(text.split()) > 20] or data.calibration
    return [(question, texts[row % len(texts)]) for row, question in enumerate(data.calibration)]


def by_first_stage(
    candidates: npt.NDArray[np.int64], relevant: npt.NDArray[np.int64]
) -> dict[str, Rows]:
    """Rows of the questions by where BM25 put the right passage."""
    hits = candidates == relevant[:, None]
    place = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)
    found = {
        "BM25 had it first": np.flatnonzero(place == 1),
        "BM25 had it among ten": np.flatnonzero((place > 1) & (place <= 10)),
        "BM25 had it later": np.flatnonzero(place > 10),
    }
    return {name: rows for name, rows in found.items() if len(rows)}


def first_stage_ranks(data: Reranking) -> Ranks:
    """BM25's own ranks [Q] of the right passages; 0 when not among the first ten."""
    return embed.ranks_of_hits(data.candidates[:, : embed.DEPTH] == relevant_column(data))


def predict(encode: Encode, data: Reranking) -> Ranks:
    """The ranks [Q] of the right passages after reranking; 0 when not among the first ten."""
    width = data.candidates.shape[1]
    starts = range(0, data.examples, CHUNK)
    ranks = []
    for start in progress(starts, f"reranking {data.examples:,} x {width} pairs"):
        rows = range(start, min(start + CHUNK, data.examples))
        pairs = [pair_of(data, row, place) for row in rows for place in range(width)]
        scores = encode(pairs).reshape(len(rows), width)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : embed.DEPTH]
        best = np.take_along_axis(data.candidates[rows.start : rows.stop], order, axis=1)
        hits = best == relevant_column(data)[rows.start : rows.stop]
        ranks.append(embed.ranks_of_hits(hits))
    return np.concatenate(ranks)


def measure(_: Reranking, ranks: Ranks, rows: Rows) -> dict[str, float]:
    """Each metric over some rows of the questions."""
    return embed.measure(None, ranks, rows)


def pair_of(data: Reranking, row: int, place: int) -> Item:
    """A question and the candidate at a place of its list."""
    passage = data.retrieval.passages[data.candidates[row, place]]
    return (data.retrieval.questions[row], passage)


def relevant_column(data: Reranking) -> npt.NDArray[np.int64]:
    """[Q, 1] rows of the right passages."""
    return data.retrieval.relevant[:, None]
