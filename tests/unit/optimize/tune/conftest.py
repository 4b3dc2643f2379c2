from pathlib import Path

import pytest

from optimize.package import Parts, assemble
from optimize.proof import Proof
from optimize.recipe import Recipe


@pytest.fixture
def repository(
    tiny_recipe: Recipe, tiny_onnx: Path, tiny_model: Path, proof: Proof, tmp_path: Path
) -> Path:
    """The tiny model as it is published, unsigned."""
    directory = tmp_path / "repository"
    directory.mkdir()
    assemble(tiny_recipe, Parts(tiny_onnx, tiny_model / "tokenizer.json", [], []), proof, directory)
    return directory


@pytest.fixture
def parameters() -> dict[str, int]:
    """Not those of the recipe."""
    return {
        "max_batch_size": 16,
        "max_queue_delay_us": 500,
        "instances": 2,
        "workers": 1,
        "token_budget": 512,
    }
