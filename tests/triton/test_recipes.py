"""Every recipe of models/recipes, on little data: from its source to answers of the real Triton."""

import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pytest

from models.manifest import Manifest, read_manifest
from models.signature import trusted_key_path
from models.triton.text_encoder.encoder import TextEncoder
from optimize.data import data_folder
from optimize.data.boolq import compress
from optimize.data.folder import read_lines, read_texts
from optimize.data.labelled import read_labelled
from optimize.data.retrieval import read_retrieval
from optimize.ensemble import core_name
from optimize.lint import lint
from optimize.load import fetch_source, open_source, source_identity
from optimize.pipeline import optimize
from optimize.recipe import Recipe, read_recipe
from optimize.sections import (
    Distill,
    Evaluation,
    FolderData,
    Gate,
    LabelledFiles,
    SpeedRun,
    TrecData,
)
from optimize.steps import Workspace

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(600)]

RECIPES = Path(__file__).resolve().parents[2] / "models/recipes"

# What `make optimize` packages of each: it alone is made here, of a recipe's variants.
SHIPPED = {
    "gpu/search-encoder.yaml": "student-fp16",
    "question-classifier-coarse.yaml": "student-int8",
    "question-classifier.yaml": "student-int8",
    "reranker.yaml": "given",
    "search-encoder.yaml": "student-int8",
}

STUDENT_TEXTS = 600
TRAIN_QUESTIONS, TEST_QUESTIONS = 300, 60  # of all classes together, equally many of each
ASKED = 50  # held-out questions in one request

UNIT_TOLERANCE = 1e-3  # FP16 graphs normalise in FP16
MIN_COSINE = 0.65
MIN_FOUND = 0.8

ANSWERS = {
    "how tall is mount everest": "Mount Everest rises 8,849 metres above the sea.",
    "what is bread made of": "Bread is baked from flour, water and yeast.",
    "who wrote the magic flute": "Mozart finished The Magic Flute, his last opera, in 1791.",
}

Ask = Callable[..., np.ndarray]
Serve = Callable[..., AbstractContextManager[Ask]]


@pytest.fixture
def shorten(
    small_recipe: Recipe, shared_workspace: Workspace, tmp_path: Path
) -> Callable[[Recipe, str], Recipe]:
    """The same source, task, stages and serving with one variant, little data and one epoch."""

    def shorten(recipe: Recipe, variant: str) -> Recipe:
        limits = recipe.gate
        changes = {
            "variants": (variant,),
            "evaluation": short_evaluation(recipe, small_recipe, shared_workspace, tmp_path),
            "speed": SpeedRun(batch_sizes=(1, 8), rounds=4),
            "gate": Gate(
                max_relative_loss=dict.fromkeys(limits.max_relative_loss, 1.0),
                max_absolute_loss=dict.fromkeys(limits.max_absolute_loss, 1.0),
            ),
        }
        if recipe.fine_tune is not None:
            fewer = {"epochs": 1, "batch_size": 16}
            changes["fine_tune"] = recipe.fine_tune.model_copy(update=fewer)
        if recipe.distill is not None:
            changes["distill"] = short_distill(recipe.distill, shared_workspace, tmp_path)
        return recipe.model_copy(update=changes)

    return shorten


def short_evaluation(
    recipe: Recipe, small_recipe: Recipe, workspace: Workspace, folder: Path
) -> Evaluation:
    """The evaluation of a recipe on part of its own data."""
    match recipe.evaluation.data:
        case TrecData() as data:
            cut = {"data": cut_questions(data, workspace, folder), "min_questions": 40}
            return recipe.evaluation.model_copy(update=cut)
        case FolderData(folder=boolq) if boolq.name == "boolq":
            fewer = {"candidates": 2, "max_questions": 50} if recipe.task == "rerank" else {}
            return small_recipe.evaluation.model_copy(update=fewer)
        case other:
            pytest.fail(f"say here how data of kind {other.kind} is cut")


def cut_questions(data: TrecData, workspace: Workspace, folder: Path) -> LabelledFiles:
    """The first questions of each class."""
    whole = data_folder(data, workspace)
    paths = {}
    for name, count in (("train", TRAIN_QUESTIONS), ("test", TEST_QUESTIONS)):
        seen: Counter[str] = Counter()
        kept = []
        for row in read_lines(whole, name):
            seen[row["label"]] += 1
            if seen[row["label"]] <= count // data.classes:
                kept.append(json.dumps(row) + "\n")
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("".join(kept))
    return LabelledFiles(kind="labelled", licence="see the whole data", **paths)


