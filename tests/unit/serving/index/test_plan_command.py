"""`python -m serving.index plan` as its user calls it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.index.__main__ import main, parse_arguments
from serving.index.metric import Vectors

DIM = 32
CASE = ("--rows", "29.3M", "--dim", "384", "--node-memory", "16GB", "--recall", "0.95")
SMALL = ("--rows", "3000", "--dim", str(DIM), "--node-memory", "1GB", "--recall", "0.95")

RandomVectors = Callable[..., Vectors]


def plan(*words: object) -> int:
    return main(["plan", *map(str, words)])


@pytest.fixture(scope="module")
def sample(random_vectors: RandomVectors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "sample.npy"
    np.save(path, random_vectors(3000, DIM))
    return path


@pytest.fixture(scope="module")
def report(sample: Path) -> dict[str, Any]:
    """What a plan with a sample writes."""
    path = sample.with_name("plan.json")
    assert plan(*SMALL, "--sample", sample, "--json", path) == 0
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_without_a_sample_only_the_layout_that_looks_at_everything_is_recommended(
    capsys: pytest.CaptureFixture[str],
):
    assert plan(*CASE) == 0
    said = capsys.readouterr().out
    assert "not measured: give --sample" in said
    assert re.search(r"recommended: .* --layout flat --shards 7", said)


def test_with_a_sample_each_layout_has_a_measured_recall_and_speed(report: dict[str, Any]):
    trials = [option["trial"] for option in report["options"] if option["plan"]["over_bytes"] <= 0]
    assert len(trials) > 5
    for trial in trials:
        assert 0 < trial["recall"] <= 1
        assert trial["queries_per_s"] > 0


def test_what_is_recommended_reaches_the_recall_and_can_be_built(
    report: dict[str, Any], sample: Path, tmp_path: Path
):
    best = report["options"][0]
    assert best["plan"]["layout"]["kind"] == "flat" or best["trial"]["recall"] >= 0.95
    words = report["recommended"].removeprefix("python -m serving.index ").split()
    options = parse_arguments(words)
    assert options.layout == best["plan"]["layout"]["kind"]
    words[words.index("build/index")] = str(tmp_path / "demo")
    words[words.index("vectors.npy")] = str(sample)
    assert main(words) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*CASE, "--nodes", "1", "--max-read", "1"), "nothing that fits will do"),
        ((*CASE[:-4], "--node-memory", "200MB", "--recall", "0.95"), r"nothing fits: .* MiB over"),
        ((*CASE[:-1], "1.5"), "--recall is 1.5: give a share such as 0.95"),
        ((*CASE, "--queries", "q.npy"), "name its rows with --sample"),
        ((*CASE, "--sample", "gone.npy"), "gone.npy is missing"),
        ((*CASE, "--k", "100000"), "shards answer 1 to 1000"),
        ((*CASE, "--headroom", "1"), "--headroom is 1: give a share such as 0.1"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_what_to_change(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
):
    assert plan(*words) == 1
    assert re.search(said, capsys.readouterr().err)


def test_a_sample_of_other_vectors_is_refused(sample: Path, capsys: pytest.CaptureFixture[str]):
    assert plan(*CASE, "--sample", sample) == 1
    assert "holds vectors of 32 components and --dim is 384" in capsys.readouterr().err
