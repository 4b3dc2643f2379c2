"""Asks every shard, merges what they answer, and says what is missing.

    placement.json ─► Topology ─► per shard: choose a replica, hedge ─► merge ─► Found (coverage, generation)

A request keeps the topology that it began with: its answer is of one generation. Make a
router in the event loop that uses it.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import Record
from serving.errors import (
    DeadlineExceededError,
    IndexUnavailableError,
    PlacementError,
    ServingError,
    ShardUnavailableError,
)
from serving.index.answers import Found, Rows, coverage, part_of
from serving.index.channels import Channels
from serving.index.client import ShardClient
from serving.index.gather import Gatherer
from serving.index.merge import Hits, merge, no_hits
from serving.index.metric import Ids, Vectors
from serving.index.placement import Placement, read_placement, stamp
from serving.index.replicas import HedgeBudget, Replica
from serving.index.shard_calls import Answer, Ask, Observe, ShardCalls, ShardState
from serving.index.sharding import shard_of
from serving.index.topology import Topology, connect

log = logging.getLogger(__name__)

WATCH_S = 0.2
MERGE_S = 0.005  # kept of every deadline for merging and replying


class RouterSettings(Record):
    """How a router treats shards."""

    hedge_share: float = 0.05
    """Extra requests allowed, of those asked for; 0: none."""
    shard_timeout_s: float = 2.0
    """Longest time one shard is waited for; the rest of the answer does not wait for it any longer."""


class Router:
    """Searches and writes an index whose shards a placement names."""

    def __init__(
        self,
        placement_path: Path,
        settings: RouterSettings | None = None,
        observe: Observe = lambda *_: None,
    ) -> None:
        """Read the placement. Raises PlacementError when there is none."""
        self._path = placement_path
        self._settings = settings or RouterSettings()
        self._channels = Channels()
        budget = HedgeBudget(self._settings.hedge_share)
        self._shards = ShardCalls(budget, observe, self._settings.shard_timeout_s / 2)
        self._gatherer = Gatherer(self._search_together, part_of)
        self._seen = stamp(placement_path)
        self.topology = connect(read_placement(placement_path), None, self._channels)
        self._watch = asyncio.create_task(self._follow_placement())

    @property
    def placement(self) -> Placement:
        """What is served now."""
        return self.topology.placement

    async def close(self) -> None:
        """Close every channel; requests in flight are cancelled."""
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)
        await self._channels.close()

    async def search(
        self,
        queries: Vectors,
        k: int,
        deadline_s: float,
        effort: int = 0,
        among: Ids | None = None,
        topology: Topology | None = None,
    ) -> Found:
        """The best k of all shards for queries [N, dim], by a time.monotonic() `deadline_s`.

        `among`: only these ids. `topology`: what the request began with, else what is served now. Raises
        IndexUnavailableError when no shard answers, DeadlineExceededError when none could in this time, and
        ShardFailedError when one refuses the request.
        """
        topology = topology or self.topology
        left_s = deadline_s - time.monotonic()
        if among is not None or left_s < self._settings.shard_timeout_s + MERGE_S:
            return await self._search(topology, queries, k, deadline_s, effort, among)
        try:
            async with asyncio.timeout(left_s):
                return await self._gatherer.ask((topology, effort), queries, k)
        except TimeoutError as error:
            raise DeadlineExceededError("the index did not answer in time: allow more") from error

    async def _search_together(self, key: tuple[Topology, int], queries: Vectors, k: int) -> Found:
        """What several searches ask at once, none of which is in a hurry."""
        topology, effort = key
        return await self._search(topology, queries, k, math.inf, effort, None)

    async def _search(
        self,
        topology: Topology,
        queries: Vectors,
        k: int,
        deadline_s: float,
        effort: int,
        among: Ids | None,
    ) -> Found:
        parts = [np.empty(0, np.int64)] * len(topology.shards)
        if among is not None:
            where = shard_of(among, len(topology.shards))
            parts = [among[where == shard] for shard in range(len(topology.shards))]

        async def ask(client: ShardClient, shard: int, until_s: float) -> Hits:
            chosen = parts[shard] if among is not None else None
            return await client.search(queries, k, effort, chosen, until_s)

        asked = [s for s in topology.shards if among is None or len(parts[s.number])]
        answers, missing = await self._ask_all(topology, asked, ask, deadline_s)
        metric = topology.placement.metric
        hits = merge(answers or [no_hits(len(queries), 0, metric)], k, metric)
        generation = topology.placement.generation
        return Found(hits, generation, coverage(asked, missing), tuple(missing))

    async def lookup(self, ids: Ids, deadline_s: float, topology: Topology | None = None) -> Rows:
        """Rows by id, by a time.monotonic() `deadline_s`. Raises as `search` does."""
        topology = topology or self.topology
        where = shard_of(ids, len(topology.shards))

        async def ask(
            client: ShardClient, shard: int, until_s: float
        ) -> tuple[int, Vectors, NDArray[np.bool_]]:
            return shard, *(await client.lookup(ids[where == shard], until_s))

        wanted = [topology.shards[shard] for shard in sorted(set(where.tolist()))]
        answers, missing = await self._ask_all(topology, wanted, ask, deadline_s)
        vectors = np.zeros((len(ids), topology.placement.dim), dtype=np.float32)
        found = np.zeros(len(ids), dtype=bool)
        for shard, rows, here in answers:
            vectors[where == shard], found[where == shard] = rows, here
        asked = ~np.isin(where, missing)
        return Rows(vectors, found, asked, topology.placement.generation, coverage(wanted, missing))

    async def upsert(self, ids: Ids, vectors: Vectors, deadline_s: float) -> None:
        """Put rows; when it returns they are on the disk of every replica.

        Raises ShardUnavailableError otherwise: some may be there then, doing it again is safe.
        """
        version_ns = time.time_ns()

        async def write(client: ShardClient, chosen: NDArray[np.bool_]) -> None:
            await client.upsert(ids[chosen], vectors[chosen], version_ns, deadline_s)

        await self._write_all(ids, write)

    async def delete(self, ids: Ids, deadline_s: float) -> None:
        """Take rows out of every replica. Raises as `upsert` does."""
        version_ns = time.time_ns()

        async def write(client: ShardClient, chosen: NDArray[np.bool_]) -> None:
            await client.delete(ids[chosen], version_ns, deadline_s)

        await self._write_all(ids, write)

    async def status(self, deadline_s: float) -> list[list[dict[str, Any] | str]]:
        """What each replica of each shard says of itself, or why it says nothing."""

        async def ask(replica: Replica) -> dict[str, Any] | str:
            try:
                return await replica.client.status(deadline_s)
            except ServingError as error:
                return str(error)

        return [
            list(await asyncio.gather(*map(ask, shard.replicas))) for shard in self.topology.shards
        ]

    async def _write_all(
        self, ids: Ids, write: Callable[[ShardClient, NDArray[np.bool_]], Awaitable[None]]
    ) -> None:
        topology = self.topology
        where = shard_of(ids, len(topology.shards))
        shards = [topology.shards[shard] for shard in sorted(set(where.tolist()))]
        why_not = topology.placement.why_no_writes([shard.number for shard in shards])
        if why_not:
            raise ShardUnavailableError(f"{why_not}: nothing was written")
        calls = [
            write(replica.client, where == shard.number)
            for shard in shards
            for replica in shard.replicas
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _ask_all(
        self,
        topology: Topology,
        shards: Sequence[ShardState],
        ask: Ask[Answer],
        deadline_s: float,
    ) -> tuple[list[Answer], list[int]]:
        """What the shards answer, and the numbers of those that do not."""
        patient_until_s = time.monotonic() + self._settings.shard_timeout_s
        until_s = min(deadline_s - MERGE_S, patient_until_s)
        outcomes = await asyncio.gather(
            *(self._shards.ask(shard, ask, until_s) for shard in shards), return_exceptions=True
        )
        answers, missing = sort_out(shards, outcomes)
        late = any(isinstance(outcome, DeadlineExceededError) for outcome in outcomes)
        if late and not answers and until_s < patient_until_s:
            raise DeadlineExceededError(
                "the deadline passed before a shard answered: allow more time, or ask for less"
            )
        if len(missing) == len(topology.shards):
            raise IndexUnavailableError(
                f"none of {len(missing)} shards of {topology.placement.index} answered: try again in a moment"
            )
        return answers, missing

    async def _follow_placement(self) -> None:
        """Take over what placement.json says, whenever it changes."""
        while True:
            await asyncio.sleep(WATCH_S)
            found = stamp(self._path)
            if found is None or found == self._seen:
                continue
            self._seen = found
            try:
                self.topology = connect(read_placement(self._path), self.topology, self._channels)
            except PlacementError as error:
                log.warning("%s; the placement before stays", error)
            self._channels.keep({url for urls in self.placement.replicas for url in urls})


def sort_out(
    shards: Sequence[ShardState], outcomes: Sequence[Answer | BaseException]
) -> tuple[list[Answer], list[int]]:
    """Answers, and the numbers of the shards that gave none. Raises what another error says."""
    answers: list[Answer] = []
    missing: list[int] = []
    for shard, outcome in zip(shards, outcomes, strict=True):
        if isinstance(outcome, ShardUnavailableError | DeadlineExceededError):
            missing.append(shard.number)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            answers.append(outcome)
    return answers, missing
