"""`python -m serving.index place`."""

import json
from pathlib import Path

import pytest

from serving.index.__main__ import main
from serving.index.generation import write_generation
from tests.unit.serving.index.generations import described


@pytest.fixture
def generation(tmp_path: Path) -> Path:
    """Four shards, described."""
    directory = tmp_path / "g1"
    directory.mkdir()
    write_generation(directory, described(shards=4))
    return directory


def place(generation: Path, *options: str) -> int:
    """The exit status of the command; it writes beside the generation."""
    output = str(generation.parent / "placement.json")
    return main(["place", "--generation", str(generation), "--output", output, *options])


def replicas(generation: Path) -> list[list[str]]:
    """What it wrote."""
    found: list[list[str]] = json.loads((generation.parent / "placement.json").read_bytes())[
        "replicas"
    ]
    return found


def test_each_shard_is_placed_at_every_address_that_names_it(
    generation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place(generation, "--at", "0-1=a:1,b:1", "--at", "2,3=c:2", "--at", "3=[::1]:3") == 0
    assert replicas(generation) == [["a:1", "b:1"], ["a:1", "b:1"], ["c:2"], ["c:2", "[::1]:3"]]
    assert "4 shards on 4 nodes" in capsys.readouterr().out


def test_pods_of_a_stateful_set_are_placed_by_their_stable_names(generation: Path) -> None:
    sets = ("--stateful-set", "0-2=low", "--stateful-set", "3=high", "--service", "s")
    assert place(generation, *sets, "--namespace", "n", "--port", "9") == 0
    low = ["low-0.s.n.svc:9", "low-1.s.n.svc:9"]
    assert replicas(generation) == [low, low, low, ["high-0.s.n.svc:9", "high-1.s.n.svc:9"]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--at", "0-3"], "'0-3' cannot be read"),
        (["--at", "0-3="], "'0-3=' cannot be read"),
        (["--at", "3-0=a:1"], "names no shards"),
        (["--at", "0-3=a"], "'a' is no address"),
        (["--at", "0-3=a:65536"], "'a:65536' is no address"),
        (["--at", "0-3=a:1,"], "'' is no address"),
        (["--at", "0-4=a:1"], "there are no shards [4]: the last one is 3"),
        (["--at", "0,2=a:1"], "shards [1, 3] are placed nowhere"),
        (["--at", "0-3=a:1", "--at", "2=a:1"], "shards [2] have one address twice"),
        (["--stateful-set", "0-3=a", "--replicas", "0"], "0 replicas are none"),
        (["--stateful-set", "0-3=Upper"], "'Upper' is no name in Kubernetes"),
        ([], "shards [0, 1, 2, 3] are placed nowhere"),
    ],
)
def test_what_would_leave_a_shard_unreachable_is_refused_and_nothing_written(
    generation: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert place(generation, *options) == 1
    assert words in capsys.readouterr().err
    assert not (generation.parent / "placement.json").exists()
