from collections.abc import Sequence

import numpy as np
import pytest

from models.triton.text_encoder.encoder import TextEncoder
from models.triton.text_encoder.tokens import Item
from optimize.data.retrieval import Retrieval
from optimize.tasks.rerank import (
    Reranking,
    best_by_bm25,
    by_first_stage,
    calibration_pairs,
    first_stage_ranks,
    measure,
    predict,
)

PASSAGES = [f"passage about {word}" for word in ("cats", "dogs", "ships", "trains", "cats dogs")]
QUESTIONS = ["what do cats eat", "where do ships sail"]


def reranking(candidates: list[list[int]], relevant: list[int]) -> Reranking:
    data = Retrieval(QUESTIONS, PASSAGES, np.array(relevant), {}, ["calibrate me"], [], "made up")
    return Reranking(data, np.array(candidates), {}, [])


def prefer(word: str):
    """A cross-encoder that likes one word in the passage."""

    def encode(items: Sequence[Item]) -> np.ndarray:
        return np.array([[float(word in pair[1])] for pair in items], dtype=np.float32)

    return encode


def test_the_first_stage_finds_the_passages_that_share_words():
    found = best_by_bm25(QUESTIONS, PASSAGES, depth=2)
    assert found.shape == (2, 2)
    assert 0 in found[0]
    assert found[1, 0] == 2


def test_no_more_candidates_are_asked_for_than_there_are():
    assert best_by_bm25(QUESTIONS, PASSAGES, depth=50).shape == (2, len(PASSAGES))


def test_a_passage_that_the_model_prefers_comes_first():
    data = reranking([[1, 3, 4, 0], [1, 2, 3, 0]], relevant=[0, 2])
    assert predict(prefer("cats"), data).tolist() == [2, 3]  # 4 holds cats as well
    assert predict(prefer("ships"), data).tolist() == [4, 1]


def test_a_passage_that_the_first_stage_lost_is_not_found():
    data = reranking([[1, 3], [1, 2]], relevant=[0, 2])
    ranks = predict(prefer("ships"), data)
    assert ranks.tolist() == [0, 1]
    assert measure(data, ranks, np.arange(2))["recall@1"] == 0.5


def test_the_first_stage_alone_is_reported_beside_it():
    data = reranking([[1, 0], [2, 1]], relevant=[0, 2])
    assert first_stage_ranks(data).tolist() == [2, 1]
    assert "BM25 alone has nDCG@10 0.8155" in data.summary
    assert "100.0%" in data.summary


def test_questions_are_reported_apart_by_where_the_first_stage_had_the_passage():
    places = np.array([[0, *range(2, 14)], [*range(3, 15), 1], [*range(2, 15)]])
    found = by_first_stage(places, np.array([0, 1, 0]))
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "BM25 had it first": [0],
        "BM25 had it later": [1],
    }


def test_calibration_pairs_hold_no_evaluated_passage():
    data = Retrieval(
        QUESTIONS, PASSAGES, np.array([0, 2]), {}, ["calibrate"], ["long " * 30], "made up"
    )
    assert calibration_pairs(data) == [("calibrate", "long " * 30)]


def test_the_served_encoder_takes_pairs(tiny_encoder: TextEncoder):
    pairs = [("a question", "a text"), ("another", "and another text " * 40)]
    encoded = tiny_encoder.encode(pairs)
    assert encoded.outputs.shape == (2, 32)
    assert encoded.token_counts[1] > 64  # of the whole pair
    swapped = tiny_encoder.encode([(text, query) for query, text in pairs])
    assert not np.allclose(encoded.outputs[0], swapped.outputs[0], atol=1e-3)
    with pytest.raises(ValueError, match="no texts"):
        tiny_encoder.encode([])
