"""Half precision as it is on a GPU, run on the CPU, which computes in it as well though not faster."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.triton.text_encoder.tokens import padded_inputs
from optimize.devices import is_fast_in_half, precision
from optimize.load import SourceModel
from optimize.training import LoopSettings, Rows, train

CPU = torch.device("cpu")
SETTINGS = LoopSettings(epochs=30, batch_size=16, learning_rate=0.05, patience=99, seed=0)


def test_a_gpu_is_always_asked_to_compute_in_half_precision():
    assert is_fast_in_half(torch.device("cuda"))


@pytest.mark.parametrize(("half", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_products_are_in_half_precision_only_where_asked(half: bool, dtype: torch.dtype):
    layer = torch.nn.Linear(4, 3)
    with precision(CPU, half):
        assert layer(torch.ones(2, 4)).dtype == dtype


def test_an_encoder_answers_alike_in_half_precision_and_not_the_same(
    tiny_source: SourceModel, texts: list[str]
):
    encodings = tiny_source.tokenizer.encode_batch_fast(texts[:16])
    feed = {name: torch.from_numpy(ids) for name, ids in padded_inputs(encodings).items()}
    with torch.inference_mode(), precision(CPU, half=True):
        found = tiny_source.module(**feed).float().numpy()
    cosines = (found * tiny_source.encode(texts[:16])).sum(axis=1)
    assert 0.99 < cosines.min() < 1 - 1e-6


def test_training_in_half_precision_keeps_its_weights_whole_and_learns(tmp_path: Path):
    torch.manual_seed(0)
    inputs = torch.randn(64, 4)
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
    module = torch.nn.Linear(4, 1)

    def loss_of(rows: Rows) -> torch.Tensor:
        with precision(CPU, half=True):
            found = module(inputs[rows])
        assert found.dtype == torch.bfloat16
        return torch.nn.functional.mse_loss(found.float(), targets[rows])

    lengths = np.full(64, 4)
    history = train(
        module, lengths, loss_of, lambda: float(loss_of(np.arange(64))), SETTINGS, tmp_path / "c"
    )
    assert history[-1].validation_loss < history[0].validation_loss / 20
    assert {weight.dtype for weight in module.parameters()} == {torch.float32}
