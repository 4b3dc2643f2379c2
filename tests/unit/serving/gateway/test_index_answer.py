"""The order of one answer of the index, with a router whose shards the test takes away."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from serving.errors import (
    DeadlineExceededError,
    IndexReadOnlyError,
    IndexUnavailableError,
    InvalidRequestError,
    OtherSpaceError,
)
from serving.gateway.index_answer import IndexService, Searched, search, upsert
from serving.gateway.metrics import Trace
from serving.gateway.model_client import Embedded
from serving.gateway.validation import Rules
from serving.index.answers import Found, Rows
from serving.index.merge import Hits
from serving.index.metric import NO_ID
from serving.index.placement import Placement
from serving.index.topology import Topology

RULES = Rules(model="search", output_dim=2, max_tokens=8, max_texts=8, max_text_bytes=100)
ROWS = {4: [0.5, 0.5], 7: [1.0, 0.0]}


def topology(generation: str = "g1", dim: int = 2, space: str = "teacher") -> Topology:
    placement = Placement(
        index="passages",
        generation=generation,
        dim=dim,
        metric="inner_product",
        space=space,
        replicas=((), ()),
    )
    return Topology(placement, ())


@dataclass
class FakeRouter:
    """Finds 7 and 4 for whatever it is asked; `gone` are ids that a lookup does not find."""

    topology: Topology = field(default_factory=topology)
    lookup_fails: Exception | None = None
    coverage: float = 1.0
    gone: tuple[int, ...] = ()
    asked: list[tuple[str, Topology]] = field(default_factory=list)

    @property
    def placement(self) -> Placement:
        return self.topology.placement

    async def search(self, queries: Any, k: int, *rest: Any) -> Found:
        self.asked.append(("search", rest[-1]))
        ids = np.full((len(queries), k), NO_ID)
        ids[:, :2] = [7, 4]
        scores = np.where(ids == NO_ID, -np.inf, 1).astype(np.float32)
        return Found(Hits(ids, scores), rest[-1].placement.generation, 1.0, ())

    async def lookup(self, ids: np.ndarray, _deadline_s: float, begun: Topology) -> Rows:
        self.asked.append(("lookup", begun))
        if self.lookup_fails is not None:
            raise self.lookup_fails
        found = np.array([row_id not in self.gone for row_id in ids.tolist()])
        vectors = np.array([ROWS[row_id] for row_id in ids.tolist()], np.float32)
        return Rows(vectors * found[:, None], found, found, "g1", self.coverage)


def ask(router: FakeRouter, space: str = "teacher", **fields: object) -> Searched:
    async def embed(texts: Any, _deadline_s: float) -> Embedded:
        router.topology = topology("g2", dim=5)  # a switch, while the encoder is at it
        counts = np.array([3 if text == "short" else 9 for text in texts], np.int32)
        return Embedded(np.ones((len(texts), 2), np.float32), counts)

    index = IndexService(router, space, writable=False)  # type: ignore[arg-type]
    body = json.dumps(fields).encode()
    return asyncio.run(search(body, RULES, index, embed, 1e9, Trace("an-id")))


def test_a_request_is_answered_by_the_generation_that_it_began_with():
    router = FakeRouter()
    answered = ask(router, input="short", k=3, include_vectors=True)
    assert [(what, begun.placement.generation) for what, begun in router.asked] == [
        ("search", "g1"),
        ("lookup", "g1"),
    ]
    assert answered.found.generation == answered.placement.generation == "g1"
    assert answered.tokens == 3


def test_vectors_are_those_of_the_results_in_their_order():
    answered = ask(FakeRouter(), vectors=[[1, 0], [0, 1]], k=3, include_vectors=True)
    assert answered.vectors is not None
    assert answered.vectors.known.tolist() == [[True, True, False]] * 2
    assert answered.vectors.vectors[:, :2].tolist() == [[ROWS[7], ROWS[4]]] * 2
    assert ask(FakeRouter(), vectors=[1, 0]).vectors is None


def test_a_vector_that_went_since_is_unknown_and_a_shard_that_did_lowers_the_coverage():
    answered = ask(FakeRouter(gone=(7,)), vectors=[1, 0], k=2, include_vectors=True)
    assert answered.vectors.known.tolist() == [[False, True]]
    assert answered.found.coverage == 1.0
    answered = ask(FakeRouter(gone=(4,), coverage=0.5), vectors=[1, 0], include_vectors=True)
    assert answered.found.coverage == 0.5
    router = FakeRouter(lookup_fails=IndexUnavailableError("none"))
    answered = ask(router, vectors=[1, 0], include_vectors=True)
    assert not answered.vectors.known.any()
    assert (answered.found.coverage, answered.found.hits.ids[0, 0]) == (0.0, 7)


def test_a_deadline_that_ends_with_the_vectors_is_named():
    router = FakeRouter(lookup_fails=DeadlineExceededError("late"))
    with pytest.raises(DeadlineExceededError):
        ask(router, vectors=[1, 0], include_vectors=True)


@pytest.mark.parametrize(
    ("served", "other"),
    [(topology(space="another"), True), (topology(dim=3), True), (topology(space=""), False)],
)
def test_texts_are_refused_for_an_index_of_another_encoder(served: Topology, other: bool):
    if other:
        with pytest.raises(OtherSpaceError, match="search with `vectors`"):
            ask(FakeRouter(served), input="short")
    else:
        assert ask(FakeRouter(served), input="short").found.coverage == 1.0
    assert ask(FakeRouter(topology(space="another")), vectors=[1, 0]).tokens == 0


def test_an_encoder_whose_space_is_unknown_is_trusted_when_its_vectors_fit():
    assert ask(FakeRouter(), space="", input="short").tokens == 3


def test_a_text_that_was_cut_is_refused_unless_that_is_wanted():
    with pytest.raises(InvalidRequestError, match=r"input\[1\] has 9 tokens"):
        ask(FakeRouter(), input=["short", "too long"])
    assert ask(FakeRouter(), input=["short", "too long"], truncate=True).tokens == 12


def test_a_write_is_refused_before_it_is_read():
    index = IndexService(FakeRouter(), "", writable=False)  # type: ignore[arg-type]
    with pytest.raises(IndexReadOnlyError, match="--writable-index"):
        asyncio.run(upsert(b"{", index, 1e9, Trace("an-id")))
