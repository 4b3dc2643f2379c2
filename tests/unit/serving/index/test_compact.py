import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import CorruptIndexError
from serving.index import compact as compact_module
from serving.index.compact import compact, merged, newest_versions
from serving.index.generation import (
    TRAINED_NAME,
    read_ids,
    read_rows,
    read_segment_record,
    read_versions,
    shard_directory,
    verify_segment,
)
from serving.index.layout import Layout
from serving.index.log import Change, Log
from serving.index.metric import Ids, Vectors

RandomVectors = Callable[..., Vectors]
MakeGeneration = Callable[..., Path]

NOTHING: Vectors = np.empty((0, 0), np.float32)


@pytest.fixture
def generation(make_generation: MakeGeneration, random_vectors: RandomVectors) -> Path:
    """The even ids below 80, for this test alone."""
    return make_generation(random_vectors(40), np.arange(0, 80, 2))


@pytest.fixture
def log(tmp_path: Path, random_vectors: RandomVectors) -> Path:
    """Three rows that are new, one that is changed, two that go."""
    opened = Log(tmp_path / "log-000001")
    vectors = random_vectors(4, seed=1)
    opened.append_all([Change("upsert", 1, 5, np.array([99, 4, 1, 33]), vectors)])
    opened.append_all([Change("delete", 2, 6, np.array([0, 33]), NOTHING)])
    opened.close()
    return opened.path


def test_a_new_segment_holds_the_old_rows_and_the_changes_in_the_order_of_their_ids(
    generation: Path, log: Path, tmp_path: Path, random_vectors: RandomVectors
) -> None:
    destination = tmp_path / "segment-000002"
    compact(generation, shard_directory(generation, 0), [log], destination)
    rows = dict(zip(range(0, 80, 2), random_vectors(40), strict=True))
    rows |= dict(zip([99, 4, 1], random_vectors(4, seed=1), strict=False))
    del rows[0]
    ids = read_ids(destination)
    assert ids.tolist() == sorted(rows)
    np.testing.assert_array_equal(read_rows(destination), np.stack([rows[i] for i in ids.tolist()]))
    assert read_versions(destination).tolist() == [[0, 1, 4, 33, 99], [6, 5, 5, 6, 5]]
    verify_segment(destination, read_segment_record(destination))


def test_what_an_earlier_try_left_is_replaced(generation: Path, log: Path, tmp_path: Path) -> None:
    left = tmp_path / ".segment-000002/strange"
    left.mkdir(parents=True)
    compact(generation, shard_directory(generation, 0), [log], tmp_path / "segment-000002")
    assert not (tmp_path / "segment-000002/strange").exists()
    assert not left.parent.exists()


@pytest.mark.parametrize("name", ["rows.npy", "ids.npy", "index.faiss"])
def test_damage_of_the_old_segment_is_not_carried_over(
    generation: Path, log: Path, tmp_path: Path, name: str
) -> None:
    damaged = shard_directory(generation, 0) / name
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(CorruptIndexError, match=re.escape(str(damaged))):
        compact(generation, damaged.parent, [log], tmp_path / "segment-000002")
    assert not (tmp_path / "segment-000002").exists()


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(p.read_bytes()[:-1]), Path.unlink])
def test_a_trained_index_that_changed_is_refused(
    generation: Path, log: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    damage(generation / TRAINED_NAME)
    with pytest.raises(CorruptIndexError, match=re.escape(str(generation / TRAINED_NAME))):
        compact(generation, shard_directory(generation, 0), [log], tmp_path / "segment-000002")


def test_the_new_index_is_filled_from_the_same_centroids(
    make_generation: MakeGeneration, random_vectors: RandomVectors, tmp_path: Path
) -> None:
    layout = Layout(kind="ivf-flat", lists=4)
    generation = make_generation(random_vectors(400), layout=layout)
    shard = shard_directory(generation, 0)
    compact(generation, shard, [], tmp_path / "segment-000002")
    same = (tmp_path / "segment-000002/index.faiss").read_bytes()
    assert same == (shard / "index.faiss").read_bytes()


@given(
    old=st.sets(st.integers(0, 30)),
    added=st.sets(st.integers(31, 60)),
    gone=st.sets(st.integers(0, 30)),
    chunk=st.integers(1, 20),
)
def test_rows_are_merged_in_chunks_of_any_size(
    old: set[int], added: set[int], gone: set[int], chunk: int
) -> None:
    old_ids = np.array(sorted(old), dtype=np.int64)
    kept = np.flatnonzero(~np.isin(old_ids, sorted(gone)))
    added_ids = np.array([*added], dtype=np.int64) - 31  # between the old ones, each its own
    ids: Ids = np.concatenate([old_ids[kept] * 2, added_ids * 2 + 1])
    order = np.argsort(ids)

    def rows_of(numbers: Ids) -> Vectors:
        return np.stack([numbers, numbers], axis=1).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compact_module, "CHUNK_ROWS", chunk)
        parts = [*merged(rows_of(old_ids * 2), kept, rows_of(added_ids * 2 + 1), order)]
    assert all(len(part) <= chunk for part in parts)
    found = [int(row[0]) for part in parts for row in part]
    assert found == sorted(ids.tolist())


@given(
    old=st.dictionaries(st.integers(0, 9), st.integers(0, 9)),
    touched=st.dictionaries(st.integers(0, 9), st.integers(0, 9)),
)
def test_versions_of_what_was_touched_replace_the_old_ones(
    old: dict[int, int], touched: dict[int, int]
) -> None:
    def as_array(versions: dict[int, int]) -> Ids:
        return np.array(sorted(versions.items()), dtype=np.int64).reshape(-1, 2).T

    found = newest_versions(as_array(old), as_array(touched))
    assert found.T.tolist() == [list(pair) for pair in sorted((old | touched).items())]
