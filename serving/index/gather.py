"""Concurrent searches become few: what comes while the shards are busy is asked together.

A search that comes alone is not held up. Under load one call for many queries costs the gateway, the network
and Triton about as much as a call for one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from serving.index.metric import Vectors

CALLS_AT_ONCE = 2  # one is computed while the next is on its way
LONGEST_TURN_S = (
    0.05  # a call that takes longer, of a shard that hangs perhaps, holds up nobody after that
)
MOST_QUERIES = 256  # of one call

Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Waiting(Generic[Answer]):
    """A search that is asked with the next call: `queries` [N, dim], the k best of each."""

    queries: Vectors
    k: int
    answer: "asyncio.Future[Answer]"


class Gatherer(Generic[Key, Answer]):
    """`search` asks for queries [N, dim] of one key; `part` takes the rows and the first k of an answer."""

    def __init__(
        self,
        search: Callable[[Key, Vectors, int], Awaitable[Answer]],
        part: Callable[[Answer, slice, int], Answer],
    ) -> None:
        self._search = search
        self._part = part
        self._turns: dict[object, asyncio.TimerHandle] = {}
        self._waiting: dict[Key, list[Waiting[Answer]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, key: Key, queries: Vectors, k: int) -> Answer:
        """One search, at once or with others of its key. Raises what `search` raises."""
        if len(self._turns) >= CALLS_AT_ONCE:
            answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(key, []).append(Waiting(queries, k, answer))
            return await answer
        turn = self._begin_turn()
        try:
            return await self._search(key, queries, k)
        finally:
            self._end_turn(turn)

    def _begin_turn(self) -> object:
        """A call counts until it ends, or for so long."""
        turn, loop = object(), asyncio.get_running_loop()
        self._turns[turn] = loop.call_later(LONGEST_TURN_S, self._end_turn, turn)
        return turn

    def _end_turn(self, turn: object) -> None:
        """Let those that wait go next."""
        if turn in self._turns:
            self._turns.pop(turn).cancel()
        while self._waiting and len(self._turns) < CALLS_AT_ONCE:
            key = next(iter(self._waiting))
            task = asyncio.create_task(self._ask_together(key, self._take(key), self._begin_turn()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _take(self, key: Key) -> list[Waiting[Answer]]:
        """Those that waited longest, as many as one call may hold; the others go to the end."""
        waiting = self._waiting.pop(key)
        queries = np.cumsum([len(one.queries) for one in waiting])
        count = max(1, int((queries <= MOST_QUERIES).sum()))
        if count < len(waiting):
            self._waiting[key] = waiting[count:]
        return waiting[:count]

    async def _ask_together(
        self, key: Key, together: Sequence[Waiting[Answer]], turn: object
    ) -> None:
        try:
            queries = np.concatenate([one.queries for one in together])
            found = await self._search(key, queries, max(one.k for one in together))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is for those who wait
            for one in together:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        finally:
            self._end_turn(turn)
        start = 0
        for one in together:
            rows = slice(start, start + len(one.queries))
            start = rows.stop
            if not one.answer.done():  # nobody waits for it any longer otherwise
                one.answer.set_result(self._part(found, rows, one.k))
