import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.errors import CorruptIndexError, IndexBusyError
from serving.index import shard as shard_module
from serving.index.layout import Layout
from serving.index.metric import Ids, Metric, Vectors
from serving.index.shard import Shard
from serving.index.state import State

RandomVectors = Callable[..., Vectors]
MakeGeneration = Callable[..., Path]
OpenShard = Callable[..., Shard]
MakeSegment = Callable[[Shard, list[Path], Path], None]
CompactNow = Callable[[Shard], None]

DIM, ROWS = 8, 200
NOTHING: Vectors = np.empty((0, 0), np.float32)
LAYOUTS = [
    Layout(kind="flat"),
    Layout(kind="hnsw", links=16, effort=400),
    Layout(kind="ivf-flat", lists=4, effort=4),
    Layout(kind="ivf-flat", lists=4, effort=4, on_disk=True),
    Layout(kind="ivf-sq8", lists=4, effort=4, rescore=8),
    Layout(kind="ivf-rabitq", lists=4, effort=4, rescore=40, on_disk=True),
]


def name_of(layout: Layout) -> str:
    return layout.words.replace(", ", "-").replace(" ", "-")


@pytest.fixture(scope="module")
def base_rows(random_vectors: RandomVectors) -> dict[int, Vectors]:
    """The rows of the generations below by id: every third number."""
    return {3 * at: row for at, row in enumerate(random_vectors(600))}


@pytest.fixture(scope="module")
def flat(base_rows: dict[int, Vectors], make_generation: MakeGeneration) -> Path:
    """A generation of one flat shard."""
    return make_generation(np.stack([*base_rows.values()]), np.array([*base_rows]))


def upsert(shard: Shard, ids: list[int], vectors: Vectors, version_ns: int = 1) -> int:
    return shard.write([("upsert", version_ns, np.array(ids), vectors)])


def delete(shard: Shard, ids: list[int], version_ns: int = 1) -> int:
    return shard.write([("delete", version_ns, np.array(ids), NOTHING)])


def exact(rows: dict[int, Vectors], query: Vectors, k: int, metric: Metric) -> list[int]:
    """Ids of the best k, by plain arithmetic."""
    matrix = np.stack([*rows.values()]).astype(np.float64)
    scores = -matrix @ query if metric == "inner_product" else ((matrix - query) ** 2).sum(axis=1)
    ids: Ids = np.array([*rows])
    return ids[np.argsort(scores, kind="stable")[:k]].tolist()


