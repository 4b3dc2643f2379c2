"""From a recipe to its variants, with the tiny model and a user's own pairs."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from optimize.build import Built, build
from optimize.data import data_folder
from optimize.errors import VariantError
from optimize.pipeline import data_sets
from optimize.recipe import Recipe
from optimize.sections import (
    Calibration,
    Distill,
    Evaluation,
    PairFiles,
    Quantize,
    StaticDistillation,
    StudentDistillation,
)
from optimize.steps import Workspace
from optimize.tasks import TASKS
from tests.conftest import read_lines

STUDENT = StudentDistillation(layers=(1,), epochs=1, batch_size=16, max_tokens=16)
DISTILL = Distill(student=STUDENT, static=StaticDistillation(dimensions=16))
TOO_MANY = Calibration(min_texts=100_000)

BuildWith = Callable[..., Built]


@pytest.fixture(scope="module")
def recipe(
    tiny_recipe: Recipe, small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> Recipe:
    """The tiny model with real questions and passages, half of which train."""
    folder = small_recipe.evaluation.data.folder  # type: ignore[union-attr]
    passages = {row["id"]: row["text"] for row in read_lines(folder / "passages.jsonl.gz")}
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["question", "passage"])
        for row in read_lines(folder / "questions.jsonl.gz"):
            rows.writerow([row["question"], passages[row["passage_id"]]])
    pairs = Evaluation(data=PairFiles(kind="pairs", pairs=path, licence="none"), min_questions=10)
    return tiny_recipe.model_copy(update={"evaluation": pairs, "distill": DISTILL})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("cache"), lambda *_: None)


@pytest.fixture
def build_with(recipe: Recipe, workspace: Workspace) -> BuildWith:
    """Builds some variants of the recipe with these sections changed."""

    def run(*variants: str, **changes: object) -> Built:
        changed = recipe.model_copy(update={"variants": variants, **changes})
        folder = data_folder(changed.evaluation.data, workspace)
        data = TASKS[changed.task].read(folder, changed.evaluation)
        return build(changed, workspace, data)

    return run


def test_a_variant_that_cannot_be_made_has_its_reason_and_the_others_are_made(
    build_with: BuildWith,
):
    built = build_with("fp32", "qdq", "int8", quantize=Quantize(calibration=TOO_MANY))
    assert list(built.variants) == ["fp32", "int8"]
    assert built.unmade.keys() == {"qdq"}
    assert "calibration texts: qdq variants need 100000; add texts" in built.unmade["qdq"]


def test_a_student_that_cannot_be_trained_leaves_the_other_variants(build_with: BuildWith):
    absent = DISTILL.model_copy(update={"student": STUDENT.model_copy(update={"layers": (7,)})})
    built = build_with("fp32", "student-int8", distill=absent)
    assert list(built.variants) == ["fp32"]
    assert "the teacher's layers are 0 to 1" in built.unmade["student-int8"]


def test_without_any_variant_that_can_be_made_each_reason_is_told(build_with: BuildWith):
    absent = DISTILL.model_copy(update={"student": STUDENT.model_copy(update={"layers": (7,)})})
    section = Quantize(calibration=TOO_MANY)
    with pytest.raises(VariantError) as refused:
        build_with("qdq", "student-fp32", distill=absent, quantize=section)
    first, *reasons = str(refused.value).splitlines()
    assert first == "none of the recipe's variants can be made:"
    assert [reason.strip().split(": ")[0] for reason in reasons] == ["qdq", "student-fp32"]


def test_what_is_proved_of_the_data_names_what_students_were_trained_on(
    recipe: Recipe, workspace: Workspace, tmp_path: Path
):
    (tmp_path / "more.csv").write_text("question,passage\nwhy?,because\nhow?,like this\n")
    more = PairFiles(kind="pairs", pairs=tmp_path / "more.csv", licence="mine")
    taught = recipe.model_copy(update={"distill": DISTILL.model_copy(update={"texts": more})})
    folder = data_folder(recipe.evaluation.data, workspace)
    evaluated, trained = (found.words for found in data_sets(taught, folder, workspace))
    assert evaluated == "pairs, evaluated: your own data: pairs.csv; none"
    assert trained == "pairs, trained on: your own data: more.csv; mine"


def test_students_of_texts_that_are_cut_elsewhere_are_other_students(build_with: BuildWith):
    shorter = DISTILL.model_copy(update={"student": STUDENT.model_copy(update={"max_tokens": 8})})
    before = build_with("student-fp32", "static").variants
    again = build_with("student-fp32", "static").variants
    after = build_with("student-fp32", "static", distill=shorter).variants
    for name in ("student-fp32", "static"):
        assert again[name].directory == before[name].directory
        assert after[name].digest != before[name].digest


def test_a_static_student_averages_the_tokens_that_its_teacher_saw(build_with: BuildWith):
    graphs = [
        build_with("static", max_tokens=tokens).variants["static"].directory / "model.onnx"
        for tokens in (64, 16)  # of a served text, which is no matter here
    ]
    assert graphs[0].read_bytes() == graphs[1].read_bytes()
