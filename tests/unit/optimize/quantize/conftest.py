"""How the tiny model answers once it was quantized or fused."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.triton.text_encoder.encoder import TextEncoder, open_session
from optimize.load import SourceModel
from optimize.quantize import fuse
from optimize.recipe import Recipe, encoder_settings

Answers = Callable[[Path, Sequence[str]], np.ndarray]


@pytest.fixture(scope="session")
def answers(tiny_recipe: Recipe, tiny_source: SourceModel) -> Answers:
    """The vectors that the graph in a folder gives for texts."""

    def answer(folder: Path, texts: Sequence[str]) -> np.ndarray:
        settings = encoder_settings(tiny_recipe)
        session = open_session(folder / "model.onnx", settings)
        return TextEncoder(session, tiny_source.tokenizer, settings).encode(texts).outputs

    return answer


@pytest.fixture(scope="session")
def fused(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the fused graph."""
    folder = tmp_path_factory.mktemp("fused")
    fuse(tiny_onnx, folder)
    return folder


@pytest.fixture
def spoiled(tiny_onnx: Path, tmp_path: Path) -> Callable[[Callable[[onnx.ModelProto], None]], Path]:
    """Writes a copy of the graph after a function changed it."""

    def spoil(change: Callable[[onnx.ModelProto], None]) -> Path:
        model = onnx.load(tiny_onnx)
        change(model)
        path = tmp_path / "spoiled.onnx"
        onnx.save(model, path)
        return path

    return spoil
