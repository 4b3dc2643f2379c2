"""Answers of the index as JSON. Each says how whole it is. Pure functions of values."""

from typing import Any

import numpy as np
import orjson

from serving.gateway.index_answer import Searched
from serving.index.answers import Rows
from serving.index.metric import NO_ID, Ids
from serving.index.placement import Placement


def search_reply(searched: Searched) -> bytes:
    """A list of results per query, best first; fewer than k where there are no more."""
    found, placement = searched.found, searched.placement
    data = [
        {"object": "search_results", "index": number, "results": results_of(searched, number)}
        for number in range(len(found.hits.ids))
    ]
    about = {
        "source": "index",
        "degraded": found.coverage < 1,
        "coverage": found.coverage,
        "missing_shards": found.missing,
        "index": placement.index,
        "generation": found.generation,
        "metric": placement.metric,
    }
    usage = {"prompt_tokens": searched.tokens, "total_tokens": searched.tokens}
    return dumps({"object": "list", "data": data, "usage": usage, "farshore": about})


def results_of(searched: Searched, number: int) -> list[dict[str, Any]]:
    """The results of one query; a vector is null where the row is gone since, or its shard is."""
    hits = searched.found.hits
    here = np.flatnonzero(hits.ids[number] != NO_ID)
    results: list[dict[str, Any]] = [
        {"id": int(hits.ids[number, at]), "score": float(hits.scores[number, at])} for at in here
    ]
    if searched.vectors is not None:
        for result, at in zip(results, here, strict=True):
            known = searched.vectors.known[number, at]
            result["vector"] = searched.vectors.vectors[number, at] if known else None
    return results


def lookup_reply(ids: Ids, rows: Rows, placement: Placement) -> bytes:
    """One entry per id: its vector, null when there is none; `found` is null when its shard is missing."""
    data = [
        {
            "object": "row",
            "id": int(row_id),
            "found": bool(rows.found[at]) if rows.asked[at] else None,
            "vector": rows.vectors[at] if rows.found[at] else None,
        }
        for at, row_id in enumerate(ids)
    ]
    about = {
        "source": "index",
        "degraded": rows.coverage < 1,
        "coverage": rows.coverage,
        "index": placement.index,
        "generation": rows.generation,
    }
    return dumps({"object": "list", "data": data, "farshore": about})


def write_reply(key: str, count: int, placement: Placement) -> bytes:
    """How many rows were written."""
    return dumps({key: count, "farshore": {"index": placement.index}})


def dumps(value: object) -> bytes:
    """JSON, with arrays of NumPy as lists."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
