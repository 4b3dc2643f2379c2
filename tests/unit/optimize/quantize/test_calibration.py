from pathlib import Path

import numpy as np
import onnx
import pytest

from optimize.quantize.calibration import (
    BINS,
    calibration_feeds,
    cut_tails,
    least_divergence,
    ranges_of,
)
from optimize.quantize.graph import weight_products
from optimize.recipe import Recipe, encoder_settings
from optimize.sections import Calibration


def histogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = min(0.0, values.min()), max(0.0, values.max())
    counts, edges = np.histogram(values, BINS, range=(low, high))
    return counts.astype(np.float64), edges


@pytest.fixture
def feeds(tiny_onnx: Path, tiny_model: Path, tiny_recipe: Recipe, texts: list[str]):
    tokenizer = tiny_model / "tokenizer.json"
    return calibration_feeds(tiny_onnx, tokenizer, texts, encoder_settings(tiny_recipe))


def test_texts_of_similar_length_share_a_batch(feeds):
    lengths = [feed["attention_mask"].sum(axis=1) for feed in feeds]
    assert [len(batch) for batch in lengths] == [8] * 10
    flat = np.concatenate(lengths)
    assert (np.diff(flat) >= 0).all()


def test_padding_does_not_widen_a_range(tiny_onnx: Path, feeds):
    model = onnx.load(tiny_onnx)
    names = sorted(set(weight_products(model).values()))
    longer = [
        {name: np.pad(ids, ((0, 0), (0, 64 - ids.shape[1]))) for name, ids in feed.items()}
        for feed in feeds
    ]
    expected, padded = (ranges_of(model, names, some, Calibration()) for some in (feeds, longer))
    for name in names:
        assert padded[name] == pytest.approx(expected[name], abs=1e-4)


def test_the_methods_cut_off_ever_more_but_never_zero(tiny_onnx: Path, feeds):
    model = onnx.load(tiny_onnx)
    names = sorted(set(weight_products(model).values()))
    whole = ranges_of(model, names, feeds, Calibration())
    cut = ranges_of(model, names, feeds, Calibration(method="percentile", percentile=99))
    for name in names:
        assert whole[name][0] <= cut[name][0] <= 0 <= cut[name][1] <= whole[name][1]
    assert any(cut[name] != whole[name] for name in names)


def test_a_percentile_leaves_that_share_of_the_values_inside():
    values = np.random.default_rng(0).normal(size=100_000)
    low, high = cut_tails(*histogram(values), 0.98)
    assert ((values >= low) & (values <= high)).mean() == pytest.approx(0.98, abs=0.003)
    assert cut_tails(*histogram(values), 1.0) == pytest.approx((values.min(), values.max()))


def test_entropy_cuts_off_rare_values_far_out_and_keeps_an_even_spread():
    generator = np.random.default_rng(0)
    spread = generator.uniform(-1, 1, 100_000)
    low, high = least_divergence(*histogram(spread))
    assert (low, high) == pytest.approx((-1, 1), abs=0.1)
    outlying = np.append(generator.normal(size=100_000), 100.0)
    assert least_divergence(*histogram(outlying))[1] < 20


def test_an_activation_that_is_always_zero_has_an_empty_range():
    nothing = np.zeros(BINS), np.zeros(BINS + 1)
    assert cut_tails(*nothing, 0.99) == (0, 0)
    assert least_divergence(*nothing) == (0, 0)
