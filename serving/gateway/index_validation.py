"""Requests to the index: bytes in, arrays for shards out, or an error that says what to change."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.manifest import Record
from serving.errors import InvalidRequestError
from serving.gateway.index_schemas import (
    DeleteRequest,
    LookupRequest,
    SearchRequest,
    UpsertRequest,
)
from serving.gateway.validation import Rules, check_model, check_texts, parse
from serving.index.check import problem_of_vectors
from serving.index.metric import Ids, Metric, Vectors
from serving.index.operations import MAX_BATCH

MAX_RESULTS = 100_000  # queries times k, of one request
MAX_RESULT_VECTORS = MAX_BATCH  # one lookup fetches them
MAX_FILTER_IDS = 100_000
MAX_FILTER_WORK = 1_000_000  # queries times ids: each query brings its own filter to the shards
LARGEST_ID = 2**63 - 1


class IndexRules(Record):
    """What requests are held against: the index that is served."""

    dim: int
    metric: Metric


@dataclass(frozen=True)
class ValidSearch:
    """Queries as `texts` to embed or as `vectors` [N, dim]; `among` are the only ids that may be found."""

    texts: list[str]
    vectors: Vectors | None
    k: int
    effort: int
    among: Ids | None
    include_vectors: bool
    truncate: bool


def validate_search(body: bytes, rules: Rules, index: IndexRules) -> ValidSearch:
    """Read the body of a search. Raises InvalidRequestError or ModelNotFoundError."""
    request = parse(body, SearchRequest)
    if (request.input is None) == (request.vectors is None):
        raise InvalidRequestError("send `input` (texts) or `vectors`, one of them", param="input")
    if request.model is not None:
        check_model(request.model, rules)
    vectors = None if request.vectors is None else check_vectors(request.vectors, index)
    texts = check_texts(request.input, rules) if vectors is None else []
    queries = len(texts) if vectors is None else len(vectors)
    check_results(queries, request)
    among = None if request.ids is None else check_ids(request.ids, MAX_FILTER_IDS)
    if among is not None and queries * len(among) > MAX_FILTER_WORK:
        raise InvalidRequestError(
            f"{queries} queries among {len(among)} ids: their product may be {MAX_FILTER_WORK}, send "
            "several requests",
            param="ids",
            code="too_many_ids",
        )
    return ValidSearch(
        texts=texts,
        vectors=vectors,
        k=request.k,
        effort=request.effort,
        among=among,
        include_vectors=request.include_vectors,
        truncate=request.truncate,
    )


def check_results(queries: int, request: SearchRequest) -> None:
    """Raises InvalidRequestError when a search asks for more than one answer should hold."""
    results = queries * request.k
    if queries > MAX_BATCH or results > MAX_RESULTS:
        raise InvalidRequestError(
            f"{queries} queries with k {request.k}: one request may ask for {MAX_BATCH} queries and "
            f"{MAX_RESULTS} results, send several",
            param="k",
            code="too_many_results",
        )
    if request.include_vectors and results > MAX_RESULT_VECTORS:
        raise InvalidRequestError(
            f"{queries} queries with k {request.k}: one request may ask for {MAX_RESULT_VECTORS} results "
            "with their vectors, send several or leave `include_vectors` out",
            param="include_vectors",
            code="too_many_results",
        )


def validate_lookup(body: bytes) -> Ids:
    """Read the body of a lookup; the ids [m]. Raises InvalidRequestError."""
    return check_ids(parse(body, LookupRequest).ids, MAX_BATCH)


def validate_delete(body: bytes) -> Ids:
    """Read the body of a delete; the ids [m]. Raises InvalidRequestError."""
    return check_ids(parse(body, DeleteRequest).ids, MAX_BATCH)


def validate_upsert(body: bytes, index: IndexRules) -> tuple[Ids, Vectors]:
    """Read the body of an upsert: ids [m] and vectors [m, dim]. Raises InvalidRequestError."""
    request = parse(body, UpsertRequest)
    ids = check_ids(request.ids, MAX_BATCH)
    vectors = check_vectors(request.vectors, index)
    if len(ids) != len(vectors):
        raise InvalidRequestError(
            f"{len(ids)} ids and {len(vectors)} vectors: send one vector per id", param="vectors"
        )
    if len(np.unique(ids)) != len(ids):
        raise InvalidRequestError("`ids` holds an id twice: send each once", param="ids")
    return ids, vectors


def check_ids(value: object, at_most: int) -> Ids:
    """Whole numbers from 0 to 2^63 - 1. Raises InvalidRequestError naming the first that is none."""
    if not isinstance(value, list) or not value:
        raise InvalidRequestError("`ids` must be a list of at least one whole number", param="ids")
    if len(value) > at_most:
        raise InvalidRequestError(
            f"`ids` holds {len(value)} ids and may hold {at_most}: send several requests",
            param="ids",
            code="too_many_ids",
        )
    for index, one in enumerate(value):
        if type(one) is not int or not 0 <= one <= LARGEST_ID:
            raise InvalidRequestError(
                f"ids[{index}] is no whole number from 0 to {LARGEST_ID}: correct it", param="ids"
            )
    return np.array(value, dtype=np.int64)


def check_vectors(value: object, index: IndexRules) -> Vectors:
    """One vector or several as [N, dim]. Raises InvalidRequestError naming what is wrong."""
    rows = [value] if is_vector(value) else value
    if not isinstance(rows, list) or not rows:
        raise InvalidRequestError(
            "`vectors` must be a vector or a list of vectors, each a list of numbers",
            param="vectors",
        )
    if len(rows) > MAX_BATCH:
        raise InvalidRequestError(
            f"{len(rows)} vectors and one request may hold {MAX_BATCH}: send several requests",
            param="vectors",
            code="too_many_vectors",
        )
    for number, row in enumerate(rows):
        check_row(row, number, index.dim)
    with np.errstate(over="ignore"):
        vectors = np.array(rows, dtype=np.float64).astype(np.float32)
    problem = problem_of_vectors(vectors, index.dim, index.metric)
    if problem is not None:
        raise InvalidRequestError(f"{problem}: correct it", param="vectors")
    return vectors


def check_row(row: object, number: int, dim: int) -> None:
    """Raises InvalidRequestError unless a row is `dim` numbers."""
    if not isinstance(row, list) or len(row) != dim:
        size = f"{len(row)} components" if isinstance(row, list) else "no components"
        raise InvalidRequestError(
            f"vectors[{number}] has {size} and the index has {dim}: send vectors of its encoder",
            param="vectors",
            code="wrong_dimension",
        )
    if not {*map(type, row)} <= {int, float}:  # in C: a vector has hundreds
        raise InvalidRequestError(
            f"vectors[{number}] holds something that is no number: correct it", param="vectors"
        )


def is_vector(value: object) -> bool:
    """Whether a value is one vector rather than a list of them."""
    first: Sequence[object] = value[:1] if isinstance(value, list) else []
    return bool(first) and not isinstance(first[0], list)
