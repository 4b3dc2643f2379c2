"""A shard that cannot be opened says why."""

import shutil
from pathlib import Path

import pytest

from serving.errors import CorruptIndexError, IndexBusyError
from tests.unit.serving.index.shards import (
    CompactNow,
    MakeGeneration,
    OpenShard,
    RandomVectors,
    upsert,
)


def test_a_state_serves_one_process_at_a_time(flat: Path, open_shard: OpenShard) -> None:
    first = open_shard(flat)
    with pytest.raises(IndexBusyError, match="in use by another process"):
        open_shard(flat)
    first.close()
    open_shard(flat)


def test_a_state_that_was_refused_is_not_locked(
    flat: Path, open_shard: OpenShard, tmp_path: Path
) -> None:
    open_shard(flat).close()
    log = tmp_path / "state/log-000001"
    whole = log.read_bytes()
    log.write_bytes(b"X" + whole[1:])
    with pytest.raises(CorruptIndexError) as refused:
        open_shard(flat)
    log.write_bytes(whole)
    open_shard(flat)
    assert str(log) in str(refused.value)


@pytest.mark.parametrize("missing", ["state.json", "log-000001", "log-000002"])
def test_a_state_with_a_part_missing_is_refused_and_left_as_it_is(
    flat: Path,
    random_vectors: RandomVectors,
    open_shard: OpenShard,
    compact_now: CompactNow,
    tmp_path: Path,
    missing: str,
) -> None:
    shard = open_shard(flat)
    upsert(shard, [0], random_vectors(1))
    if missing == "log-000001":
        shard.begin_compaction()
    else:
        compact_now(shard)
    shard.close()
    (tmp_path / "state" / missing).unlink()
    before = sorted(path.name for path in (tmp_path / "state").iterdir())
    with pytest.raises(CorruptIndexError, match=missing):
        open_shard(flat)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == before


def test_a_log_of_another_replica_is_refused(
    flat: Path, random_vectors: RandomVectors, open_shard: OpenShard, tmp_path: Path
) -> None:
    shard = open_shard(flat)
    upsert(shard, [0], random_vectors(1))
    shard.begin_compaction()
    upsert(shard, [1], random_vectors(1))
    shard.close()
    logs = [tmp_path / "state" / f"log-00000{number}" for number in (1, 2)]
    shutil.copyfile(logs[1], logs[0])
    with pytest.raises(CorruptIndexError, match="goes on with change 2 after 0"):
        open_shard(flat)


def test_what_was_written_to_another_build_is_not_served(
    make_generation: MakeGeneration, random_vectors: RandomVectors, open_shard: OpenShard
) -> None:
    first, second = (make_generation(random_vectors(20, seed=seed)) for seed in (1, 2))
    shard = open_shard(first)
    upsert(shard, [0], random_vectors(1))
    shard.close()
    with pytest.raises(CorruptIndexError, match="another build"):
        open_shard(second)
    open_shard(first)
