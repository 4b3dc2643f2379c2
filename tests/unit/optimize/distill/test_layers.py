from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from optimize.distill.layers import keep_layers, switch_off_dropout
from optimize.errors import TrainingError


def new_encoder() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=8,
        attn_implementation="sdpa",
    )
    return BertModel(config)


def test_the_named_layers_are_kept_in_their_order() -> None:
    encoder = new_encoder()
    first, last = encoder.encoder.layer[0], encoder.encoder.layer[3]
    keep_layers(encoder, (-1, 0))
    assert list(encoder.encoder.layer) == [last, first]
    assert encoder.config.num_hidden_layers == 2


def test_only_the_token_embeddings_are_frozen() -> None:
    encoder = new_encoder()
    keep_layers(encoder, (0,))
    frozen = {name for name, weight in encoder.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, _ in encoder.named_parameters() if name.startswith("embed")}


def test_a_model_of_another_kind_is_a_clear_error() -> None:
    model = GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1, n_positions=8))
    with pytest.raises(TrainingError, match="GPT2Model: only BERT-like"):
        keep_layers(model, (0,))


def test_without_dropout_training_repeats_itself_also_inside_fused_attention() -> None:
    encoder = new_encoder().train()
    ids = torch.arange(12).reshape(2, 6)

    def forward() -> torch.Tensor:
        return torch.as_tensor(encoder(input_ids=ids).last_hidden_state)

    assert not torch.equal(forward(), forward())
    switch_off_dropout(encoder)
    assert torch.equal(forward(), forward())


def test_the_layers_of_a_student_survive_being_saved(tmp_path: Path) -> None:
    encoder = new_encoder()
    keep_layers(encoder, (1, 3))
    encoder.save_pretrained(tmp_path, safe_serialization=True)
    again = BertModel.from_pretrained(tmp_path)
    ids = torch.arange(12).reshape(2, 6)
    with torch.inference_mode():
        expected = encoder.eval()(input_ids=ids).last_hidden_state
        assert torch.allclose(again.eval()(input_ids=ids).last_hidden_state, expected, atol=1e-6)
