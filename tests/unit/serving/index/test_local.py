from pathlib import Path

import pytest

from serving.errors import PlacementError
from serving.index.generation import Generation, write_generation
from serving.index.local import generation_to_serve
from serving.index.placement import place, write_placement
from tests.unit.serving.index.generations import described


def write(index: Path, name: str, created_at: str) -> Generation:
    generation = described(name=name.removeprefix("."), shards=1, rows=1, created_at=created_at)
    write_generation(index / "generations" / name, generation)
    return generation


def test_the_newest_generation_is_served_of_those_that_are_finished(tmp_path: Path) -> None:
    write(tmp_path, "g2", "2026-01-02T00:00:00+00:00")
    write(tmp_path, "g1", "2026-01-03T00:00:00+00:00")
    write(tmp_path, ".g3", "2026-01-04T00:00:00+00:00")
    (tmp_path / "generations/g4").mkdir()
    assert generation_to_serve(tmp_path) == "g1"


def test_the_one_that_was_served_last_is_served_again(tmp_path: Path) -> None:
    old = write(tmp_path, "g1", "2026-01-01T00:00:00+00:00")
    write(tmp_path, "g2", "2026-01-02T00:00:00+00:00")
    write_placement(tmp_path / "placement.json", place(old, [["127.0.0.1:1"]]))
    assert generation_to_serve(tmp_path) == "g1"


def test_an_index_without_a_generation_says_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(PlacementError, match=r"serving\.index build"):
        generation_to_serve(tmp_path)
