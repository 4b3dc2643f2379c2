"""`python -m optimize run` as people use it: a real model, real data, killed at the worst moments."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.manifest import read_manifest, verify_files
from optimize.recipe import Recipe
from optimize.sections import Calibration, Quantize
from optimize.triton_config import read_config
from optimize.tune.apply import Tuned, keep_tuned, tuning_key
from optimize.tune.space import parameters_of

MakeTuned = Callable[[dict[str, int]], Tuned]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[3]
STEPS = (
    "load",
    "export_onnx",
    "quantize-int8",
    "quality-pytorch",
    "quality-int8",
    "speed",
    "footprint",
    "profile",
    "package",
)


@dataclass(frozen=True)
class Command:
    """A run of a recipe in a directory of its own; the wheels come from build/downloads."""

    recipe: Path
    directory: Path
    more: tuple[str, ...] = ()

    @property
    def repository(self) -> Path:
        return self.directory / "repository"

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    @property
    def arguments(self) -> list[str]:
        options = {name: self.directory / name for name in ("repository", "cache", "reports")}
        flags = [part for name, path in options.items() for part in (f"--{name}", str(path))]
        return [sys.executable, "-m", "optimize", "run", str(self.recipe), *flags, *self.more]

    @property
    def options(self) -> dict[str, Any]:
        """How its process is started. One thread for PyTorch: two wait for one another on a busy machine."""
        return {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "text": True}

    def run(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.arguments, capture_output=True, check=False, **self.options)

    @contextmanager
    def started_until(self, step: str) -> Iterator[subprocess.Popen[str]]:
        """The process, in the middle of a step."""
        process = subprocess.Popen(
            self.arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=accept_interrupts,
            **self.options,
        )
        try:
            said = []
            for line in process.stdout:
                said.append(line)
                if line == f"▶ {step}\n":
                    break
            assert process.poll() is None, said
            yield process
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    def leftovers(self) -> list[str]:
        """Temporary files and directories that a run left beside what it made."""
        found = [p for place in (self.directory, self.cache) for p in place.glob(".*")]
        return [path.name for path in found if path.name != ".lock"]


def accept_interrupts() -> None:
    """A shell starts what runs in its background with Ctrl-C ignored; people's terminals do not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def write_recipe(recipe: Recipe, path: Path, **gate: Any) -> Path:
    content = recipe.model_dump(mode="json")
    content["gate"] |= gate
    path.write_text(yaml.safe_dump(content))
    return path


def snapshot(directory: Path) -> dict[Path, tuple[int, int]]:
    """The identity and the time of everything in a directory."""
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in directory.rglob("*")}