def short_distill(section: Distill, workspace: Workspace, folder: Path) -> Distill:
    """One epoch; of texts that are named for students, the first."""
    changes = {}
    if section.texts is not None:
        texts = read_texts(data_folder(section.texts, workspace), "training")[:STUDENT_TEXTS]
        lines = compress(json.dumps({"text": text}) for text in texts)
        (folder / "training.jsonl.gz").write_bytes(lines)
        changes["texts"] = FolderData(folder=folder)
    if section.student is not None:
        fewer = {"epochs": 1, "batch_size": min(32, section.student.batch_size)}
        changes["student"] = section.student.model_copy(update=fewer)
    return section.model_copy(update=changes)


@dataclass(frozen=True)
class Made:
    """What became of a recipe."""

    recipe: Recipe
    workspace: Workspace
    repository: Path

    @cached_property
    def manifest(self) -> Manifest:
        return read_manifest(self.repository)


def finds_passages(ask: Ask, made: Made) -> None:
    """Vectors of questions in the source's own space, over the vectors that the source has of passages."""
    recipe = made.recipe
    data = read_retrieval(data_folder(recipe.evaluation.data, made.workspace), recipe.evaluation)
    fetch = partial(fetch_source, recipe)
    source = made.workspace.step("load", source_identity(recipe), fetch).directory
    encode = open_source(source, recipe.max_tokens).encode
    questions, relevant = data.questions[:ASKED], data.relevant[:ASKED]
    rows = np.unique(relevant)

    vectors = ask(questions)
    assert vectors.shape == (len(questions), made.manifest.output_dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=UNIT_TOLERANCE)
    assert (vectors * encode(questions)).sum(axis=1).mean() > MIN_COSINE
    nearest = vectors @ encode([data.passages[row] for row in rows]).T
    assert (rows[nearest.argmax(axis=1)] == relevant).mean() > MIN_FOUND


def names_classes(ask: Ask, made: Made) -> None:
    """Probabilities of all classes, whose names Triton knows, and answers that were learned."""
    evaluation, manifest = made.recipe.evaluation, made.manifest
    data = read_labelled(data_folder(evaluation.data, made.workspace), evaluation)

    probabilities = ask(data.texts)
    assert probabilities.shape == (len(data.texts), len(data.label_names))
    assert probabilities.min() >= 0
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    named = [best.decode().split(":", 2)[2] for best in ask(data.texts, class_count=1).ravel()]
    best = probabilities.argmax(axis=1)
    assert named == [manifest.labels[label] for label in best]
    always_the_same = np.bincount(data.labels).max()
    assert (best == data.labels).sum() > 2 * always_the_same


def orders_passages(ask: Ask, made: Made) -> None:
    """Scores that put the passage that answers first, and are those of the packaged encoder."""
    version = made.repository / made.manifest.name / str(made.manifest.version)
    pairs = [(query, text) for query in ANSWERS for text in ANSWERS.values()]
    scores = ask(pairs)
    assert scores.shape == (len(pairs), 1)
    # The graph came in dynamic INT8: a score depends a little on its batch.
    expected = TextEncoder.from_directory(version).encode(pairs).outputs
    np.testing.assert_allclose(scores, expected, atol=1e-3)
    best = scores.reshape(len(ANSWERS), len(ANSWERS)).argmax(axis=1)
    assert best.tolist() == list(range(len(ANSWERS)))


CHECKS = {"embed": finds_passages, "classify": names_classes, "rerank": orders_passages}


@pytest.mark.parametrize(
    "name", sorted(path.relative_to(RECIPES).as_posix() for path in RECIPES.rglob("*.yaml"))
)
def test_a_recipe_runs_end_to_end_to_a_repository_that_the_real_triton_serves(
    name: str,
    shorten: Callable[[Recipe, str], Recipe],
    shared_workspace: Workspace,
    serve: Serve,
    put_on_cpu: Callable[[Path], None],
    tmp_path: Path,
):
    assert name in SHIPPED, f"say in SHIPPED which variant of {name} is packaged"
    whole, variant = read_recipe(RECIPES / name), SHIPPED[name]
    assert variant in whole.variants
    repository, reports = tmp_path / "repository", tmp_path / "reports"
    made = Made(shorten(whole, variant), shared_workspace, repository)
    optimize(made.recipe, shared_workspace, repository, reports, variant, tune_folder=tmp_path)

    manifest = made.manifest
    assert (manifest.name, manifest.target, manifest.variant) == (whole.name, whole.target, variant)
    assert lint(repository, trusted_key_path(os.environ)) == []
    on_gpu = whole.target == "gpu"
    if on_gpu:
        put_on_cpu(repository / core_name(whole.name))
    with serve(repository, unverified=on_gpu) as ask:
        CHECKS[whole.task](ask, made)
