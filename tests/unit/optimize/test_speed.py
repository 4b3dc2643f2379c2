import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from models.manifest import LengthSpeed, Speed
from models.triton.text_encoder.tokens import open_tokenizer
from optimize.recipe import SpeedRun
from optimize.speed import (
    CALLS_PER_ROUND,
    items_of_length,
    measure_lengths,
    measure_speed,
    summarize,
    time_rounds,
    write_speeds,
)

TEXTS = [f"text {number}" for number in range(50)]


class Recorder:
    """An encoder that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.asked.append(texts)
        return np.zeros((len(texts), 4), dtype=np.float32)


@pytest.fixture
def encoders() -> dict[str, Recorder]:
    return {name: Recorder() for name in ("pytorch", "fp32", "int8")}


def test_a_summary_has_the_percentiles_the_throughput_and_the_median_ratio_of_the_rounds():
    seconds = np.array([[0.010, 0.020, 0.030], [0.020, 0.040, 0.060]])
    baseline = np.array([[0.040, 0.040, 9.0], [0.040, 0.120, 0.120]])  # medians 0.04 and 0.12
    speed = summarize(8, seconds, baseline)
    assert speed.batch_size == 8
    assert speed.p50_ms == pytest.approx(25)
    assert speed.p99_ms == pytest.approx(59)
    assert speed.throughput_texts_per_s == pytest.approx(8 * 6 / 0.18)
    assert speed.speedup.value == pytest.approx((2 + 3) / 2)
    assert 2 <= speed.speedup.low <= speed.speedup.value <= speed.speedup.high <= 3 + 1e-9


def test_the_baseline_is_exactly_as_fast_as_itself():
    seconds = np.random.default_rng(0).random((30, 5))
    speedup = summarize(1, seconds, seconds).speedup
    assert (speedup.low, speedup.value, speedup.high) == (1.0, 1.0, 1.0)


def test_a_slow_stretch_that_hits_all_encoders_alike_leaves_the_ratio_alone():
    drift = np.linspace(1, 10, 40)[:, None]
    seconds = 0.01 * drift * np.ones((40, 5))
    assert summarize(1, seconds, 3 * seconds).speedup.value == pytest.approx(3)


def test_every_encoder_is_timed_with_the_same_texts(encoders: dict[str, Recorder]):
    seconds = time_rounds(encoders, TEXTS, batch_size=4, rounds=6)
    for name, recorder in encoders.items():
        assert recorder.asked == encoders["pytorch"].asked
        assert len(recorder.asked) == 6 * (CALLS_PER_ROUND + 1)  # one of each round is not timed
        assert seconds[name].shape == (6, CALLS_PER_ROUND)
        assert (seconds[name] > 0).all()


def test_every_round_takes_other_texts_until_they_are_used_up(encoders: dict[str, Recorder]):
    time_rounds(encoders, TEXTS, batch_size=2, rounds=5)
    rounds = np.array(encoders["int8"].asked).reshape(5, CALLS_PER_ROUND + 1, 2)
    timed = rounds[:, 1:].ravel().tolist()
    assert sorted(timed) == sorted(TEXTS)


def test_a_batch_larger_than_the_texts_repeats_them(encoders: dict[str, Recorder]):
    time_rounds(encoders, TEXTS[:3], batch_size=8, rounds=1)
    assert {len(batch) for batch in encoders["fp32"].asked} == {8}


def test_every_encoder_gets_one_speed_per_batch_size(encoders: dict[str, Recorder]):
    speeds = measure_speed(encoders, "pytorch", TEXTS, batch_sizes=(1, 4), rounds=4)
    assert speeds.keys() == encoders.keys()
    assert all([s.batch_size for s in values] == [1, 4] for values in speeds.values())
    assert [s.speedup.value for s in speeds["pytorch"]] == [1.0, 1.0]


def test_the_step_stores_what_it_measured(
    encoders: dict[str, Recorder], tiny_model: Path, tmp_path: Path
):
    run = SpeedRun(batch_sizes=(1,), rounds=4, token_lengths=(16, 32), length_rounds=4)
    write_speeds(
        lambda: encoders,
        "pytorch",
        TEXTS,
        lambda: Tokenizer.from_file(str(tiny_model / "tokenizer.json")),
        run,
        tmp_path,
    )
    stored = json.loads((tmp_path / "speed.json").read_text())
    assert stored.keys() == encoders.keys()
    assert [Speed.model_validate(s).batch_size for s in stored["int8"]] == [1]
    lengths = json.loads((tmp_path / "lengths.json").read_text())
    assert [LengthSpeed.model_validate(s).tokens for s in lengths["int8"]] == [16, 32]


def test_lengths_that_would_be_truncated_are_left_out(
    encoders: dict[str, Recorder], tiny_model: Path
):
    tokenizer = open_tokenizer(tiny_model / "tokenizer.json", 64)
    lengths = measure_lengths(encoders, "pytorch", TEXTS, tokenizer, SpeedRun())
    assert [timed["tokens"] for timed in lengths["int8"]] == [16, 64]


@pytest.mark.parametrize("tokens", [16, 40])
@pytest.mark.parametrize("items", [TEXTS, [("a question", text) for text in TEXTS]])
def test_items_of_one_length_have_it_with_their_special_tokens(
    tiny_model: Path, items: list[Any], tokens: int
):
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    made = items_of_length(tokenizer, items, tokens)
    encoded = tokenizer.encode_batch(made)
    assert {len(encoding) for encoding in encoded} == {tokens}
