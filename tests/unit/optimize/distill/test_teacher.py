from pathlib import Path

import numpy as np
import pytest

from optimize.distill.teacher import VECTORS, write_teacher_vectors
from optimize.errors import TrainingError
from optimize.load import open_source
from optimize.recipe import Recipe, encoder_settings

from .conftest import TEXT_TOKENS


def test_the_vectors_are_those_of_the_source_for_the_truncated_texts(
    teacher: Path, training_texts: list[str], tiny_model: Path
) -> None:
    expected = open_source(tiny_model, TEXT_TOKENS).encode(training_texts)
    np.testing.assert_allclose(np.load(teacher / VECTORS), expected, atol=1e-4)


def test_too_few_texts_are_a_clear_error(
    tiny_model: Path, tiny_onnx: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    settings = encoder_settings(tiny_recipe)
    with pytest.raises(TrainingError, match=r"3 training texts.*distill\.texts"):
        write_teacher_vectors(
            tiny_onnx, tiny_model / "tokenizer.json", ["a", "b", "c"], 32, settings, tmp_path
        )
