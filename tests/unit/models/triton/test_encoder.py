import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from models.triton.text_encoder.encoder import TextEncoder
from models.triton.text_encoder.tokens import open_tokenizer, padded_inputs

SPECIAL_TOKENS = 2

WORDS = st.lists(st.sampled_from([f"w{number}" for number in range(100)]), max_size=100)
TEXTS = st.lists(WORDS.map(" ".join), min_size=1, max_size=20)

# The fixtures are read only, so that examples may share them.
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@shared
@given(texts=TEXTS)
def test_token_counts_are_of_the_whole_texts_before_truncation(
    encoder: TextEncoder, tokenizer: Tokenizer, texts: list[str]
):
    expected = [len(encoding) for encoding in tokenizer.encode_batch(texts)]
    counts = encoder.encode(texts).token_counts
    assert counts.dtype == np.int32
    assert counts.tolist() == expected


@shared
@given(texts=TEXTS)
def test_a_batch_answers_like_one_text_at_a_time_in_the_same_order(
    encoder: TextEncoder, texts: list[str]
):
    together = encoder.encode(texts).outputs
    alone = np.concatenate([encoder.encode([text]).outputs for text in texts])
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_long_text_is_read_up_to_its_last_token_that_fits(encoder: TextEncoder):
    fitting = encoder.settings.max_tokens - SPECIAL_TOKENS
    words = [f"w{number}" for number in range(60)]
    whole, cut, shorter = (
        encoder.encode([" ".join(words[:size])]).outputs for size in (60, fitting, fitting - 1)
    )
    np.testing.assert_allclose(whole, cut, atol=1e-6)
    assert not np.allclose(whole, shorter, atol=1e-3)


def test_an_empty_text_is_its_special_tokens(encoder: TextEncoder):
    encoded = encoder.encode(["", "w1"])
    assert encoded.token_counts.tolist() == [SPECIAL_TOKENS, SPECIAL_TOKENS + 1]
    np.testing.assert_allclose(np.linalg.norm(encoded.outputs, axis=1), 1, atol=1e-6)


def test_no_texts_are_refused(encoder: TextEncoder):
    with pytest.raises(ValueError, match="pass at least one"):
        encoder.encode([])


def test_the_inputs_are_padded_to_the_longest_text_and_masked(version_directory: Path):
    tokenizer = open_tokenizer(version_directory / "tokenizer.json", 16)
    feed = padded_inputs(tokenizer.encode_batch_fast(["w0 w1 w2", "w3"]))
    assert feed["input_ids"].tolist() == [[2, 4, 5, 6, 3], [2, 7, 3, 0, 0]]
    assert feed["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert feed["token_type_ids"].tolist() == [[0] * 5] * 2


def test_padding_that_a_stored_tokenizer_asks_for_is_left_to_the_batches(
    tokenizer: Tokenizer, tmp_path: Path
):
    tokenizer.enable_padding(length=128)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    opened = open_tokenizer(tmp_path / "tokenizer.json", 16)
    assert [len(encoding) for encoding in opened.encode_batch_fast(["w0 w1", "w2"])] == [4, 3]


def test_threads_may_share_an_encoder(encoder: TextEncoder):
    texts = [" ".join([f"w{number}"] * (1 + number % 30)) for number in range(50)]
    alone = encoder.encode(texts).outputs
    with ThreadPoolExecutor(4) as pool:
        for encoded in pool.map(encoder.encode, [texts] * 20):
            np.testing.assert_allclose(encoded.outputs, alone, atol=1e-6)


@pytest.mark.parametrize(("stored", "workers"), [(3, 3), (0, len(os.sched_getaffinity(0)))])
def test_no_number_of_workers_means_one_for_every_core(
    encoder: TextEncoder, stored: int, workers: int
):
    settings = dataclasses.replace(encoder.settings, workers=stored)
    assert dataclasses.replace(encoder, settings=settings).workers == workers
