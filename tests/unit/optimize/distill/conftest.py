"""What students of the tiny model learn from."""

from pathlib import Path

import pytest

from optimize.data.folder import read_texts
from optimize.distill.teacher import write_teacher_vectors
from optimize.recipe import Recipe, encoder_settings
from optimize.sections import FolderData

TEXTS = 256
TEXT_TOKENS = 32


@pytest.fixture(scope="session")
def training_texts(small_recipe: Recipe) -> list[str]:
    """Real questions."""
    data = small_recipe.evaluation.data
    assert isinstance(data, FolderData)
    return read_texts(data.folder, "calibration")[:TEXTS]


@pytest.fixture(scope="session")
def teacher(
    tiny_model: Path,
    tiny_onnx: Path,
    tiny_recipe: Recipe,
    training_texts: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The tiny model's vectors of them."""
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer, settings = tiny_model / "tokenizer.json", encoder_settings(tiny_recipe)
    write_teacher_vectors(tiny_onnx, tokenizer, training_texts, TEXT_TOKENS, settings, folder)
    return folder