def check_holds(shard: Shard, rows: dict[int, Vectors], gone: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    """The shard looks up and counts these rows bit for bit, and none of those that are gone."""
    found_rows, found = shard.lookup(np.array([*rows], dtype=np.int64))
    assert found.all()
    np.testing.assert_array_equal(found_rows, np.stack([*rows.values()]))
    assert not shard.lookup(np.array(sorted(gone - rows.keys()), dtype=np.int64))[1].any()
    assert shard.counts().rows == len(rows)


def check_searches(shard: Shard, rows: dict[int, Vectors], k: int = 10) -> None:
    """It finds what is best of these rows, all of them together and among some."""
    queries = np.random.default_rng(99).normal(size=(3, DIM)).astype(np.float32)
    metric = shard.generation.metric
    expected = [exact(rows, query, k, metric) for query in queries]
    assert shard.search(queries, k).ids[:, : len(rows)].tolist() == expected
    some = {row_id: row for row_id, row in rows.items() if row_id % 5 < 2}
    among = np.array([*some, 10**9], dtype=np.int64)
    if some:
        found = shard.search_among(queries[0], among, k).ids[0]
        assert found[found >= 0].tolist() == exact(some, queries[0], k, metric)


# Reading and writing


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


@dataclass
class Model:
    """What a shard should hold: rows, and the version of the last write of each id."""

    rows: dict[int, Vectors]
    versions: dict[int, int] = field(default_factory=dict)

    def write(self, row_id: int, version_ns: int, row: Vectors | None) -> None:
        if version_ns < self.versions.get(row_id, version_ns):
            return
        self.versions[row_id] = version_ns
        self.rows.pop(row_id, None)
        if row is not None:
            self.rows[row_id] = row


WRITTEN = st.lists(st.integers(0, 40), min_size=1, max_size=6)
STEPS = st.one_of(
    st.tuples(st.just("upsert"), WRITTEN, st.integers(0, 9)),
    st.tuples(st.just("delete"), WRITTEN, st.integers(0, 9)),
    st.tuples(st.sampled_from(["begin", "adopt", "abandon", "reopen"])),
)


@given(steps=st.lists(STEPS, max_size=25), seed=st.integers(0, 2**32 - 1))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_it_holds_what_was_written_through_any_compactions_and_restarts(
    small: Path, make_segment: MakeSegment, steps: list[tuple[object, ...]], seed: int
) -> None:
    chosen = np.random.default_rng(seed)
    with ExitStack() as opened:
        state = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        shard = Shard(small, 0, state)
        opened.callback(lambda: shard.close())
        rows, _ = shard.lookup(np.arange(0, 40, 2))
        model = Model(dict(zip(range(0, 40, 2), rows, strict=True)))
        compaction = None
        for step, *values in steps:
            match step:
                case "upsert" | "delete":
                    ids, version_ns = values
                    assert isinstance(ids, list)
                    assert isinstance(version_ns, int)
                    vectors = chosen.normal(size=(len(ids), DIM)).astype(np.float32)
                    for row_id, row in zip(ids, vectors, strict=True):
                        model.write(row_id, version_ns, row if step == "upsert" else None)
                    given = vectors if step == "upsert" else NOTHING
                    shard.write([(step, version_ns, np.array(ids), given)])
                case "begin" if compaction is None:
                    compaction = shard.begin_compaction()
                case "adopt" if compaction is not None:
                    make_segment(shard, *compaction)
                    shard.adopt(compaction[1])
                    compaction = None
                case "abandon" if compaction is not None:
                    shard.abandon_compaction()
                    compaction = None
                case "reopen":
                    shard.close()
                    shard = Shard(small, 0, state)
                    compaction = None
            check_holds_exactly(shard, model)
        shard.close()
        shard = Shard(small, 0, state)
        check_holds_exactly(shard, model)


def check_holds_exactly(shard: Shard, model: Model) -> None:
    rows, found = shard.lookup(np.arange(41))
    assert set(np.flatnonzero(found).tolist()) == model.rows.keys()
    for row_id, row in model.rows.items():
        np.testing.assert_array_equal(rows[row_id], row)
    assert shard.counts().rows == len(model.rows)
    if model.rows:
        check_searches(shard, model.rows)


@pytest.fixture(scope="module")
def small(make_generation: MakeGeneration, random_vectors: RandomVectors) -> Path:
    """A flat generation of the even ids below 40."""
    return make_generation(random_vectors(20, seed=7), np.arange(0, 40, 2), metric="l2")


# Searching, by layout


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=name_of)
def test_every_layout_finds_what_is_there_and_nothing_else(
    make_generation: MakeGeneration,
    random_vectors: RandomVectors,
    open_shard: OpenShard,
    compact_now: CompactNow,
    layout: Layout,
    metric: Metric,
) -> None:
    base = random_vectors(400, seed=2)
    rows = dict(enumerate(base))
    shard = open_shard(make_generation(base, layout=layout, metric=metric))
    new = random_vectors(30, seed=3)
    ids = [*range(15), *range(1000, 1015)]
    upsert(shard, ids, new)
    gone = set(range(0, 400, 4)) - {0, 4, 8, 12} | {1, 1001}
    delete(shard, sorted(gone))
    rows |= dict(zip(ids, new, strict=True))
    rows = {row_id: row for row_id, row in rows.items() if row_id not in gone}
    for _ in range(2):
        check_holds(shard, rows, gone)
        if layout.kind == "ivf-sq8":  # rescored, but from what coarse codes put first
            query = random_vectors(1, seed=4)
            found = shard.search(query, 10).ids[0].tolist()
            assert len(set(found) & set(exact(rows, query[0], 10, metric))) >= 9
        else:
            check_searches(shard, rows)
        everything = shard.search(random_vectors(1, seed=4), 500).ids[0]
        assert not gone & set(everything.tolist())
        compact_now(shard)


