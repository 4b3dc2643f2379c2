from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.index.delta import FIRST_CAPACITY, Delta, apply
from serving.index.log import Change
from serving.index.metric import Metric, Vectors

RandomVectors = Callable[..., Vectors]

IDS = st.integers(0, 7)
# (is an upsert, id, version): of few values, so that the same ids meet often.
WRITES = st.lists(st.tuples(st.booleans(), IDS, st.integers(0, 5)), max_size=40)


def change(upserts: bool, row_id: int, version_ns: int, marker: float) -> Change:
    ids = np.array([row_id])
    if upserts:
        return Change("upsert", 0, version_ns, ids, np.array([[marker, 1]], np.float32))
    return Change("delete", 0, version_ns, ids, np.empty((0, 0), np.float32))


def rows_of(deltas: list[Delta]) -> dict[int, float]:
    """Marker by id; fails when an id stands twice."""
    rows: dict[int, float] = {}
    for delta in deltas:
        for row_id, slot in delta.slots.items():
            assert delta.ids[slot] == row_id
            assert row_id not in rows
            rows[row_id] = float(delta.vectors[slot, 0])
    return rows


@given(writes=WRITES, frozen_after=st.integers(0, 40))
def test_of_each_row_the_last_write_with_the_largest_version_holds(
    writes: list[tuple[bool, int, int]], frozen_after: int
) -> None:
    deltas = [Delta(2, "l2")]
    expected: dict[int, tuple[int, float | None]] = {}
    for number, (upserts, row_id, version_ns) in enumerate(writes):
        if number == frozen_after:
            deltas.append(Delta(2, "l2"))
        apply(change(upserts, row_id, version_ns, number), deltas)
        if version_ns >= expected.get(row_id, (0, None))[0]:
            expected[row_id] = (version_ns, float(number) if upserts else None)
    live = {row_id: marker for row_id, (_, marker) in expected.items() if marker is not None}
    assert rows_of(deltas) == live
    touched = {k: max(d.touched.get(k, -1) for d in deltas) for k in expected}
    assert touched == {row_id: version_ns for row_id, (version_ns, _) in expected.items()}


@given(writes=WRITES, order=st.randoms(use_true_random=False))
def test_writes_of_different_versions_end_alike_in_any_order(
    writes: list[tuple[bool, int, int]], order: object
) -> None:
    changes = [change(up, row_id, at, at) for at, (up, row_id, _) in enumerate(writes)]
    ends = []
    for _ in range(2):
        delta = Delta(2, "l2")
        for one in changes:
            apply(one, [delta])
        ends.append((rows_of([delta]), delta.touched))
        order.shuffle(changes)  # type: ignore[attr-defined]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_search_is_exact_over_what_is_left(metric: Metric, random_vectors: RandomVectors) -> None:
    rows, query = random_vectors(50), random_vectors(1, seed=1)
    delta = Delta(8, metric)
    apply(Change("upsert", 1, 1, np.arange(50) * 10, rows), [delta])
    apply(Change("delete", 2, 1, np.arange(0, 500, 20), rows), [delta])
    scores = rows @ query[0] if metric == "inner_product" else -((rows - query) ** 2).sum(axis=1)
    expected = [i * 10 for i in np.argsort(-scores).tolist() if i % 2]
    assert delta.search(query, 25).ids[0].tolist() == expected
    assert delta.search(query, 3).ids[0].tolist() == expected[:3]


def test_search_among_ids_finds_those_alone(random_vectors: RandomVectors) -> None:
    delta = Delta(8, "l2")
    apply(Change("upsert", 1, 1, np.arange(50), random_vectors(50)), [delta])
    among = np.array([3, 4, 999, -1])
    found = delta.search(random_vectors(2, seed=1), 5, among)
    assert sorted(found.ids[0, :2].tolist()) == [3, 4]
    assert (
        delta.search(random_vectors(2, seed=1), 5, np.array([999])).ids.tolist() == [[-1] * 5] * 2
    )


def test_it_grows_past_its_first_capacity(random_vectors: RandomVectors) -> None:
    count = 2 * FIRST_CAPACITY + 1
    rows = random_vectors(count)
    delta = Delta(8, "l2")
    apply(Change("upsert", 1, 1, np.arange(count), rows), [delta])
    assert len(delta) == count
    np.testing.assert_array_equal(delta.vectors[[delta.slots[i] for i in range(count)]], rows)


def test_a_row_that_is_deleted_again_and_again_stays_deleted() -> None:
    delta = Delta(2, "l2")
    for number, upserts in enumerate([True, False, False, True, False]):
        apply(change(upserts, 5, number, number), [delta])
    assert len(delta) == 0
    assert delta.touched == {5: 4}
