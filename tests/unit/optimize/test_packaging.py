"""The whole pipeline on a tiny model for a GPU target, on a machine that has none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from models.manifest import Manifest, read_manifest
from optimize import export_tensorrt
from optimize.engine import read_engine
from optimize.lint import lint
from optimize.outcome import Outcome
from optimize.pipeline import optimize
from optimize.recipe import Recipe
from optimize.sections import TensorRT
from optimize.steps import Workspace

Run = Callable[[Recipe], tuple[Outcome, Manifest]]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("cache"), lambda *_: None)


@pytest.fixture
def run(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a recipe on a machine without a GPU, whatever this one has."""
    pytest.importorskip("tensorrt_rtx_bindings")
    monkeypatch.setattr("optimize.measure.gpu_model", lambda: "none")

    def run(recipe: Recipe) -> tuple[Outcome, Manifest]:
        repository = tmp_path / "repository"
        outcome = optimize(recipe, workspace, repository, tmp_path / "reports")
        return outcome, read_manifest(repository)

    return run


def for_gpu(recipe: Recipe, section: TensorRT, **serving: object) -> Recipe:
    return recipe.model_copy(
        update={
            "target": "gpu",
            "variants": ("fp32",),
            "tensorrt": section,
            "serving": recipe.serving.model_copy(update=serving),
        }
    )


def test_what_a_cpu_measures_is_no_evidence_for_a_gpu(run: Run, tiny_recipe: Recipe):
    ahead_of_time = TensorRT(builder="tensorrt_rtx", compute_capabilities=("8.9",))
    outcome, manifest = run(for_gpu(tiny_recipe, ahead_of_time))
    for evidence in (manifest.evidence, manifest.baseline):
        assert evidence.speed == []
        assert (evidence.memory_bytes, evidence.cpu_s_per_1000) == (None, None)
    assert outcome.usd_per_million == {}


def test_the_manifest_names_the_opset_of_the_graph_and_no_engine_that_lies_elsewhere(
    run: Run, tiny_recipe: Recipe, tmp_path: Path
):
    ahead_of_time = TensorRT(builder="tensorrt_rtx", compute_capabilities=("8.6", "8.9"))
    outcome, manifest = run(for_gpu(tiny_recipe, ahead_of_time, max_batch_size=24))
    assert manifest.opset == tiny_recipe.export.opset
    assert outcome.variants[1].opset == tiny_recipe.export.opset
    assert manifest.engines == []
    plans = sorted((tmp_path / "reports/engines").glob("*.plan"))
    assert [plan.name for plan in plans] == ["sm_8.6.plan", "sm_8.9.plan"]
    ends = [read_engine(plan).engine.profiles[-1]["max"] for plan in plans]
    assert ends == [[24, tiny_recipe.max_tokens]] * 2


def test_the_manifest_names_a_packaged_engine_by_its_path_in_the_repository(
    run: Run, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(export_tensorrt.MODULES, "tensorrt", "tensorrt_rtx_bindings")
    monkeypatch.setattr(export_tensorrt, "capability_here", lambda: "9.0")
    _, manifest = run(for_gpu(tiny_recipe, TensorRT(builder="tensorrt"), core="tensorrt"))
    (engine,) = manifest.engines
    assert engine.path == "search-encoder-core/1/model.plan"
    assert {engine.path, "search-encoder-core/1/model.json"} <= set(manifest.files)
    assert read_engine(tmp_path / "repository" / engine.path).engine == engine
    assert lint(tmp_path / "repository", compute_capability="9.0") == []
