import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.index.merge import Hits, merge, no_hits
from serving.index.metric import NO_ID, Ids, Metric, Vectors

# Few values, so that many scores are equal.
SCORES = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 3.0])
METRICS = st.sampled_from(["inner_product", "l2"])


def best(ids: Ids, scores: Vectors, k: int, metric: Metric) -> Hits:
    """The best k of one row of scores, in plain Python: equal ones by id."""
    sign = -1 if metric == "inner_product" else 1
    rows = sorted(
        zip(ids.tolist(), scores.tolist(), strict=True), key=lambda r: (sign * r[1], r[0])
    )
    missing = -np.inf if metric == "inner_product" else np.inf
    rows = (rows + [(NO_ID, missing)] * k)[:k]
    return Hits(
        np.array([[row_id for row_id, _ in rows]], np.int64).reshape(1, k),
        np.array([[score for _, score in rows]], np.float32).reshape(1, k),
    )


@given(
    scores=st.lists(SCORES, max_size=40),
    parts=st.integers(1, 6),
    k=st.integers(1, 50),
    metric=METRICS,
    data=st.data(),
)
def test_the_best_of_all_parts_are_the_best_of_everything(
    scores: list[float], parts: int, k: int, metric: Metric, data: st.DataObject
) -> None:
    ids = np.array(data.draw(st.permutations(range(len(scores)))), dtype=np.int64)
    values = np.array(scores, dtype=np.float32)
    where = ids % parts
    shards = [best(ids[where == part], values[where == part], k, metric) for part in range(parts)]
    merged, expected = merge(shards, k, metric), best(ids, values, k, metric)
    assert merged.ids.tolist() == expected.ids.tolist()
    assert merged.scores.tolist() == expected.scores.tolist()


@pytest.mark.parametrize(("metric", "first"), [("inner_product", 7), ("l2", 5)])
def test_inner_product_keeps_the_largest_and_l2_the_smallest(metric: Metric, first: int) -> None:
    parts = [
        Hits(np.array([[5]]), np.array([[1.0]], np.float32)),
        Hits(np.array([[7]]), np.array([[2.0]], np.float32)),
    ]
    assert merge(parts, 1, metric).ids.tolist() == [[first]]


def test_each_query_is_merged_by_itself() -> None:
    left = Hits(np.array([[1, 2], [3, 4]]), np.array([[9, 1], [2, 1]], np.float32))
    right = Hits(np.array([[5], [6]]), np.array([[5], [8]], np.float32))
    assert merge([left, right], 2, "inner_product").ids.tolist() == [[1, 5], [6, 3]]


@pytest.mark.parametrize(("metric", "worst"), [("inner_product", -np.inf), ("l2", np.inf)])
def test_what_is_missing_stands_last_with_the_worst_score(metric: Metric, worst: float) -> None:
    one = Hits(np.array([[NO_ID, 4]]), np.array([[worst, 0.25]], np.float32))
    merged = merge([no_hits(1, 2, metric), one], 3, metric)
    assert merged.ids.tolist() == [[4, NO_ID, NO_ID]]
    assert merged.scores.tolist() == [[0.25, worst, worst]]
