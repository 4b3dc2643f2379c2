import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, processors

from optimize.errors import SourceError
from optimize.load import fetch_source, open_source
from optimize.load_checks import MEMORY_PER_WEIGHT_BYTE, refuse_other_tokenizer, refuse_too_large
from optimize.recipe import Recipe

from .conftest import LETTERS, SPECIAL, letter_tokenizer

VOCABULARY = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]


def refusal(tokenizer: Tokenizer, **config: Any) -> str:
    with pytest.raises(SourceError) as refused:
        refuse_other_tokenizer(tokenizer, {"vocab_size": len(VOCABULARY), **config})
    return str(refused.value)


def test_a_model_is_refused_when_its_memory_is_more_than_there_is(tmp_path: Path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"0" * 1000)
    enough = 1000 * MEMORY_PER_WEIGHT_BYTE
    refuse_too_large(weights, available_bytes=enough)
    with pytest.raises(SourceError, match="use a larger machine or a smaller model"):
        refuse_too_large(weights, available_bytes=enough - 1)


def test_a_model_too_large_for_this_machine_is_refused_before_it_is_copied(
    tiny_recipe: Recipe, model_copy: Path, tmp_path: Path
):
    os.truncate(model_copy / "model.safetensors", 2**43)  # 8 TiB of nothing: no disk is used
    source = tiny_recipe.source.model_copy(update={"directory": model_copy})
    (tmp_path / "copy").mkdir()
    with pytest.raises(
        SourceError, match=r"model\.safetensors is 8192\.0 GiB: optimizing it takes"
    ):
        fetch_source(tiny_recipe.model_copy(update={"source": source}), tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []


def test_weights_in_several_files_are_refused_with_how_to_join_them(
    tiny_recipe: Recipe, model_copy: Path, tmp_path: Path
):
    (model_copy / "model.safetensors").rename(model_copy / "model-00001-of-00001.safetensors")
    (model_copy / "model.safetensors.index.json").write_text("{}")
    source = tiny_recipe.source.model_copy(update={"directory": model_copy})
    with pytest.raises(SourceError, match=r"several files: .* max_shard_size='100GB'"):
        fetch_source(tiny_recipe.model_copy(update={"source": source}), tmp_path)


def test_a_tokenizer_of_the_model_is_taken_whatever_config_json_leaves_out():
    tokenizer = letter_tokenizer(VOCABULARY)
    for told in (
        {},
        {"cls_token_id": 2, "sep_token_id": 3, "tokenizer_class": "BertTokenizerFast"},
        {"bos_token_id": 2, "eos_token_id": 50},  # an end that only decoders use
        {"bos_token_id": None, "eos_token_id": 3, "tokenizer_class": "PreTrainedTokenizerFast"},
        {"pad_token_id": 1},  # multilingual MiniLM's config.json says 0 and its tokenizer 1
    ):
        refuse_other_tokenizer(tokenizer, {"vocab_size": len(VOCABULARY) + 8, **told})


def test_a_tokenizer_with_more_tokens_than_the_model_or_far_fewer_is_another_models():
    more = letter_tokenizer([*VOCABULARY, "more"])
    assert "has 88 tokens but the model only 87: it is another model's" in refusal(more)
    fewer = letter_tokenizer([*SPECIAL, *"abcdefghij"])
    assert "has only 15 tokens and the model 87: it is another model's" in refusal(fewer)


def test_a_tokenizer_of_the_same_size_with_other_special_tokens_is_another_models():
    shuffled = letter_tokenizer([*LETTERS, *(f"##{letter}" for letter in LETTERS), *SPECIAL])
    words = refusal(shuffled, bos_token_id=0, eos_token_id=2)
    assert "puts the ids 84 and 85 around a text, config.json says 0 and 2" in words
    assert "take tokenizer.json from where the weights are from" in words


def test_a_tokenizer_of_another_kind_is_another_models():
    bpe = Tokenizer(models.BPE({token: n for n, token in enumerate(VOCABULARY)}, []))
    words = refusal(bpe, tokenizer_class="BertTokenizer")
    assert "the tokenizer is BPE, config.json names a BertTokenizer" in words


def test_another_models_tokenizer_is_refused_when_the_model_is_opened(
    model_copy: Path, write_json: Callable[[Path, object], None]
):
    config = json.loads((model_copy / "config.json").read_text())
    write_json(model_copy / "config.json", config | {"bos_token_id": 0, "eos_token_id": 2})
    with pytest.raises(SourceError, match="puts the ids 2 and 3 around a text"):
        open_source(model_copy, 64)


def test_a_tokenizer_that_puts_nothing_around_a_text_is_not_judged_by_it():
    bare = letter_tokenizer(VOCABULARY)
    bare.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    refuse_other_tokenizer(bare, {"vocab_size": 87, "bos_token_id": 0, "eos_token_id": 2})
