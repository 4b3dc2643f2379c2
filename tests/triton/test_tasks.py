"""A classifier of a user's own texts, and a raw reranker: from recipe to answers of the real Triton."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from models.manifest import Manifest, read_manifest
from models.triton.text_encoder.encoder import TextEncoder
from models.triton.text_encoder.tokens import Item
from optimize.pipeline import optimize
from optimize.recipe import Recipe, read_recipe
from optimize.sections import Evaluation, FineTune, Gate, LabelledFiles
from optimize.steps import Workspace
from serving.triton.launch import run_triton

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
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


def asked_for(recipe: Recipe, tmp: Path) -> tuple[Path, Manifest]:
    workspace = Workspace(ROOT / "build/cache", lambda *_: None)
    optimize(recipe, workspace, tmp / "repository", tmp / "reports", tune_folder=tmp)
    return tmp / "repository", read_manifest(tmp / "repository")


@contextmanager
def served(repository: Path, log: Path) -> Iterator[triton_grpc.InferenceServerClient]:
    with (
        run_triton(repository, log_path=log) as triton,
        triton_grpc.InferenceServerClient(triton.grpc_url) as client,
    ):
        yield client


def tensors(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[triton_grpc.InferInput]:
    found = []
    for column, name in enumerate(names):
        tensor = triton_grpc.InferInput(name, [len(rows), 1], "BYTES")
        values = [row[column].encode() for row in rows]
        tensor.set_data_from_numpy(np.array(values, dtype=object).reshape(-1, 1))
        found.append(tensor)
    return found


def packaged_answers(repository: Path, manifest: Manifest, items: Sequence[Item]) -> np.ndarray:
    directory = repository / manifest.name / str(manifest.version)
    return TextEncoder.from_directory(directory).encode(items).outputs


@pytest.fixture(scope="module")
def classifier(
    small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Manifest]:
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
    return asked_for(Recipe.model_validate(dict(small_recipe) | changes), tmp)


def test_a_classifier_of_one_s_own_texts_names_the_classes_of_new_ones(
    classifier: tuple[Path, Manifest], tmp_path: Path
):
    repository, manifest = classifier
    rows = [[text] for text in ASKED]
    with served(repository, tmp_path / "log") as client:
        plain = client.infer("things", tensors(["text"], rows)).as_numpy("probabilities")
        wanted = [triton_grpc.InferRequestedOutput("probabilities", class_count=1)]
        named = client.infer("things", tensors(["text"], rows), outputs=wanted)
    np.testing.assert_allclose(plain, packaged_answers(repository, manifest, ASKED), atol=1e-5)
    np.testing.assert_allclose(plain.sum(axis=1), 1, atol=1e-5)
    best = [entry.decode().split(":")[2] for entry in named.as_numpy("probabilities").ravel()]
    assert best == manifest.labels == ["animal", "tool"]
    assert manifest.temperature is not None
    assert manifest.profile is not None


@pytest.fixture(scope="module")
def reranker(
    small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Manifest]:
    recipe = read_recipe(ROOT / "models/recipes/reranker.yaml")
    data = small_recipe.evaluation.data
    evaluation = Evaluation(
        data=data, candidates=4, max_questions=30, min_questions=10, min_passages=50
    )
    speed = small_recipe.speed.model_copy(update={"token_lengths": (16,)})
    changes = {"evaluation": evaluation, "speed": speed, "gate": Gate(min_speedup={})}
    return asked_for(recipe.model_copy(update=changes), tmp_path_factory.mktemp("reranker"))


def test_a_reranker_puts_the_passage_that_answers_first(
    reranker: tuple[Path, Manifest], tmp_path: Path
):
    repository, manifest = reranker
    pairs = [
        ("how tall is mount everest", "Bread is baked from flour, water and yeast."),
        ("how tall is mount everest", "Mount Everest rises 8,849 metres above the sea."),
    ]
    with served(repository, tmp_path / "log") as client:
        scores = client.infer("reranker", tensors(["query", "text"], pairs)).as_numpy("score")
    assert scores.shape == (2, 1)
    assert scores[1] > scores[0]
    # The graph came in dynamic INT8: a score depends a little on its batch.
    expected = packaged_answers(repository, manifest, pairs)
    np.testing.assert_allclose(scores, expected, atol=1e-3)
