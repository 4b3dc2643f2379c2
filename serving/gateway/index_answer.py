"""The order of one answer of the index, from top to bottom. `answer.py` is its twin for embeddings."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serving.errors import IndexReadOnlyError, IndexUnavailableError, OtherSpaceError
from serving.gateway.answer import EmbedTexts
from serving.gateway.index_validation import (
    IndexRules,
    ValidSearch,
    validate_delete,
    validate_lookup,
    validate_search,
    validate_upsert,
)
from serving.gateway.metrics import Trace
from serving.gateway.validation import Rules, check_token_counts
from serving.index.answers import Found, Rows
from serving.index.metric import NO_ID, Ids, Vectors
from serving.index.placement import Placement
from serving.index.router import Router
from serving.index.topology import Topology


@dataclass(frozen=True)
class IndexService:
    """The index that is served: `space` is that of the encoder in front of it, "" when it is unknown."""

    router: Router
    space: str
    writable: bool


@dataclass(frozen=True)
class ResultVectors:
    """`vectors` [N, k, dim] of results; where `known` [N, k] is false one is gone or its shard is."""

    vectors: Vectors
    known: NDArray[np.bool_]


@dataclass(frozen=True)
class Searched:
    """Results of one generation, which `placement` describes, and their vectors if they were asked for."""

    found: Found
    placement: Placement
    vectors: ResultVectors | None
    tokens: int


async def search(
    body: bytes,
    rules: Rules,
    index: IndexService,
    embed: EmbedTexts,
    deadline_s: float,
    trace: Trace,
) -> Searched:
    """Validate, embed texts, ask the shards, fetch vectors. Raises the ServingErrors of each.

    All of it is held against, and answered from, the generation that is served when it begins.
    """
    topology = index.router.topology
    placement = topology.placement
    with trace.stage("validate"):
        asked = validate_search(body, rules, rules_of(placement))
    queries, tokens = await queries_of(asked, rules, index, placement, embed, deadline_s, trace)
    with trace.stage("search"):
        found = await index.router.search(
            queries, asked.k, deadline_s, asked.effort, asked.among, topology
        )
    vectors = None
    if asked.include_vectors:
        with trace.stage("lookup"):
            found, vectors = await with_vectors(found, index.router, topology, deadline_s)
    return Searched(found, placement, vectors, tokens)


async def lookup(
    body: bytes, index: IndexService, deadline_s: float, trace: Trace
) -> tuple[Ids, Rows]:
    """Validate, ask the shards that hold the ids."""
    with trace.stage("validate"):
        ids = validate_lookup(body)
    with trace.stage("lookup"):
        return ids, await index.router.lookup(ids, deadline_s)


async def upsert(body: bytes, index: IndexService, deadline_s: float, trace: Trace) -> int:
    """Validate, write to every replica; how many rows are safe now."""
    check_writable(index)
    with trace.stage("validate"):
        ids, vectors = validate_upsert(body, rules_of(index.router.placement))
    with trace.stage("write"):
        await index.router.upsert(ids, vectors, deadline_s)
    return len(ids)


async def delete(body: bytes, index: IndexService, deadline_s: float, trace: Trace) -> int:
    """Validate, delete on every replica; how many ids are gone now."""
    check_writable(index)
    with trace.stage("validate"):
        ids = validate_delete(body)
    with trace.stage("write"):
        await index.router.delete(ids, deadline_s)
    return len(ids)


async def queries_of(
    asked: ValidSearch,
    rules: Rules,
    index: IndexService,
    placement: Placement,
    embed: EmbedTexts,
    deadline_s: float,
    trace: Trace,
) -> tuple[Vectors, int]:
    """The query vectors [N, dim], and the tokens that were read for them."""
    if asked.vectors is not None:
        return asked.vectors, 0
    check_space(index.space, placement, rules)
    with trace.stage("model"):
        embedded = await embed(asked.texts, deadline_s)
    trace.count(texts=len(asked.texts), tokens=embedded.total_tokens)
    if not asked.truncate:
        check_token_counts(embedded.token_counts, rules.max_tokens)
    return embedded.embeddings, embedded.total_tokens


async def with_vectors(
    found: Found, router: Router, topology: Topology, deadline_s: float
) -> tuple[Found, ResultVectors]:
    """The vectors of all results; what cannot be had now lowers the coverage."""
    known = found.hits.ids != NO_ID
    vectors = np.zeros((*known.shape, topology.placement.dim), dtype=np.float32)
    ids = np.unique(found.hits.ids[known])
    if not len(ids):
        return found, ResultVectors(vectors, known)
    try:
        rows = await router.lookup(ids, deadline_s, topology)
    except IndexUnavailableError:
        return replace(found, coverage=0.0), ResultVectors(vectors, np.zeros_like(known))
    at = np.searchsorted(ids, found.hits.ids[known])
    vectors[known] = rows.vectors[at]
    known[known] = rows.found[at]
    coverage = min(found.coverage, rows.coverage)
    return replace(found, coverage=coverage), ResultVectors(vectors, known)


def rules_of(placement: Placement) -> IndexRules:
    """What requests are held against; a switch of generations may change it."""
    return IndexRules(dim=placement.dim, metric=placement.metric)


def check_space(space: str, placement: Placement, rules: Rules) -> None:
    """Texts may be searched for only where the encoder's vectors are those of the index."""
    other = bool(space and placement.space and space != placement.space)
    if other or rules.output_dim != placement.dim:
        raise OtherSpaceError(
            f"generation {placement.generation} of {placement.index} holds vectors of another encoder than "
            f"{rules.model}: search with `vectors`, or serve the encoder that it was built for"
        )


def check_writable(index: IndexService) -> None:
    """Raises IndexReadOnlyError."""
    if not index.writable:
        raise IndexReadOnlyError(
            "this gateway does not take writes: start it with --writable-index to allow them"
        )
