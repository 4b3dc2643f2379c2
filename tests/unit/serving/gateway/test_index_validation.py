import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import InvalidRequestError, ModelNotFoundError, RequestError
from serving.gateway.index_validation import (
    LARGEST_ID,
    MAX_FILTER_IDS,
    IndexRules,
    ValidSearch,
    validate_delete,
    validate_lookup,
    validate_search,
    validate_upsert,
)
from serving.gateway.validation import Rules
from serving.index.operations import MAX_BATCH, MAX_K

RULES = Rules(model="search", output_dim=3, max_tokens=256, max_texts=2048, max_text_bytes=100)
INDEX = IndexRules(dim=3, metric="inner_product")
L2 = IndexRules(dim=3, metric="l2")
ROW = [0.1, 0.2, 0.3]

# By route: a body that is accepted, and what reads it.
ROUTES: dict[str, tuple[dict[str, object], Callable[[bytes], object]]] = {
    "search": ({"vectors": ROW}, lambda raw: validate_search(raw, RULES, INDEX)),
    "lookup": ({"ids": [1, 2]}, validate_lookup),
    "upsert": ({"ids": [1], "vectors": ROW}, lambda raw: validate_upsert(raw, INDEX)),
    "delete": ({"ids": [1, 2]}, validate_delete),
}


def search(index: IndexRules = INDEX, **fields: object) -> ValidSearch:
    return validate_search(json.dumps(fields).encode(), RULES, index)


def refusal(route: str, **fields: object) -> RequestError:
    with pytest.raises(RequestError) as refused:
        ROUTES[route][1](json.dumps(fields).encode())
    return refused.value


def test_a_search_says_what_it_leaves_out():
    valid = search(input="hello")
    assert (valid.texts, valid.vectors, valid.k, valid.effort) == (["hello"], None, 10, 0)
    assert (valid.among, valid.include_vectors, valid.truncate) == (None, False, False)


def test_a_search_carries_what_it_says():
    valid = search(
        vectors=[ROW, [1, 2, 3]], k=7, effort=9, ids=[3, 1, 3], include_vectors=True, model="search"
    )
    assert valid.vectors.tolist() == np.array([ROW, [1, 2, 3]], np.float32).tolist()
    assert valid.vectors.dtype == np.float32
    assert valid.among.tolist() == [3, 1, 3]
    assert (valid.k, valid.effort, valid.include_vectors) == (7, 9, True)


def test_one_vector_is_a_list_of_one():
    assert search(vectors=ROW).vectors.shape == (1, 3)


def test_null_is_as_good_as_left_out():
    assert search(vectors=ROW, input=None, ids=None, model=None).texts == []


@pytest.mark.parametrize("route", ["lookup", "delete"])
def test_ids_keep_their_order_and_their_duplicates(route: str):
    raw = json.dumps({"ids": [LARGEST_ID, 0, LARGEST_ID]}).encode()
    ids = ROUTES[route][1](raw)
    assert ids.tolist() == [LARGEST_ID, 0, LARGEST_ID]
    assert ids.dtype == np.int64


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not valid JSON"),
        (b'{"ids": [1', "not valid JSON"),
        (b'{"ids": [NaN]}', "not valid JSON"),
        (b'{"ids": [Infinity]}', "not valid JSON"),
        (b'{"vectors": [1e999]}', "not valid JSON"),
        (b'{"ids": "\xff"}', "not UTF-8"),
        (b'{"input": "\\ud800"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"ids": ' + b"[" * 1100 + b"]" * 1100 + b"}", "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'"ids"', "must be a JSON object"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(route: str, raw: bytes, words: str):
    with pytest.raises(InvalidRequestError, match=words):
        ROUTES[route][1](raw)


@pytest.mark.parametrize("route", ROUTES)
def test_an_unknown_field_is_refused_with_the_fields_that_exist(route: str):
    error = refusal(route, **ROUTES[route][0], id=3)
    assert (error.param, error.code) == ("id", "unknown_parameter")
    assert ", ".join(ROUTES[route][0]) in str(error) or "vectors" in str(error)


@pytest.mark.parametrize(
    ("route", "field"),
    [("lookup", "ids"), ("delete", "ids"), ("upsert", "ids"), ("upsert", "vectors")],
)
def test_a_missing_field_is_named(route: str, field: str):
    fields = {name: value for name, value in ROUTES[route][0].items() if name != field}
    assert refusal(route, **fields).param == field


@pytest.mark.parametrize("route", ["lookup", "delete", "upsert", "search"])
@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([], "at least one whole number"),
        (3, "at least one whole number"),
        ("1,2", "at least one whole number"),
        ({"1": 2}, "at least one whole number"),
        ([1, -1], "ids[1] is no whole number from 0"),
        ([2**63], "ids[0] is no whole number from 0"),
        ([2**64], "ids[0] is no whole number from 0"),
        ([10**30], "ids[0] is no whole number from 0"),
        ([1.0], "ids[0] is no whole number from 0"),
        ([True], "ids[0] is no whole number from 0"),
        (["1"], "ids[0] is no whole number from 0"),
        ([None], "ids[0] is no whole number from 0"),
        ([[1]], "ids[0] is no whole number from 0"),
    ],
)
def test_ids_that_are_none_are_refused_by_their_place(route: str, ids: object, words: str):
    error = refusal(route, **ROUTES[route][0] | {"ids": ids})
    assert error.param == "ids"
    assert words in str(error)


