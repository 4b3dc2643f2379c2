from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from serving.index.operations import (
    MAX_EFFORT,
    MAX_K,
    Asked,
    MalformedRequestError,
    group_searches,
    read_filter,
    read_request,
)

DIM = 4
ONE = np.ones((1, DIM), np.float32)
TWO = np.ones((2, DIM), np.float32)
IDS = np.array([[1], [2]])

Tensors = Mapping[str, np.ndarray[Any, Any]]


def search(**changed: object) -> Asked:
    return read_request({"op": "search", "k": 5, **changed}, {"vectors": TWO}, DIM)


def test_a_request_is_read_as_values() -> None:
    asked = search(effort=3)
    assert (asked.operation, asked.k, asked.effort, asked.vectors.shape) == ("search", 5, 3, (2, 4))
    asked = read_request({"op": "upsert", "version_ns": 7}, {"ids": IDS, "vectors": TWO}, DIM)
    assert (asked.ids.tolist(), asked.version_ns) == ([1, 2], 7)


@pytest.mark.parametrize(
    ("parameters", "tensors", "words"),
    [
        ({}, {"vectors": ONE}, "unknown operation None"),
        ({"op": "drop"}, {"vectors": ONE}, "unknown operation 'drop'"),
        ({"op": ["search"]}, {"vectors": ONE}, "unknown operation"),
        ({"op": "search", "k": 1}, {"ids": IDS}, "search without vectors"),
        ({"op": "lookup"}, {"vectors": ONE}, "lookup without ids"),
        ({"op": "delete"}, {"vectors": ONE}, "delete without ids"),
        ({"op": "upsert"}, {"ids": IDS}, "upsert without vectors"),
        ({"op": "upsert"}, {"vectors": ONE}, "upsert without ids"),
        ({"op": "upsert"}, {"ids": IDS, "vectors": ONE}, "2 ids and 1 vectors"),
        ({"op": "upsert"}, {"ids": np.array([[-1]]), "vectors": ONE}, "id -1 is negative"),
        ({"op": "search", "k": 1}, {"vectors": np.ones((1, 3), np.float32)}, "4 components"),
        ({"op": "search", "k": 1}, {"vectors": np.ones(4, np.float32)}, "4 components"),
        ({"op": "search", "k": 1}, {"vectors": ONE * np.nan}, "NaN or infinite"),
        ({"op": "search", "k": 1}, {"vectors": ONE * np.inf}, "NaN or infinite"),
        ({"op": "search"}, {"vectors": ONE}, "k is 0"),
        ({"op": "search", "k": MAX_K + 1}, {"vectors": ONE}, "k is 1001"),
        ({"op": "search", "k": -1}, {"vectors": ONE}, "k is -1"),
        ({"op": "search", "k": True}, {"vectors": ONE}, "k is True"),
        ({"op": "search", "k": "5"}, {"vectors": ONE}, "k is '5'"),
        ({"op": "search", "k": 5.0}, {"vectors": ONE}, "k is 5.0"),
        ({"op": "search", "k": 1, "effort": MAX_EFFORT + 1}, {"vectors": ONE}, "effort is"),
        ({"op": "delete", "version_ns": 2**63}, {"ids": IDS}, "version_ns is"),
        ({"op": "freeze", "seconds": -1}, {"ids": IDS}, "seconds is -1"),
        (
            {"op": "search", "k": 1},
            {"vectors": TWO, "filter": np.array([[b""]], object)},
            "1 filters and 2 vectors",
        ),
        (
            {"op": "search", "k": 1},
            {"vectors": ONE, "filter": np.array([[b"1234567"]], object)},
            "no array of int64",
        ),
    ],
)
def test_a_malformed_request_is_refused_in_words(
    parameters: dict[str, object], tensors: Tensors, words: str
) -> None:
    with pytest.raises(MalformedRequestError, match=words):
        read_request(parameters, tensors, DIM)


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just([1]))
PARAMETERS = st.dictionaries(
    st.sampled_from(["op", "k", "effort", "version_ns", "seconds", "other"]),
    st.one_of(VALUES, st.sampled_from(["search", "lookup", "upsert", "delete", "status"])),
)
ANY_TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "vectors": st_numpy.arrays(np.float32, st_numpy.array_shapes(max_dims=3, min_side=0)),
        "ids": st_numpy.arrays(np.int64, st_numpy.array_shapes(max_dims=2, min_side=0)),
        "filter": st.lists(st.binary(max_size=17), max_size=3).map(
            lambda values: np.array([*values, b""], dtype=object)[:-1].reshape(-1, 1)
        ),
    },
)


@given(parameters=PARAMETERS, tensors=ANY_TENSORS)
def test_whatever_is_sent_is_read_or_refused(
    parameters: dict[str, object], tensors: Tensors
) -> None:
    try:
        asked = read_request(parameters, tensors, DIM)
    except MalformedRequestError:
        return
    assert asked.vectors.shape[1] == DIM
    if asked.operation == "search":
        assert len(asked.vectors)
        assert len(asked.filters) in (0, len(asked.vectors))
        assert 1 <= asked.k <= MAX_K
    if asked.operation == "upsert":
        assert len(asked.ids) == len(asked.vectors) > 0


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_a_filter_is_the_ids_that_were_sent(ids: list[int]) -> None:
    found = read_filter(np.array(ids, dtype="<i8").tobytes())
    assert found is not None
    assert found.tolist() == ids


def test_a_filter_without_bytes_is_none() -> None:
    assert read_filter(b"") is None


def test_a_search_is_plain_unless_one_of_its_queries_has_a_filter() -> None:
    assert search().is_plain_search
    for contents, plain in (([b"", b""], True), ([b"", bytes(8)], False)):
        filters = np.array(contents, dtype=object).reshape(-1, 1)
        tensors = {"vectors": TWO, "filter": filters}
        assert read_request({"op": "search", "k": 1}, tensors, DIM).is_plain_search == plain
    assert not read_request({"op": "lookup"}, {"ids": IDS}, DIM).is_plain_search


@given(st.lists(st.integers(0, 3), max_size=20))
def test_searches_are_grouped_by_effort_in_their_order(efforts: list[int]) -> None:
    asked = [(number, search(effort=effort)) for number, effort in enumerate(efforts)]
    groups = [*group_searches(asked)]
    assert all(len({a.effort for _, a in group}) == 1 for group in groups)
    assert sorted(n for group in groups for n, _ in group) == [*range(len(efforts))]
    assert all([n for n, _ in group] == sorted(n for n, _ in group) for group in groups)
    assert len(groups) == len(set(efforts))