@pytest.mark.parametrize("layout", LAYOUTS, ids=name_of)
def test_a_filter_of_many_ids_finds_the_best_of_those_that_live(
    make_generation: MakeGeneration,
    random_vectors: RandomVectors,
    open_shard: OpenShard,
    monkeypatch: pytest.MonkeyPatch,
    layout: Layout,
) -> None:
    monkeypatch.setattr(shard_module, "SMALL_FILTER", 20)
    base = random_vectors(400, seed=2)
    shard = open_shard(make_generation(base, layout=layout, metric="l2"))
    delete(shard, list(range(0, 400, 10)))
    new = random_vectors(2, seed=8)
    upsert(shard, [7, 500], new)
    rows = dict(enumerate(base)) | {7: new[0], 500: new[1]}
    rows = {i: row for i, row in rows.items() if i % 10 or i == 500}
    query = random_vectors(1, seed=9)[0]
    for among in (np.arange(100, 300), np.array([5, 7, 500, 10, 9999]), np.arange(0, 600)):
        allowed = {i: rows[i] for i in among.tolist() if i in rows}
        found = shard.search_among(query, among, 5).ids[0]
        assert found[found >= 0].tolist() == exact(allowed, query, 5, "l2")


def test_a_filter_may_name_ids_twice_or_none_that_is_there(
    flat: Path, base_rows: dict[int, Vectors], open_shard: OpenShard
) -> None:
    shard = open_shard(flat)
    query = base_rows[9]
    assert shard.search_among(query, np.array([9, 9, 3, 3]), 4).ids[0, 2:].tolist() == [-1, -1]
    assert shard.search_among(query, np.array([1, -1, 10**15]), 2).ids.tolist() == [[-1, -1]]
    assert shard.search_among(query, np.array([], dtype=np.int64), 2).ids.tolist() == [[-1, -1]]


def test_rescoring_gives_exact_scores_in_place_of_those_of_codes(
    make_generation: MakeGeneration, random_vectors: RandomVectors, open_shard: OpenShard
) -> None:
    base, query = random_vectors(400, seed=2), random_vectors(1, seed=4)
    layout = Layout(kind="ivf-rabitq", lists=4, effort=4, rescore=100)
    hits = open_shard(make_generation(base, layout=layout, metric="l2")).search(query, 5)
    expected = exact(dict(enumerate(base)), query[0], 5, "l2")
    assert hits.ids[0].tolist() == expected
    distances = ((base[expected] - query) ** 2).sum(axis=1)
    np.testing.assert_allclose(hits.scores[0], distances, rtol=1e-5)


def test_more_effort_looks_into_more_lists(
    make_generation: MakeGeneration, random_vectors: RandomVectors, open_shard: OpenShard
) -> None:
    base, query = random_vectors(2_000, seed=2), random_vectors(1, seed=4)
    layout = Layout(kind="ivf-flat", lists=32, effort=1)
    shard = open_shard(make_generation(base, layout=layout))
    found = [int((shard.search(query, 1000, effort).ids >= 0).sum()) for effort in (0, 1, 8, 10**6)]
    assert found[0] == found[1] < found[2] < found[3] == 1000
    assert shard.search(query, 3, 32).ids[0].tolist() == exact(
        dict(enumerate(base)), query[0], 3, "inner_product"
    )


def test_a_shard_without_a_row_answers_and_takes_writes(
    make_generation: MakeGeneration,
    random_vectors: RandomVectors,
    open_shard: OpenShard,
    compact_now: CompactNow,
) -> None:
    generation = make_generation(random_vectors(1), np.array([0]), shards=2)  # 0 is on shard 0
    shard = open_shard(generation, 1)
    query = random_vectors(2, seed=1)
    assert shard.search(query, 3).ids.tolist() == [[-1] * 3] * 2
    assert shard.search_among(query[0], np.array([0, 1]), 2).ids.tolist() == [[-1, -1]]
    assert shard.lookup(np.array([0, 1]))[1].tolist() == [False, False]
    upsert(shard, [1], query[:1])
    assert shard.search(query, 1).ids.tolist() == [[1], [1]]
    delete(shard, [1])
    compact_now(shard)
    assert shard.counts().rows == 0
    assert shard.search(query, 1).ids.tolist() == [[-1], [-1]]


# Compaction


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


# What is refused


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