@pytest.mark.parametrize("route", ["upsert", "search"])
@pytest.mark.parametrize(
    ("vectors", "words", "code"),
    [
        ([], "a vector or a list of vectors", None),
        (1.5, "a vector or a list of vectors", None),
        ("0.1", "a vector or a list of vectors", None),
        ({"0": ROW}, "a vector or a list of vectors", None),
        ([[]], "vectors[0] has 0 components and the index has 3", "wrong_dimension"),
        ([0.1, 0.2], "vectors[0] has 2 components and the index has 3", "wrong_dimension"),
        ([ROW, [1, 2]], "vectors[1] has 2 components and the index has 3", "wrong_dimension"),
        ([ROW, 3], "vectors[1] has no components", "wrong_dimension"),
        ([ROW, None], "vectors[1] has no components", "wrong_dimension"),
        ([3, ROW], "vectors[0] has 2 components", "wrong_dimension"),
        ([0.1, 0.2, "0.3"], "vectors[0] holds something that is no number", None),
        ([0.1, 0.2, None], "vectors[0] holds something that is no number", None),
        ([0.1, 0.2, True], "vectors[0] holds something that is no number", None),
        ([[0.1, 0.2, [0.3]]], "vectors[0] holds something that is no number", None),
        ([0, 0, 0.0], "vector 0 is zero", None),
        ([ROW, [1e39, 0, 0]], "vector 1 holds an infinite component", None),
        ([1e30, 0, 0], "vector 0 is too long", None),
        ([2**64, 10**300, 0], "vector 0 holds an infinite component", None),
    ],
)
def test_vectors_that_are_none_are_refused_by_their_place(
    route: str, vectors: object, words: str, code: str | None
):
    error = refusal(route, **{"ids": [1]} | {"vectors": vectors})
    assert (error.param, error.code) == ("vectors", code)
    assert words in str(error)


def test_a_vector_without_direction_has_distances():
    assert search(L2, vectors=[0, 0, 0]).vectors.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("fields", [{}, {"input": "a", "vectors": ROW}, {"k": 3}])
def test_a_search_is_for_texts_or_for_vectors(fields: dict[str, object]):
    assert "`input` (texts) or `vectors`, one of them" in str(refusal("search", **fields))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "input[0] is empty"),
        ([], "empty list"),
        ([1, 2], "token ids are not accepted"),
        (["a", "b\0"], "holds a NUL"),
        ("ä" * 51, "has 102 bytes"),
        (["a"] * 2049, "holds 2049 texts"),
    ],
)
def test_texts_are_held_against_the_rules_of_embeddings(value: object, words: str):
    error = refusal("search", input=value)
    assert error.param == "input"
    assert words in str(error)


def test_another_model_is_not_found_whatever_is_searched_for():
    with pytest.raises(ModelNotFoundError, match="set model to 'search'"):
        search(vectors=ROW, model="other")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("k", value) for value in (0, -1, MAX_K + 1, 2**70, "3", 3.0, True, None, [3])),
        *(("effort", value) for value in (-1, 65_537, "1", 1.5, True, None)),
        *(("include_vectors", value) for value in ("true", 1, None)),
        *(("truncate", value) for value in ("true", 0, None)),
        ("model", 3),
    ],
)
def test_a_field_that_cannot_be_is_named(field: str, value: object):
    error = refusal("search", vectors=ROW, **{field: value})
    assert error.param == field
    assert field in str(error)


