import math

import numpy as np
import pytest

from optimize.quality import (
    bootstrap_mean,
    bootstrap_relative_loss,
    encode_all,
    rank_questions,
    scores_of,
)

DIM = 32


def one_hot(texts: list[str]) -> np.ndarray:
    """A text "3+0.5*7" is the vector with 1 at 3 and 0.5 at 7."""
    vectors = np.zeros((len(texts), DIM), dtype=np.float32)
    for row, text in enumerate(texts):
        for term in text.split("+"):
            weight, _, position = term.rpartition("*")
            vectors[row, int(position)] = float(weight or 1)
    return vectors


def test_metrics_have_their_textbook_values():
    scores = scores_of(np.array([1, 2, 3, 10, 0]))
    by_hand = {
        "ndcg@10": [1, 1 / math.log2(3), 0.5, 1 / math.log2(11), 0],
        "recall@1": [1, 0, 0, 0, 0],
        "mrr@10": [1, 0.5, 1 / 3, 0.1, 0],
    }
    assert scores.keys() == by_hand.keys()
    for name, expected in by_hand.items():
        np.testing.assert_allclose(scores[name], expected)


def test_ranks_are_of_the_right_passage_from_1_and_0_beyond_ten():
    passages = [str(number) for number in range(20)]
    beaten_by = ["+".join(f"{2 + n}*{n + 1}" for n in range(better)) for better in (1, 9, 10)]
    questions = ["5", *(f"0+{others}" for others in beaten_by)]
    relevant = np.array([5, 0, 0, 0])
    assert rank_questions(one_hot, questions, passages, relevant).tolist() == [1, 2, 10, 0]


def test_passages_are_ranked_by_inner_product_and_not_by_distance():
    assert rank_questions(one_hot, ["0"], ["0", "3*0"], np.array([1])).tolist() == [1]


def test_fewer_passages_than_ten_are_ranked_too():
    assert rank_questions(one_hot, ["0+2*1"], ["0", "1"], np.array([0])).tolist() == [2]


def test_many_texts_are_encoded_in_chunks_in_their_order():
    calls: list[int] = []

    def encode(texts: list[str]) -> np.ndarray:
        calls.append(len(texts))
        return np.array([[int(text)] for text in texts], dtype=np.float32)

    vectors = encode_all(encode, [str(number) for number in range(600)], "numbers")
    assert vectors[:, 0].tolist() == list(range(600))
    assert calls == [256, 256, 88]


def test_the_interval_holds_the_mean_and_shrinks_with_more_questions():
    values = np.random.default_rng(1).random(4000)
    few, many = bootstrap_mean(values[:100]), bootstrap_mean(values)
    for interval, sample in ((few, values[:100]), (many, values)):
        assert interval.value == pytest.approx(sample.mean())
        assert interval.low < interval.value < interval.high
    # 40 times the questions: about 1 / sqrt(40) of the width
    assert (many.high - many.low) / (few.high - few.low) == pytest.approx(40**-0.5, rel=0.3)


def test_the_interval_is_as_wide_as_the_central_limit_theorem_says():
    values = np.random.default_rng(2).random(1000)
    interval = bootstrap_mean(values)
    expected = 2 * 1.96 * values.std() / math.sqrt(len(values))
    assert interval.high - interval.low == pytest.approx(expected, rel=0.1)


def test_the_same_scores_give_the_same_interval():
    values = np.random.default_rng(3).random(50)
    assert bootstrap_mean(values) == bootstrap_mean(values.copy())


def test_a_variant_loses_nothing_against_itself():
    values = np.random.default_rng(4).random(100)
    loss = bootstrap_relative_loss(values, values)
    assert (loss.value, loss.low, loss.high) == (0.0, 0.0, 0.0)


def test_losing_a_tenth_everywhere_is_a_certain_loss_of_a_tenth():
    values = np.random.default_rng(5).random(100)
    loss = bootstrap_relative_loss(0.9 * values, values)
    assert [loss.value, loss.low, loss.high] == pytest.approx([0.1, 0.1, 0.1])


def test_pairing_the_questions_makes_the_loss_more_certain_than_the_scores():
    baseline = np.random.default_rng(6).random(200)
    variant = np.where(np.arange(200) % 10 == 0, 0.9, 1.0) * baseline
    loss, score = bootstrap_relative_loss(variant, baseline), bootstrap_mean(baseline)
    assert loss.high - loss.low < 0.5 * (score.high - score.low)


def test_against_a_baseline_that_finds_nothing_the_loss_is_not_a_number():
    loss = bootstrap_relative_loss(np.zeros(10), np.zeros(10))
    assert math.isnan(loss.value)
    assert math.isnan(loss.high)
