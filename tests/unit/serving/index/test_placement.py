import re
from pathlib import Path

import pytest

from serving.errors import PlacementError
from serving.index.placement import place, read_placement, write_placement
from tests.unit.serving.index.generations import DESCRIBED


def test_a_placement_is_read_as_it_was_written(tmp_path: Path) -> None:
    placed = place(DESCRIBED, [["a:1", "b:1"], []])
    assert (placed.index, placed.generation, placed.metric) == ("demo", "g1", "l2")
    assert placed.replicas == (("a:1", "b:1"), ())
    write_placement(tmp_path / "placement.json", placed)
    assert read_placement(tmp_path / "placement.json") == placed


@pytest.mark.parametrize("replicas", [[], [["a:1"]], [["a:1"]] * 3])
def test_every_shard_must_be_placed(replicas: list[list[str]]) -> None:
    with pytest.raises(PlacementError, match=f"2 shards and {len(replicas)} are placed"):
        place(DESCRIBED, replicas)


def test_a_missing_placement_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(PlacementError, match=r"is missing: start the index with"):
        read_placement(tmp_path / "placement.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"{}", "index: Field required"),
        (
            b'{"index":"demo","generation":"g1","dim":0,"metric":"l2","replicas":[["a:1"]]}',
            "dim: Input should be greater than 0",
        ),
        (
            b'{"index":"demo","generation":"g1","dim":8,"metric":"cosine","replicas":[["a:1"]]}',
            "metric: Input should be 'inner_product' or 'l2'",
        ),
        (
            b'{"index":"demo","generation":"g1","dim":8,"metric":"l2","replicas":"a:1"}',
            "replicas: Input should be a valid array",
        ),
    ],
)
def test_a_placement_that_cannot_be_read_names_the_field(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "placement.json"
    path.write_bytes(content)
    with pytest.raises(PlacementError, match=re.escape(words)) as refused:
        read_placement(path)
    assert str(path) in str(refused.value)
