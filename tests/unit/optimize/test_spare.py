"""The real model with one layer that quantizes badly: it answers as before in FP32, but one huge activation
in front of two of its products leaves their eight bits too coarse for all the others.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from optimize.build import build
from optimize.data import data_folder, folder_digests
from optimize.gate import keeps_quality
from optimize.load import fetch_source, source_identity
from optimize.measure import Candidates, losses_of, measure_quality
from optimize.quantize.static import EXCLUDED
from optimize.recipe import Recipe
from optimize.sections import DirectorySource, Gate, Quantize
from optimize.spare import spare_until_held
from optimize.steps import Step, Workspace
from optimize.tasks import TASKS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[3]
HUGE = 1e4
BAD_LAYER = 5
GATE = Gate(max_relative_loss={"ndcg@10": 0.02})

Quality = dict[str, Step]


def spoil(model: Path) -> None:
    """Make one number in front of the layer's two output products huge, and let them take no notice."""
    path, layer = model / "model.safetensors", f"encoder.layer.{BAD_LAYER}."
    weights = load_file(path)
    for kind in (
        "weight",
        "bias",
    ):  # a value is passed on in proportion: undone by the next product
        weights[f"{layer}attention.self.value.{kind}"][0] *= HUGE
    weights[f"{layer}attention.output.dense.weight"][:, 0] /= HUGE
    weights[f"{layer}intermediate.dense.bias"][0] += HUGE  # passes the GELU as it is
    weights[f"{layer}output.dense.weight"][:, 0] = 0
    save_file(weights, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def spoiled_recipe(small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A qdq variant of the spoiled model, with nothing excluded for the sake of its cosines."""
    workspace = Workspace(ROOT / "build/cache", lambda *_: None)
    identity = source_identity(small_recipe)
    source = workspace.step("load", identity, partial(fetch_source, small_recipe))
    model = tmp_path_factory.mktemp("spoiled")
    for path in source.directory.glob("*.*"):
        (model / path.name).write_bytes(path.read_bytes())
    spoil(model)
    return small_recipe.model_copy(
        update={
            "source": DirectorySource(kind="directory", directory=model, licence="none"),
            "variants": ("qdq",),
            "max_tokens": 64,
            "gate": GATE,
            "quantize": Quantize(min_cosine=0.0),
        }
    )


@pytest.fixture(scope="module")
def announced() -> list[str]:
    return []


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, announced: list[str]) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("cache"), lambda name, _: announced.append(name))


@pytest.fixture
def measured(spoiled_recipe: Recipe, workspace: Workspace) -> tuple[Candidates, Quality]:
    return measure(spoiled_recipe, workspace)


def measure(recipe: Recipe, workspace: Workspace) -> tuple[Candidates, Quality]:
    folder = data_folder(recipe.evaluation.data, workspace)
    data = TASKS["embed"].read(folder, recipe.evaluation)
    built = build(recipe, workspace, data)
    candidates = Candidates(recipe, data, folder_digests(folder), [], built)
    return candidates, measure_quality(candidates, workspace)


def held(candidates: Candidates, quality: Quality) -> bool:
    return keeps_quality(losses_of(candidates, quality, "qdq"), candidates.recipe.gate)


def test_a_variant_that_the_gate_would_refuse_is_made_again_with_its_worst_products_in_fp32(
    measured: tuple[Candidates, Quality], workspace: Workspace
):
    before = losses_of(*measured, "qdq")["ndcg@10"]
    assert before.low > GATE.max_relative_loss["ndcg@10"]
    candidates, quality = spare_until_held(measured[0], workspace, measured[1])
    assert held(candidates, quality)
    excluded = candidates.built.variants["qdq"].read_json(EXCLUDED)["operators"]
    assert all(f"layer.{BAD_LAYER}/" in name for name in excluded[:2])
    how = " ".join(candidates.built.notes("qdq"))
    assert f"{len(excluded)} of the most sensitive products left in FP32" in how
    assert "with fewer the gate refused its quality" in how
    assert "chosen on the evaluated data" in how


def test_a_run_that_is_repeated_comes_to_the_same_graph_and_makes_nothing_again(
    measured: tuple[Candidates, Quality], workspace: Workspace
):
    first, _ = spare_until_held(measured[0], workspace, measured[1])
    second, quality = spare_until_held(measured[0], workspace, measured[1])
    assert second.digests == first.digests
    assert second.built.variants["qdq"].reused
    assert quality["qdq"].reused


def test_no_more_products_are_spared_than_may_be_and_the_notes_say_so(
    spoiled_recipe: Recipe, workspace: Workspace
):
    section = Quantize(min_cosine=0.0, max_excluded=1)
    strict = Gate(max_relative_loss={"ndcg@10": 0.0})
    recipe = spoiled_recipe.model_copy(update={"quantize": section, "gate": strict})
    candidates, quality = measure(recipe, workspace)
    candidates, quality = spare_until_held(candidates, workspace, quality)
    assert not held(candidates, quality)
    assert len(candidates.built.variants["qdq"].read_json(EXCLUDED)["operators"]) == 1
    assert "the most that may be (quantize.max_excluded)" in " ".join(candidates.built.notes("qdq"))


@pytest.mark.parametrize(
    "changes",
    [
        {"gate": Gate(max_relative_loss={"ndcg@10": 0.5})},
        {"evaluation": {"min_questions": 100_000}},
    ],
    ids=["quality that holds", "too little data for a verdict"],
)
def test_nothing_is_made_again_without_a_need(
    changes: dict[str, object],
    measured: tuple[Candidates, Quality],
    workspace: Workspace,
    announced: list[str],
):
    recipe = measured[0].recipe
    if isinstance(changed := changes.get("evaluation"), dict):
        changes = {"evaluation": recipe.evaluation.model_copy(update=changed)}
    candidates = replace(measured[0], recipe=recipe.model_copy(update=changes))
    announced.clear()
    assert spare_until_held(candidates, workspace, measured[1]) == (candidates, measured[1])
    assert announced == []
