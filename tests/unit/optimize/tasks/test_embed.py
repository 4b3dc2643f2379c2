import math
from pathlib import Path

import numpy as np
import pytest

from models.triton.text_encoder.tokens import Item
from optimize.data.retrieval import Retrieval
from optimize.tasks.embed import encode_all, measure, rank_passages, write_predictions

DIM = 32


def one_hot(items: list[Item]) -> np.ndarray:
    """A text "3+0.5*7" is the vector with 1 at 3 and 0.5 at 7."""
    vectors = np.zeros((len(items), DIM), dtype=np.float32)
    for row, text in enumerate(items):
        for term in str(text).split("+"):
            weight, _, position = term.rpartition("*")
            vectors[row, int(position)] = float(weight or 1)
    return vectors


def ranks_of(questions: list[str], passages: list[str], relevant: list[int]) -> list[int]:
    return rank_passages(one_hot(questions), one_hot(passages), np.array(relevant)).tolist()


def retrieval(questions: list[str], passages: list[str], relevant: list[int]) -> Retrieval:
    return Retrieval(questions, passages, np.array(relevant), {}, [], [], "made up")


def test_metrics_have_their_textbook_values():
    ranks = np.array([1, 2, 3, 10, 0])
    by_hand = {
        "ndcg@10": [1, 1 / math.log2(3), 0.5, 1 / math.log2(11), 0],
        "recall@1": [1, 0, 0, 0, 0],
        "recall@10": [1, 1, 1, 1, 0],
        "mrr@10": [1, 0.5, 1 / 3, 0.1, 0],
    }
    for rows in ([0, 1, 2, 3, 4], [1, 4], [3, 3, 0]):
        measured = measure(retrieval([], [], []), ranks, np.array(rows))
        assert measured.keys() == by_hand.keys()
        for name, values in by_hand.items():
            assert measured[name] == pytest.approx(np.mean([values[row] for row in rows]))


def test_ranks_are_of_the_right_passage_from_1_and_0_beyond_ten():
    passages = [str(number) for number in range(20)]
    beaten_by = ["+".join(f"{2 + n}*{n + 1}" for n in range(better)) for better in (1, 9, 10)]
    questions = ["5", *(f"0+{others}" for others in beaten_by)]
    assert ranks_of(questions, passages, [5, 0, 0, 0]) == [1, 2, 10, 0]


def test_passages_are_ranked_by_inner_product_and_not_by_distance():
    assert ranks_of(["0"], ["0", "3*0"], [1]) == [1]


def test_fewer_passages_than_ten_are_ranked_too():
    assert ranks_of(["0+2*1"], ["0", "1"], [0]) == [2]


def test_many_texts_are_encoded_in_chunks_in_their_order():
    calls: list[int] = []

    def encode(items: list[Item]) -> np.ndarray:
        calls.append(len(items))
        return np.array([[int(str(item))] for item in items], dtype=np.float32)

    vectors = encode_all(encode, [str(number) for number in range(600)], "numbers")
    assert vectors[:, 0].tolist() == list(range(600))
    assert calls == [256, 256, 88]


def test_a_query_encoder_is_measured_against_the_document_vectors_of_another_model(tmp_path: Path):
    data = retrieval(["0", "1"], ["0", "1"], [0, 1])
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    for folder in (teacher, student):
        folder.mkdir()
    write_predictions(lambda: one_hot, data, None, teacher)
    asked: list[Item] = []

    def swapped(items: list[Item]) -> np.ndarray:
        asked.extend(items)
        return one_hot(items)[:, [1, 0, *range(2, DIM)]]

    write_predictions(lambda: swapped, data, teacher, student)
    assert asked == data.questions  # no passage was encoded again
    assert np.load(teacher / "predictions.npy").tolist() == [1, 1]
    assert np.load(student / "predictions.npy").tolist() == [2, 2]
