"""Reading from a shard and writing to it."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from serving.index.metric import Vectors
from tests.unit.serving.index.shards import (
    DIM,
    NOTHING,
    CompactNow,
    MakeSegment,
    OpenShard,
    RandomVectors,
    check_holds,
    check_searches,
    delete,
    upsert,
)


def test_a_new_replica_serves_the_generation(
    flat: Path, base_rows: dict[int, Vectors], open_shard: OpenShard
) -> None:
    shard = open_shard(flat)
    check_holds(shard, base_rows, {1, 2, 1801})
    check_searches(shard, base_rows)
    assert shard.counts().changes == 0


def test_what_is_written_is_seen_at_once_and_after_opening_again(
    flat: Path,
    base_rows: dict[int, Vectors],
    random_vectors: RandomVectors,
    open_shard: OpenShard,
) -> None:
    shard = open_shard(flat)
    new = random_vectors(3, seed=5)
    assert upsert(shard, [0, 1, 10**12], new) == 1
    assert delete(shard, [3, 6, 77_777]) == 2
    rows = base_rows | {0: new[0], 1: new[1], 10**12: new[2]}
    del rows[3], rows[6]
    for _ in range(2):
        check_holds(shard, rows, {3, 6, 77_777})
        check_searches(shard, rows)
        assert shard.counts().sequence == 2
        shard.close()
        shard = open_shard(flat)


def test_several_writes_at_once_hold_in_their_order(flat: Path, open_shard: OpenShard) -> None:
    shard = open_shard(flat)
    one, two = np.ones((1, DIM), np.float32), np.full((1, DIM), 2, np.float32)
    ids = np.array([5])
    sequence = shard.write(
        [("upsert", 1, ids, one), ("delete", 1, ids, NOTHING), ("upsert", 1, ids, two)]
    )
    assert sequence == 3
    assert shard.lookup(ids)[0].tolist() == two.tolist()


def test_of_one_id_that_stands_twice_in_a_write_the_last_row_holds(
    flat: Path, open_shard: OpenShard
) -> None:
    shard = open_shard(flat)
    upsert(shard, [5, 5], np.array([[1] * DIM, [2] * DIM], np.float32))
    assert shard.lookup(np.array([5]))[0][0, 0] == 2
    assert shard.counts().rows == 601


def test_lookup_answers_each_place_even_when_ids_repeat(
    flat: Path, base_rows: dict[int, Vectors], open_shard: OpenShard
) -> None:
    rows, found = open_shard(flat).lookup(np.array([6, 1, 6]))
    assert found.tolist() == [True, False, True]
    np.testing.assert_array_equal(rows, np.stack([base_rows[6], 0 * base_rows[6], base_rows[6]]))


def test_an_older_write_is_ignored_whenever_it_comes(
    flat: Path, open_shard: OpenShard, compact_now: CompactNow
) -> None:
    shard = open_shard(flat)
    new, old = np.ones((2, DIM), np.float32), np.zeros((2, DIM), np.float32)
    upsert(shard, [0, 1], new, version_ns=10)
    delete(shard, [3, 4], version_ns=10)

    def write_older() -> None:
        upsert(shard, [0, 1], old, version_ns=9)
        delete(shard, [0, 1], version_ns=9)
        upsert(shard, [3, 4], old, version_ns=9)

    def check() -> None:
        rows, found = shard.lookup(np.array([0, 1, 3, 4]))
        assert found.tolist() == [True, True, False, False]
        np.testing.assert_array_equal(rows[:2], new)

    write_older()
    check()
    compact_now(shard)
    write_older()
    check()
    compact_now(shard)
    compact_now(shard)
    write_older()
    check()
    shard.close()
    shard = open_shard(flat)
    check()
    write_older()
    check()
    upsert(shard, [3, 4], new, version_ns=10)
    assert shard.lookup(np.array([3, 4]))[1].all()


def test_an_older_write_during_a_compaction_is_ignored_after_opening_again(
    flat: Path, open_shard: OpenShard, make_segment: MakeSegment
) -> None:
    shard = open_shard(flat)
    new, old = np.ones((1, DIM), np.float32), np.zeros((1, DIM), np.float32)
    upsert(shard, [0], new, version_ns=10)
    logs, destination = shard.begin_compaction()
    upsert(shard, [0], old, version_ns=9)
    make_segment(shard, logs, destination)
    shard.adopt(destination)
    for _ in range(2):
        assert shard.lookup(np.array([0]))[0].tolist() == new.tolist()
        shard.close()
        shard = open_shard(flat)


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from serving.index.shard import Shard

shard = Shard(Path(sys.argv[1]), 0, Path(sys.argv[2]))
one = ("upsert", 1, np.array([1]), np.ones((1, 8), np.float32))
many = ("upsert", 1, np.arange(1000, 2000), np.ones((1000, 8), np.float32))
shard.write([one])
before = shard.counts()
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
try:
    shard.write([("delete", 1, np.array([1]), np.empty((0, 0), np.float32)), many])
except OSError as error:
    print(error)
else:
    raise AssertionError("the write was not refused")
assert shard.counts() == before
assert shard.lookup(np.array([1, 1000]))[1].tolist() == [True, False]
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert shard.write([many]) == 2
"""


def test_nothing_is_seen_of_a_write_that_the_disk_refuses(
    flat: Path, open_shard: OpenShard, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-c", FULL_DISK, flat, tmp_path / "state"], check=True)
    shard = open_shard(flat)
    assert shard.counts().sequence == 2
    assert shard.lookup(np.array([1, 1000, 1999]))[1].all()
