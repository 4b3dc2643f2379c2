import json
from dataclasses import replace

import numpy as np
import pytest

from serving.gateway.index_answer import ResultVectors, Searched
from serving.gateway.index_reply import lookup_reply, search_reply, write_reply
from serving.index.answers import Found, Rows
from serving.index.merge import Hits
from serving.index.metric import NO_ID
from serving.index.placement import Placement

PLACEMENT = Placement(
    index="passages", generation="g2", dim=2, metric="inner_product", replicas=((), (), (), ())
)
WHOLE = Found(
    hits=Hits(
        ids=np.array([[2**63 - 1, 7, NO_ID], [NO_ID, NO_ID, NO_ID]]),
        scores=np.array([[0.5, -0.25, -np.inf], [-np.inf] * 3], np.float32),
    ),
    generation="g1",
    coverage=1.0,
    missing=(),
)


def searched(found: Found = WHOLE, vectors: ResultVectors | None = None, tokens: int = 0) -> dict:
    return json.loads(search_reply(Searched(found, PLACEMENT, vectors, tokens)))


def test_each_query_has_its_results_best_first_and_none_that_is_not_there():
    reply = searched()
    assert reply["object"] == "list"
    assert reply["data"] == [
        {
            "object": "search_results",
            "index": 0,
            "results": [{"id": 2**63 - 1, "score": 0.5}, {"id": 7, "score": -0.25}],
        },
        {"object": "search_results", "index": 1, "results": []},
    ]


def test_an_answer_says_how_it_was_made():
    assert searched(tokens=5)["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert searched()["farshore"] == {
        "source": "index",
        "degraded": False,
        "coverage": 1.0,
        "missing_shards": [],
        "index": "passages",
        "generation": "g1",
        "metric": "inner_product",
    }


def test_an_answer_of_some_shards_is_degraded_and_names_the_others():
    about = searched(replace(WHOLE, coverage=0.5, missing=(1, 3)))["farshore"]
    assert (about["degraded"], about["coverage"]) == (True, 0.5)
    assert about["missing_shards"] == [1, 3]


def test_vectors_stand_beside_their_results_and_one_that_is_gone_is_null():
    values = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    known = np.array([[True, False, False], [False] * 3])
    results = searched(vectors=ResultVectors(values, known))["data"][0]["results"]
    assert results == [
        {"id": 2**63 - 1, "score": 0.5, "vector": [0.0, 1.0]},
        {"id": 7, "score": -0.25, "vector": None},
    ]


@pytest.mark.parametrize("score", [1e-30, 0.1, 3.4e38, -0.0])
def test_scores_are_the_numbers_of_the_shards(score: float):
    hits = Hits(np.array([[1]]), np.array([[score]], np.float32))
    [result] = searched(replace(WHOLE, hits=hits))["data"][0]["results"]
    assert np.float32(result["score"]) == np.float32(score)


def test_a_row_is_there_or_not_there_or_not_known():
    rows = Rows(
        vectors=np.array([[1, 2], [0, 0], [0, 0]], np.float32),
        found=np.array([True, False, False]),
        asked=np.array([True, True, False]),
        generation="g1",
        coverage=0.75,
    )
    reply = json.loads(lookup_reply(np.array([9, 8, 2**63 - 1]), rows, PLACEMENT))
    assert reply["data"] == [
        {"object": "row", "id": 9, "found": True, "vector": [1.0, 2.0]},
        {"object": "row", "id": 8, "found": False, "vector": None},
        {"object": "row", "id": 2**63 - 1, "found": None, "vector": None},
    ]
    assert reply["farshore"] == {
        "source": "index",
        "degraded": True,
        "coverage": 0.75,
        "index": "passages",
        "generation": "g1",
    }


def test_a_write_is_answered_with_its_rows():
    assert json.loads(write_reply("upserted", 3, PLACEMENT)) == {
        "upserted": 3,
        "farshore": {"index": "passages"},
    }