@pytest.mark.parametrize(
    ("route", "fields", "code"),
    [
        ("lookup", {"ids": [1] * (MAX_BATCH + 1)}, "too_many_ids"),
        ("delete", {"ids": [1] * (MAX_BATCH + 1)}, "too_many_ids"),
        ("upsert", {"ids": [1] * (MAX_BATCH + 1), "vectors": ROW}, "too_many_ids"),
        ("upsert", {"ids": [1], "vectors": [ROW] * (MAX_BATCH + 1)}, "too_many_vectors"),
        ("search", {"vectors": [ROW] * (MAX_BATCH + 1), "k": 1}, "too_many_vectors"),
        ("search", {"input": ["a"] * (MAX_BATCH + 1), "k": 1}, "too_many_results"),
        ("search", {"vectors": [ROW] * 101, "k": 1000}, "too_many_results"),
        ("search", {"vectors": [ROW] * 2, "k": 513, "include_vectors": True}, "too_many_results"),
        ("search", {"vectors": ROW, "ids": [1] * (MAX_FILTER_IDS + 1)}, "too_many_ids"),
        ("search", {"vectors": [ROW] * 11, "ids": [1] * 91_000}, "too_many_ids"),
    ],
)
def test_what_is_too_much_for_one_request_is_refused(
    route: str, fields: dict[str, object], code: str
):
    error = refusal(route, **fields)
    assert error.code == code
    assert "several" in str(error)


def test_what_is_just_not_too_much_is_accepted():
    assert len(search(vectors=[ROW] * 100, k=1000).vectors) == 100
    assert search(vectors=[ROW] * 2, k=512, include_vectors=True).include_vectors
    assert len(search(vectors=[ROW] * 10, ids=list(range(MAX_FILTER_IDS))).among) == MAX_FILTER_IDS
    assert len(validate_lookup(json.dumps({"ids": [1] * MAX_BATCH}).encode())) == MAX_BATCH


def test_an_upsert_has_one_vector_per_id_and_each_id_once():
    ids, vectors = validate_upsert(json.dumps({"ids": [5, 4], "vectors": [ROW] * 2}).encode(), L2)
    assert (ids.tolist(), vectors.shape) == ([5, 4], (2, 3))
    error = refusal("upsert", ids=[5, 4], vectors=ROW)
    assert (error.param, "2 ids and 1 vectors" in str(error)) == ("vectors", True)
    error = refusal("upsert", ids=[5, 4, 5], vectors=[ROW] * 3)
    assert (error.param, "holds an id twice" in str(error)) == ("ids", True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = ("input", "vectors", "ids", "k", "effort", "model", "include_vectors", "truncate", "more")
PLAUSIBLE = st.lists(st.integers(0, 9) | st.floats(-1, 1), min_size=1, max_size=4)
BODIES = st.dictionaries(
    st.sampled_from(FIELDS), PLAUSIBLE | st.lists(PLAUSIBLE, max_size=3) | JSON, max_size=5
)


@pytest.mark.parametrize("route", ROUTES)
@given(raw=st.binary(max_size=60))
def test_any_bytes_are_answered_by_a_request_error(route: str, raw: bytes):
    with pytest.raises(RequestError):
        ROUTES[route][1](raw)


@pytest.mark.parametrize("route", ROUTES)
@settings(max_examples=400, deadline=None)
@given(fields=BODIES, cut=st.integers(0, 400))
def test_any_json_is_answered_by_arrays_that_shards_take_or_by_a_request_error(
    route: str, fields: dict[str, object], cut: int
):
    raw = json.dumps(fields).encode()
    for body in (raw, raw[:cut], json.dumps(ROUTES[route][0] | fields).encode()):
        try:
            valid = ROUTES[route][1](body)
        except RequestError:
            continue
        check(valid)


def check(valid: object) -> None:
    """Whether what a route accepted is what shards are told that they get."""
    arrays = valid if isinstance(valid, tuple) else (valid,)
    if isinstance(valid, ValidSearch):
        assert 1 <= valid.k <= MAX_K
        assert (valid.vectors is None) == bool(valid.texts)
        arrays = tuple(a for a in (valid.vectors, valid.among) if a is not None)
    for array in arrays:
        if array.dtype == np.float32:
            assert array.shape[1:] == (3,)
            assert np.isfinite(array).all()
        else:
            assert array.dtype == np.int64
            assert array.ndim == 1
            assert (array >= 0).all()
        assert len(array) >= 1
