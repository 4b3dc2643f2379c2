"""A classifier of a user's own texts, from recipe to answers of the real Triton."""

import csv
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from models.manifest import read_manifest
from models.triton.text_encoder.encoder import TextEncoder
from optimize.pipeline import optimize
from optimize.recipe import Recipe
from optimize.sections import Evaluation, FineTune, Gate, LabelledFiles
from optimize.steps import Workspace

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(600)]

THINGS = {
    "animal": [
        "a cow",
        "the horse",
        "my dog",
        "a grey cat",
        "two sheep",
        "a wild boar",
        "the goose",
    ],
    "tool": [
        "a hammer",
        "the saw",
        "my drill",
        "a long chisel",
        "two pliers",
        "an axe",
        "the wrench",
    ],
}
FRAMES = ["I saw {}", "where is {} now", "{} was there", "look at {}", "she bought {}", "{} again"]
ASKED = ["I saw an old donkey", "where is the screwdriver now"]

Ask = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def repository(
    small_recipe: Recipe, shared_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What a recipe for the things above became."""
    tmp = tmp_path_factory.mktemp("classifier")
    with (tmp / "things.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["text", "label"])
        for label, things in THINGS.items():
            rows.writerows([frame.format(t), label] for frame in FRAMES for t in things)
    data = LabelledFiles(kind="labelled", train=tmp / "things.csv", held_out=0.3, licence="mine")
    changes = {
        "name": "things",
        "task": "classify",
        "fine_tune": FineTune(epochs=3, batch_size=8, learning_rate=1e-4),
        "variants": ("int8",),
        "evaluation": Evaluation(data=data, min_questions=10),
        "gate": Gate(max_absolute_loss={"accuracy": 1.0}, min_speedup={}),
    }
    recipe = Recipe.model_validate(dict(small_recipe) | changes)
    optimize(recipe, shared_workspace, tmp / "repository", tmp / "reports", tune_folder=tmp)
    return tmp / "repository"


def test_a_classifier_of_one_s_own_texts_names_the_classes_of_new_ones(
    repository: Path, serve: Callable[[Path], AbstractContextManager[Ask]]
):
    manifest = read_manifest(repository)
    packaged = TextEncoder.from_directory(repository / manifest.name / str(manifest.version))
    with serve(repository) as ask:
        plain, named = ask(ASKED), ask(ASKED, class_count=1)
    np.testing.assert_allclose(plain, packaged.encode(ASKED).outputs, atol=1e-5)
    np.testing.assert_allclose(plain.sum(axis=1), 1, atol=1e-5)
    best = [entry.decode().split(":")[2] for entry in named.ravel()]
    assert best == manifest.labels == ["animal", "tool"]
    assert manifest.temperature is not None
    assert manifest.profile is not None
