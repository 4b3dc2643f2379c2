import numpy as np
import pytest

from serving.index.check import problem_of_ids, problem_of_vectors
from serving.index.metric import Metric


def vectors(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_finite_vectors_of_some_length_have_no_problem(metric: Metric) -> None:
    assert problem_of_vectors(vectors([1, 2], [-3, 1e-3], [1e18, 0]), 2, metric) is None
    assert problem_of_vectors(np.empty((0, 2), np.float32), 2, metric) is None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([float("nan"), 1], "vector 1 holds NaN"),
        ([float("nan"), float("inf")], "vector 1 holds NaN"),
        ([1, float("inf")], "vector 1 holds an infinite component"),
        ([float("-inf"), float("inf")], "vector 1 holds an infinite component"),
        ([3e38, 3e38], "vector 1 is too long"),
    ],
)
@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_the_first_vector_that_cannot_be_indexed_is_named_with_its_reason(
    row: list[float], words: str, metric: Metric
) -> None:
    assert words in str(problem_of_vectors(vectors([1, 1], row, [float("nan"), 0]), 2, metric))


def test_a_zero_vector_is_a_problem_of_the_inner_product_alone() -> None:
    rows = vectors([1, 1], [0, 0])
    assert "vector 1 is zero" in str(problem_of_vectors(rows, 2, "inner_product"))
    assert problem_of_vectors(rows, 2, "l2") is None


@pytest.mark.parametrize("shape", [(3, 1), (3, 3)])
def test_another_number_of_components_is_told(shape: tuple[int, int]) -> None:
    words = f"vectors have {shape[1]} components and 2 are needed"
    assert problem_of_vectors(np.ones(shape, np.float32), 2, "l2") == words


def test_negative_ids_are_a_problem() -> None:
    assert problem_of_ids(np.array([0, 5, 2**63 - 1])) is None
    assert "id -7 is negative" in str(problem_of_ids(np.array([0, -7, -1])))
