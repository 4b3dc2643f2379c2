"""What a shard holds while it is compacted, whatever happens meanwhile."""

import shutil
from pathlib import Path

import pytest

from serving.index import shard as shard_module
from serving.index.metric import Vectors
from serving.index.state import State
from tests.unit.serving.index.shards import (
    CompactNow,
    MakeSegment,
    OpenShard,
    RandomVectors,
    check_holds,
    check_searches,
    delete,
    upsert,
)


def test_a_compaction_takes_in_what_changed_and_keeps_what_changes_meanwhile(
    flat: Path,
    base_rows: dict[int, Vectors],
    random_vectors: RandomVectors,
    open_shard: OpenShard,
    make_segment: MakeSegment,
) -> None:
    shard = open_shard(flat)
    new = random_vectors(8, seed=5)
    upsert(shard, [0, 1, 2, 4], new[:4])
    delete(shard, [3, 6])
    logs, destination = shard.begin_compaction()
    upsert(shard, [1, 6, 9, 10], new[4:])  # one of the frozen, one that it deleted, one of before
    delete(shard, [2, 12])
    rows = base_rows | {0: new[0], 4: new[3], 1: new[4], 6: new[5], 9: new[6], 10: new[7]}
    del rows[3], rows[12]
    check_holds(shard, rows, {2, 3, 12})
    check_searches(shard, rows)
    make_segment(shard, logs, destination)
    check_holds(shard, rows, {2, 3, 12})
    shard.adopt(destination)
    for _ in range(2):
        check_holds(shard, rows, {2, 3, 12})
        check_searches(shard, rows)
        assert shard.counts().segment == "segment-000002"
        assert shard.counts().changes == 6
        shard.close()
        shard = open_shard(flat)


def test_an_abandoned_compaction_changes_nothing_and_the_next_takes_in_both_logs(
    flat: Path,
    base_rows: dict[int, Vectors],
    random_vectors: RandomVectors,
    open_shard: OpenShard,
    compact_now: CompactNow,
    tmp_path: Path,
) -> None:
    shard = open_shard(flat)
    new = random_vectors(4, seed=5)
    upsert(shard, [0, 1], new[:2])
    _, destination = shard.begin_compaction()
    unfinished = destination.with_name(f".{destination.name}")
    unfinished.mkdir()
    upsert(shard, [1, 2], new[2:])
    delete(shard, [0, 3])
    shard.abandon_compaction()
    assert not unfinished.exists()
    rows = base_rows | {1: new[2], 2: new[3]}
    del rows[0], rows[3]
    check_holds(shard, rows, {0, 3})
    compact_now(shard)
    check_holds(shard, rows, {0, 3})
    check_searches(shard, rows)
    names = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert names == ["lock", "log-000003", "segment-000003", "state.json"]


def test_a_second_compaction_at_the_same_time_is_refused(flat: Path, open_shard: OpenShard) -> None:
    shard = open_shard(flat)
    shard.begin_compaction()
    with pytest.raises(RuntimeError, match="under way"):
        shard.begin_compaction()


def test_a_crash_at_any_step_of_a_compaction_loses_nothing(
    flat: Path,
    base_rows: dict[int, Vectors],
    random_vectors: RandomVectors,
    open_shard: OpenShard,
    make_segment: MakeSegment,
    compact_now: CompactNow,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = tmp_path / "state"
    shard = open_shard(flat)
    new = random_vectors(6, seed=5)
    rows = dict(base_rows)
    steps: dict[str, dict[int, Vectors]] = {}

    def crash(step: str) -> None:
        """What a process killed now would leave."""
        shutil.copytree(state, tmp_path / step)
        steps[step] = dict(rows)

    def write(ids: list[int], vectors: Vectors, gone: int) -> None:
        upsert(shard, ids, vectors)
        delete(shard, [gone])
        rows.update(zip(ids, vectors, strict=True))
        del rows[gone]

    write([0, 1], new[:2], gone=3)
    crash("before")
    logs, destination = shard.begin_compaction()
    crash("begun")
    write([1, 2], new[2:4], gone=6)
    crash("written-meanwhile")
    unfinished = destination.with_name(f".{destination.name}")
    unfinished.mkdir()
    (unfinished / "rows.npy").write_bytes(b"half")
    crash("half-a-segment")
    make_segment(shard, logs, destination)
    crash("segment-made")
    write([4], new[4:5], gone=9)
    crash("written-before-adoption")
    remove = shard_module.remove_leftovers

    def crash_and_remove(directory: Path, adopted: State) -> None:
        crash("adopted")
        remove(directory, adopted)

    monkeypatch.setattr(shard_module, "remove_leftovers", crash_and_remove)
    shard.adopt(destination)
    monkeypatch.setattr(shard_module, "remove_leftovers", remove)
    crash("cleared")
    write([5], new[5:], gone=12)
    crash("written-after")

    assert len(steps) == 9
    for step, expected in steps.items():
        reopened = open_shard(flat, state=tmp_path / step)
        check_holds(reopened, expected, {3, 6, 9, 12})
        check_searches(reopened, expected)
        left = {path.name for path in (tmp_path / step).iterdir()}
        counting = {reopened.state.segment} - {""}
        assert {name for name in left if "segment" in name} == counting
        upsert(reopened, [0], new[5:])
        compact_now(reopened)
        check_holds(reopened, expected | {0: new[5]}, {3, 6, 9, 12})