@pytest.fixture(scope="module")
def undisturbed(small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """A run that nobody disturbed."""
    directory = tmp_path_factory.mktemp("undisturbed")
    command = Command(write_recipe(small_recipe, directory / "recipe.yaml"), directory)
    done = command.run()
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^▶ (\S+)$", done.stdout, re.MULTILINE) == list(STEPS)
    assert f"packaged: {command.repository}" in done.stdout
    return command


def test_a_recipe_becomes_a_repository_that_is_what_its_manifest_says(undisturbed: Command):
    manifest = read_manifest(undisturbed.repository)
    verify_files(undisturbed.repository, manifest)
    assert (manifest.name, manifest.variant, manifest.output_dim) == (
        "search-encoder",
        "int8",
        384,
    )
    assert manifest.evidence.size_bytes < 0.3 * manifest.baseline.size_bytes
    assert manifest.evidence.quality["ndcg@10"].value > 0.9  # few passages make it easy
    assert manifest.gate[0].startswith("int8 accepted: ndcg@10 loss")
    (provenance,) = manifest.data_provenance
    assert provenance.startswith("folder, evaluated: ")
    report = json.loads((undisturbed.directory / "reports/report.json").read_text())
    assert (report["chosen"], report["digest"]) == ("int8", manifest.digest)


def test_a_second_run_says_unchanged_and_touches_nothing(undisturbed: Command):
    before = snapshot(undisturbed.repository) | snapshot(undisturbed.cache)
    done = undisturbed.run()
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^✓ (\S+) \(unchanged\)$", done.stdout, re.MULTILINE) == list(STEPS)
    assert f"unchanged: {undisturbed.repository}" in done.stdout
    assert snapshot(undisturbed.repository) | snapshot(undisturbed.cache) == before


def test_what_a_search_chose_for_this_model_is_packaged_with_its_evidence(
    undisturbed: Command, small_recipe: Recipe, make_tuned: MakeTuned, tmp_path: Path
):
    version = undisturbed.repository / "search-encoder/1"
    parameters = {**parameters_of(small_recipe.serving), "workers": 1, "max_batch_size": 16}
    tuned = make_tuned(parameters)
    key = tuning_key(small_recipe, version / "model.onnx", version / "tokenizer.json")
    keep_tuned(tuned, key, tmp_path)
    places = ("--tune-folder", str(tmp_path), "--repository", str(tmp_path / "repository"))
    done = replace(undisturbed, more=places).run()
    assert done.returncode == 0, done.stderr
    assert "served with what `tune` chose in 12 trials: max_batch_size 16" in done.stdout
    assert re.findall(r"^▶ (\S+)$", done.stdout, re.MULTILINE) == ["package"]
    manifest = read_manifest(tmp_path / "repository")
    assert manifest.tuning == tuned.tuning
    packaged = tmp_path / "repository/search-encoder"
    assert read_config(packaged / "config.pbtxt").max_batch_size == manifest.max_batch_size == 16
    assert json.loads((packaged / "1/encoder.json").read_text())["workers"] == 1
    assert "Pareto front" in (undisturbed.directory / "reports/report.html").read_text()


def test_a_gate_that_nothing_passes_leaves_the_repository_and_says_why(
    undisturbed: Command, small_recipe: Recipe, tmp_path: Path
):
    strict = write_recipe(small_recipe, tmp_path / "recipe.yaml", min_speedup={1: 1000.0})
    before = snapshot(undisturbed.repository)
    done = replace(undisturbed, recipe=strict).run()
    assert done.returncode == 1
    assert "error: no variant passed the gate, nothing was packaged:" in done.stderr
    assert re.search(
        r"int8: rejected: too slow: \S+x the baseline's speed at batch 1, .* 1000x", done.stderr
    )
    assert "Traceback" not in done.stderr
    assert snapshot(undisturbed.repository) == before
    page = (undisturbed.directory / "reports/report.html").read_text()
    assert "No variant passed the gate" in page


def test_a_variant_that_cannot_be_made_is_refused_and_the_others_are_packaged(
    undisturbed: Command, small_recipe: Recipe, tmp_path: Path
):
    section = Quantize(calibration=Calibration(min_texts=100_000))
    changes = {"variants": ("int8", "qdq"), "quantize": section}
    recipe = write_recipe(small_recipe.model_copy(update=changes), tmp_path / "recipe.yaml")
    repository = ("--repository", str(tmp_path / "repository"))
    done = replace(undisturbed, recipe=recipe, more=repository).run()
    assert done.returncode == 0, done.stderr
    assert re.search(r"qdq: it cannot be made: \d+ calibration texts: qdq variants", done.stdout)
    manifest = read_manifest(tmp_path / "repository")
    assert manifest.variant == "int8"
    assert manifest.gate[1].startswith("qdq rejected: it cannot be made: 128 calibration texts")


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_digest(
    undisturbed: Command, tmp_path: Path
):
    command = replace(undisturbed, directory=tmp_path)
    for step in ("export_onnx", "quality-int8", "speed"):
        with command.started_until(step) as process:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not command.repository.exists()
        assert not list(command.cache.glob(f"{step}-*"))
    done = command.run()
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^▶ (\S+)$", done.stdout, re.MULTILINE) == list(STEPS[5:])
    manifest = read_manifest(command.repository)
    verify_files(command.repository, manifest)
    assert manifest.digest == read_manifest(undisturbed.repository).digest
    assert command.leftovers() == []


def test_ctrl_c_ends_with_130_and_leaves_finished_steps_alone(undisturbed: Command, tmp_path: Path):
    command = replace(undisturbed, directory=tmp_path)
    with command.started_until("export_onnx") as process:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate()
    assert process.returncode == 130, said
    assert "stopped: finished steps are kept, run again to resume" in said
    assert "Traceback" not in said
    assert command.leftovers() == []
    assert [path.name.split("-")[0] for path in command.cache.glob("[!.]*")] == ["load"]
    assert not command.repository.exists()


def test_a_recipe_with_a_problem_ends_with_1_and_one_line_per_problem(
    undisturbed: Command, tmp_path: Path
):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(undisturbed.recipe.read_text() + "max_token: 1\n")
    done = replace(undisturbed, recipe=recipe, directory=tmp_path).run()
    assert done.returncode == 1
    assert "max_token: unknown field; did you mean `max_tokens`?" in done.stderr
    assert "Traceback" not in done.stderr
