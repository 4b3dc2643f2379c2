"""The search of serving parameters, on the real server with the real load generator."""

import json
import shutil
import threading
from pathlib import Path

import psutil
import pytest

from models.manifest import read_manifest, verify_files
from optimize.recipe import Recipe
from optimize.sections import Serving, Tune
from optimize.triton_config import read_config
from optimize.tune.run import Plan, prepare, tune
from optimize.tune.space import space_of
from optimize.tune.study import Limits
from optimize.tune.trials import Bench, run_trial
from serving.triton.launch import run_triton

pytestmark = pytest.mark.triton

TEXTS = [f"what is number {number} of so many" for number in range(50)]


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    """A search that any machine can carry out within seconds."""
    search = Tune(
        max_p99_ms=250.0,
        min_rate_per_s=20.0,
        probe_s=0.3,
        max_batch_size=(8, 64),
        max_queue_delay_us=(0,),
        instances=(1,),
        workers=(1,),
        token_budget=(1024,),
    )
    return small_recipe.model_copy(update={"tune": search, "serving": Serving(workers=1)})


@pytest.fixture
def repository(packaged_repository: Path, tmp_path: Path) -> Path:
    """A packaged repository to tune, of which the settings of the recipe are those."""
    copy = tmp_path / "repository"
    shutil.copytree(packaged_repository, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def plan(repository: Path, tmp_path: Path, trials: int) -> Plan:
    return Plan(
        repository=repository,
        destination=tmp_path / "tuned",
        folder=tmp_path / "tune",
        limits=Limits(trials),
        rounds=1,
    )


@pytest.fixture
def bench(recipe: Recipe, repository: Path, tmp_path: Path) -> Bench:
    return prepare(recipe, plan(repository, tmp_path, 1), TEXTS, tmp_path / "work")


def descendants() -> list[str]:
    """What this process started and is still there, by command line."""
    return [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]


@pytest.mark.timeout(400)  # it starts six servers, and machines differ
def test_a_search_measures_publishes_and_is_served(
    recipe: Recipe, repository: Path, tmp_path: Path
):
    lines: list[str] = []
    report, published = tune(recipe, plan(repository, tmp_path, 2), TEXTS, lines.append)

    assert len(report.trials) == 2
    assert all(trial.outcome == "held" and trial.rate_per_s > 1 for trial in report.trials)
    assert all(trial.memory_bytes > 50 * 2**20 for trial in report.trials)
    assert report.pareto_front
    assert [len(one.turns) for one in report.confirmed] == [1, 1]
    assert len(lines) == 4  # two trials, a round and the verdict
    assert not [command for command in descendants() if "triton" in command or "probe" in command]

    manifest = read_manifest(published.repository)
    verify_files(published.repository, manifest)
    assert manifest.tuning == report.tuned.tuning
    config = read_config(published.repository / recipe.name / "config.pbtxt")
    assert config.max_batch_size == report.tuned.parameters["max_batch_size"]
    with run_triton(published.repository, log_path=tmp_path / "triton.log"):
        pass  # the signature was checked, and every model is ready

    repeated: list[str] = []
    again, unchanged = tune(recipe, plan(repository, tmp_path, 2), TEXTS, repeated.append)
    assert (again.trials, again.confirmed) == (report.trials, report.confirmed)
    assert len(repeated) == 1  # the verdict
    assert not unchanged.changed
    written = json.loads((tmp_path / "tune/tuning.json").read_bytes())
    assert len(written["trials"]) == 2


def test_a_model_that_does_not_load_is_a_failed_trial_with_its_reason(bench: Bench, recipe: Recipe):
    graph = bench.repository / recipe.name / "1/model.onnx"
    graph.write_bytes(b"no graph")
    trial = run_trial(bench, 0, space_of(recipe, 2).default, None)
    assert trial.outcome == "failed"
    assert "model.onnx" in trial.reason or "Triton did not start" in trial.reason
    assert trial.figures is None
    assert not [command for command in descendants() if "triton" in command]


def test_triton_killed_during_a_trial_fails_the_trial_and_not_the_search(
    bench: Bench, recipe: Recipe
):
    parameters = space_of(recipe, 2).default

    def kill_when_ready() -> None:
        ready = bench.work / "trial-000/triton.json"
        while not stop.wait(0.05):
            if ready.is_file():
                launcher = psutil.Process(json.loads(ready.read_bytes())["pid"])
                launcher.kill()
                return

    stop = threading.Event()
    killer = threading.Thread(target=kill_when_ready)
    killer.start()
    trial = run_trial(bench, 0, parameters, None)
    stop.set()
    killer.join()
    assert trial.outcome == "failed"
    assert trial.reason
    assert not (bench.work / "trial-000/repository").exists()
