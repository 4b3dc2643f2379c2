"""The order of one answer of the index, from top to bottom. `answer.py` is its twin for embeddings."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.errors import IndexReadOnlyError, OtherSpaceError
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
from serving.index.metric import NO_ID, Ids, Vectors
from serving.index.router import Found, Router, Rows


@dataclass(frozen=True)
class IndexService:
    """The index that is served: `space` is that of the encoder in front of it, "" when it is unknown."""

    router: Router
    space: str
    writable: bool

    @property
    def rules(self) -> IndexRules:
        """What requests are held against now; a switch of generations may change it."""
        placement = self.router.placement
        return IndexRules(dim=placement.dim, metric=placement.metric)


@dataclass(frozen=True)
class Searched:
    """Results and, where they were asked for, their vectors [N, k, dim]."""

    found: Found
    vectors: NDArray[np.float32] | None
    tokens: int


async def search(
    body: bytes,
    rules: Rules,
    index: IndexService,
    embed: EmbedTexts,
    deadline_s: float,
    trace: Trace,
) -> Searched:
    """Validate, embed texts, ask the shards, fetch vectors. Raises the ServingErrors of each."""
    with trace.stage("validate"):
        asked = validate_search(body, rules, index.rules)
    queries, tokens = await queries_of(asked, rules, index, embed, deadline_s, trace)
    with trace.stage("search"):
        found = await index.router.search(
            queries, asked.k, deadline_s, effort=asked.effort, among=asked.among
        )
    vectors = None
    if asked.include_vectors:
        with trace.stage("lookup"):
            vectors = await vectors_of(found, index.router, deadline_s)
    return Searched(found, vectors, tokens)


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
        ids, vectors = validate_upsert(body, index.rules)
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
    embed: EmbedTexts,
    deadline_s: float,
    trace: Trace,
) -> tuple[Vectors, int]:
    """The query vectors [N, dim], and the tokens that were read for them."""
    if asked.vectors is not None:
        return asked.vectors, 0
    check_space(index, rules)
    with trace.stage("model"):
        embedded = await embed(asked.texts, deadline_s)
    trace.count(texts=len(asked.texts), tokens=embedded.total_tokens)
    if not asked.truncate:
        check_token_counts(embedded.token_counts, rules.max_tokens)
    return embedded.embeddings, embedded.total_tokens


async def vectors_of(found: Found, router: Router, deadline_s: float) -> NDArray[np.float32]:
    """The vectors [N, k, dim] of all results, zeros where one is gone or its shard is."""
    ids = np.unique(found.hits.ids[found.hits.ids != NO_ID])
    dim = router.placement.dim
    vectors = np.zeros((*found.hits.ids.shape, dim), dtype=np.float32)
    if len(ids):
        rows = await router.lookup(ids, deadline_s)
        at = np.minimum(np.searchsorted(ids, found.hits.ids), len(ids) - 1)
        vectors = np.where((found.hits.ids != NO_ID)[..., None], rows.vectors[at], vectors)
    return vectors


def check_space(index: IndexService, rules: Rules) -> None:
    """Texts may be searched for only where the encoder's vectors are those of the index."""
    placement = index.router.placement
    other = bool(index.space and placement.space and index.space != placement.space)
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
