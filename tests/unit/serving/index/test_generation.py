"""Damaged, missing and foreign files of an index are refused by name."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.errors import CorruptIndexError
from serving.index.generation import (
    Generation,
    read_generation,
    read_segment_record,
    shard_directory,
    write_generation,
)
from serving.index.layout import Layout
from serving.index.metric import Vectors
from serving.index.sealed import read_sealed, write_sealed
from serving.index.shard import Shard
from serving.index.state import State, read_state, write_state

RandomVectors = Callable[..., Vectors]
MakeGeneration = Callable[..., Path]
OpenShard = Callable[..., Shard]
CompactNow = Callable[[Shard], None]

DESCRIBED = Generation(
    index="demo",
    name="g1",
    dim=8,
    metric="l2",
    layout=Layout(kind="ivf-sq8", lists=4, rescore=2),
    shards=2,
    rows=10,
    space="encoder",
    created_at="2026-01-01T00:00:00+00:00",
)


@pytest.fixture
def generation(make_generation: MakeGeneration, random_vectors: RandomVectors) -> Path:
    """One flat shard, for this test alone."""
    return make_generation(random_vectors(40))


def flip(path: Path, at: int, mask: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= mask
    path.write_bytes(content)


def test_a_description_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_generation(tmp_path, DESCRIBED)
    assert read_generation(tmp_path) == DESCRIBED
    people_can_read_it = json.loads((tmp_path / "generation.json").read_text())
    assert people_can_read_it["layout"]["kind"] == "ivf-sq8"


def test_a_changed_byte_anywhere_in_a_description_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "generation.json"
    write_generation(tmp_path, DESCRIBED)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole)
        flip(path, at, 1 << at % 8)
        with pytest.raises(CorruptIndexError, match=re.escape(str(path))):
            read_generation(tmp_path)


def test_a_description_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_state(tmp_path, State(segment="segment-000002", first_log=2, first_sequence=9))
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(CorruptIndexError, match=re.escape(str(path))):
            read_state(tmp_path)


def test_a_record_of_another_version_is_refused_as_such(tmp_path: Path) -> None:
    write_sealed(tmp_path / "file", State())
    with pytest.raises(CorruptIndexError, match="another version"):
        read_sealed(tmp_path / "file", Generation, "build it again")


def test_a_missing_description_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CorruptIndexError, match=r"generation\.json is missing: name the directory"):
        read_generation(tmp_path)
    with pytest.raises(CorruptIndexError, match=r"segment\.json is missing"):
        read_segment_record(tmp_path)


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
@pytest.mark.parametrize("name", ["index.faiss", "ids.npy", "rows.npy", "segment.json"])
def test_a_changed_byte_in_a_file_of_a_segment_is_refused(
    generation: Path, open_shard: OpenShard, name: str, place: float
) -> None:
    path = shard_directory(generation, 0) / name
    flip(path, int(place * (path.stat().st_size - 1)))
    with pytest.raises(CorruptIndexError, match=re.escape(str(path))):
        open_shard(generation)
    flip(path, int(place * (path.stat().st_size - 1)))
    open_shard(generation)


@pytest.mark.parametrize("name", ["index.faiss", "ids.npy", "rows.npy", "versions.npy"])
def test_the_same_holds_for_a_segment_that_compaction_made(
    generation: Path,
    open_shard: OpenShard,
    compact_now: CompactNow,
    tmp_path: Path,
    name: str,
) -> None:
    shard = open_shard(generation)
    shard.write([("upsert", 1, np.array([7]), np.ones((1, 8), np.float32))])
    compact_now(shard)
    shard.close()
    path = tmp_path / "state/segment-000002" / name
    flip(path, path.stat().st_size - 1)
    with pytest.raises(CorruptIndexError, match=re.escape(str(path))):
        open_shard(generation)


@pytest.mark.parametrize("name", ["index.faiss", "ids.npy", "rows.npy", "segment.json"])
def test_a_missing_file_of_a_segment_is_refused(
    generation: Path, open_shard: OpenShard, name: str
) -> None:
    path = shard_directory(generation, 0) / name
    path.unlink()
    with pytest.raises(CorruptIndexError, match=re.escape(f"{path} is missing")):
        open_shard(generation)


def test_a_changed_byte_anywhere_in_a_state_is_refused_and_nothing_is_removed(
    generation: Path, open_shard: OpenShard, compact_now: CompactNow, tmp_path: Path
) -> None:
    shard = open_shard(generation)
    shard.write([("upsert", 1, np.array([7]), np.ones((1, 8), np.float32))])
    compact_now(shard)
    shard.close()
    path = tmp_path / "state/state.json"
    files = sorted(path.parent.rglob("*"))
    for at in range(path.stat().st_size):
        flip(path, at)
        with pytest.raises(CorruptIndexError, match=re.escape(str(path))):
            open_shard(generation)
        flip(path, at)
    assert sorted(path.parent.rglob("*")) == files
    assert open_shard(generation).lookup(np.array([7]))[0].tolist() == [[1.0] * 8]
