import numpy as np
import pytest

from serving.index import faiss_index
from serving.index.metric import NO_ID, Metric, best_first, exact_scores


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_exact_scores_are_those_of_faiss(metric: Metric) -> None:
    chosen = np.random.default_rng(0)
    queries = chosen.normal(size=(3, 16)).astype(np.float32)
    rows = chosen.normal(size=(50, 16)).astype(np.float32)
    positions, scores = faiss_index.brute_force(queries, rows, 50, metric)
    ours = exact_scores(queries, rows[positions], metric)
    np.testing.assert_allclose(ours, scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("metric", "order"), [("inner_product", [2, 0, 3, 1]), ("l2", [0, 3, 2, 1])]
)
def test_equal_scores_stand_by_id_and_missing_ones_last(metric: Metric, order: list[int]) -> None:
    ids, scores = np.array([[4, NO_ID, 1, 9]]), np.array([[1.0, 7.0, 2.0, 1.0]], np.float32)
    assert best_first(ids, scores, metric).tolist() == [order]
