import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from optimize import code_digest as code_digest_module
from optimize.code_digest import ROOT, code_digest, files_behind, module_digest
from optimize.export_onnx import write_export
from optimize.fine_tune import write_fine_tuned
from optimize.footprint import write_footprints
from optimize.load import fetch_source
from optimize.opening import open_baseline
from optimize.speed import write_speeds
from optimize.tasks import TASKS

SOURCES = {
    "maker": "from optimize import helper\ndef make(path):\n    helper.assist(path)\n",
    "helper": "from .deep.tool import use\ndef assist(path):\n    use(path)\n",
    "deep/tool": "def use(path):\n    from optimize.late import LATE\n    path.touch(LATE)\n",
    "late": "LATE = 0o600\n",
    "bystander": "SEEN = 1\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of a few modules, under our names and in a place of its own."""
    for name, source in SOURCES.items():
        path = tmp_path / "optimize" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    monkeypatch.setattr(code_digest_module, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["maker", "helper", "deep/tool", "late"])
def test_a_change_of_what_a_module_imports_directly_or_not_is_other_code(name: str, project: Path):
    maker = project / "optimize/maker.py"
    before = module_digest(maker)
    path = project / "optimize" / f"{name}.py"
    path.write_text(path.read_text() + "MORE = 1\n")
    assert module_digest(maker) != before


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("bystander", "SEEN = 2\n"),
        ("late", "LATE = 0o600  # readable by its owner alone\n"),
        ("late", "\n\nLATE = (\n    0o600\n)\n"),
    ],
    ids=["a module that is not imported", "a comment", "layout"],
)
def test_what_changes_nothing_for_a_module_is_the_same_code(name: str, source: str, project: Path):
    maker = project / "optimize/maker.py"
    before = module_digest(maker)
    (project / "optimize" / f"{name}.py").write_text(source)
    assert module_digest(maker) == before


def test_a_function_with_some_of_its_arguments_is_the_code_of_the_function():
    assert code_digest(partial(write_export, "recipe")) == code_digest(write_export)


@pytest.mark.parametrize(
    ("function", "behind"),
    [
        (write_export, {"modules.py", "classifier.py", "load.py"}),
        (write_fine_tuned, {"modules.py", "classifier.py", "training.py"}),
        (fetch_source, {"load_onnx.py", "complete_graph.py"}),
    ],
    ids=["export_onnx", "fine_tune", "load"],
)
def test_the_code_of_a_step_is_all_that_does_its_work(
    function: Callable[..., object], behind: set[str]
):
    assert behind <= names_behind(function)


@pytest.mark.parametrize(
    "function",
    [write_speeds, write_footprints, open_baseline, TASKS["embed"].write_predictions],
    ids=["speed", "footprint", "opening", "quality"],
)
def test_a_change_of_the_report_measures_nothing_again(function: Callable[..., object]):
    shown = {"report.py", "plots.py", "outcome.py", "waterfall.py", "__main__.py", "gate.py"}
    assert not names_behind(function) & shown


def names_behind(function: Callable[..., object]) -> set[str]:
    module = sys.modules[function.__module__]
    return {path.name for path in files_behind(Path(str(module.__file__)))}


def test_every_file_behind_a_step_is_in_the_project():
    files = files_behind(ROOT / "optimize/packaging.py")
    assert ROOT / "models/triton/text_encoder/batches.py" in files  # imported relatively
    assert all(path.is_relative_to(ROOT) for path in files)
