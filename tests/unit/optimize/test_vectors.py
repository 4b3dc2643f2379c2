import numpy as np
import pytest

from models.triton.text_encoder.vectors import compress
from optimize.vectors import CANDIDATES, as_sent, expand, rescore, search, vector_figures

QUESTIONS, DOCUMENTS, DIM = 200, 400, 64
KINDS = ("fp32", "fp16", "int8", "binary")


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def documents() -> np.ndarray:
    return unit(np.random.default_rng(0).normal(size=(DOCUMENTS, DIM)))


@pytest.fixture(scope="module")
def relevant() -> np.ndarray:
    return np.random.default_rng(1).integers(0, DOCUMENTS, QUESTIONS)


@pytest.fixture(scope="module")
def questions(documents: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Each near its document, but not so near that every format finds it first."""
    noise = np.random.default_rng(2).normal(size=(QUESTIONS, DIM)) / 4
    return unit(documents[relevant] + noise)


@pytest.mark.parametrize(
    ("kind", "dtype", "size_bytes"),
    [
        ("fp32", np.float32, 4 * DIM),
        ("fp16", np.float16, 2 * DIM),
        ("int8", np.int8, DIM),
        ("binary", np.uint8, DIM // 8),
    ],
)
def test_each_kind_has_its_type_and_its_size(kind, dtype, size_bytes, documents):
    stored = compress(documents, kind)
    assert stored.dtype == dtype
    assert stored.nbytes == size_bytes * DOCUMENTS


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_stored_numbers_come_back_within_half_a_step(kind, documents):
    steps = {"fp32": 0, "fp16": 2**-11, "int8": 1 / 127}
    error = np.abs(expand(compress(documents, kind), kind) - documents).max()
    assert error <= steps[kind] / 2 + 1e-7


@pytest.mark.parametrize("dim", [64, 60])
def test_signs_come_back_as_one_and_minus_one_whatever_fills_the_last_byte(dim, documents):
    cut = documents[:, :dim]
    assert as_sent(cut, "binary").tolist() == np.where(cut > 0, 1, -1).tolist()


def test_signs_are_ordered_by_inner_product_as_by_hamming_distance(documents, questions):
    found = search(questions, compress(documents, "binary"), "binary", 10)
    products = as_sent(questions, "binary") @ as_sent(documents, "binary").T
    best = np.sort(products, axis=1)[:, ::-1][:, :10]
    np.testing.assert_array_equal(np.take_along_axis(products, found, axis=1), best)


def test_the_largest_components_of_a_unit_vector_fit_into_int8():
    assert compress(np.array([[1.0, -1.0]], dtype=np.float32), "int8").tolist() == [[127, -127]]


def test_binary_vectors_keep_the_signs_first_dimension_first():
    vector = np.array([[1, -1, 1, 1, -1, -1, -1, -1]], dtype=np.float32)
    assert compress(vector, "binary").tolist() == [[0b10110000]]


def test_an_unknown_kind_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="use fp32, fp16, int8 or binary"):
        compress(np.ones((1, 8), dtype=np.float32), "int4")


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_is_its_own_best_match(kind, documents):
    found = search(documents[:50], compress(documents, kind), kind, 5)
    assert found.shape == (50, 5)
    assert found[:, 0].tolist() == list(range(50))


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_deeper_than_the_store_returns_all_of_it(kind, documents):
    found = search(documents[:2], compress(documents[:3], kind), kind, 10)
    assert sorted(found[0].tolist()) == [0, 1, 2]


def test_rescoring_orders_candidates_by_their_inner_product(documents, questions):
    candidates = np.random.default_rng(3).permuted(
        np.tile(np.arange(DOCUMENTS), (QUESTIONS, 1)), axis=1
    )
    ordered = rescore(questions, compress(documents, "fp32"), "fp32", candidates)
    scores = np.take_along_axis(questions @ documents.T, ordered, axis=1)
    assert (np.diff(scores, axis=1) <= 1e-6).all()


def test_figures_show_what_binary_costs_and_that_rescoring_wins_it_back(
    questions, documents, relevant
):
    figures = {
        (f.stored_as, f.rescored_with): f for f in vector_figures(questions, documents, relevant)
    }
    quality = {layout: f.quality["ndcg@10"].value for layout, f in figures.items()}
    assert quality["fp16", None] == pytest.approx(quality["fp32", None], abs=0.005)
    assert quality["int8", None] == pytest.approx(quality["fp32", None], abs=0.01)
    assert quality["binary", None] < quality["binary", "int8"]
    assert quality["binary", "fp32"] <= quality["fp32", None] + 1e-9
    assert figures["binary", "int8"].bytes_per_vector == DIM // 8 + DIM
    assert figures["binary", "int8"].rescored == CANDIDATES
    assert figures["binary", None].rescored is None


def test_dimensions_that_do_not_fill_bytes_have_no_binary_figures(questions, documents, relevant):
    cut = unit(questions[:, :60]), unit(documents[:, :60])
    assert {f.stored_as for f in vector_figures(*cut, relevant)} == {"fp32", "fp16", "int8"}
