"""One shard is asked: a replica is chosen, another one when the first takes long, and both are judged."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from serving.errors import DeadlineExceededError, ShardFailedError, ShardUnavailableError
from serving.index.client import ShardClient
from serving.index.replicas import (
    HedgeBudget,
    HedgeDelay,
    Replica,
    choose,
    choose_other,
    eject_slow,
)

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

# Asks a replica of the shard with this number, by a time.monotonic().
Ask = Callable[[ShardClient, int, float], Coroutine[Any, Any, Answer]]

# Told of each answered call: shard, seconds, and whether a second replica was asked.
Observe = Callable[[int, float, bool], None]


@dataclass
class ShardState:
    """The replicas of one shard and how long they take together."""

    number: int
    replicas: list[Replica]
    delay: HedgeDelay = field(default_factory=HedgeDelay)


class ShardCalls:
    """Asks shards, hedging within a budget that all of them share."""

    def __init__(self, budget: HedgeBudget, observe: Observe) -> None:
        self._budget = budget
        self._observe = observe
        self._chance = random.Random()

    async def ask(
        self,
        shard: ShardState,
        ask: Ask[Answer],
        until_s: float,
    ) -> Answer:
        """One shard's answer: of one replica, or of the first of two. Raises what the last one raised."""
        if not shard.replicas:
            raise ShardUnavailableError(f"shard {shard.number} runs nowhere now")
        self._budget.note_request()
        began_s = time.monotonic()
        first = choose(shard.replicas, began_s, self._chance)
        running = {asyncio.create_task(self._ask_replica(first, ask, shard.number, until_s))}
        hedged = False
        try:
            done, _ = await asyncio.wait(running, timeout=shard.delay.delay_s)
            if not done or failed(done):
                other = choose_other(shard.replicas, first, time.monotonic(), self._chance)
                if other is not None and (failed(done) or self._budget.take()):
                    hedged = True
                    second = self._ask_replica(other, ask, shard.number, until_s)
                    running.add(asyncio.create_task(second))
            answer = await first_answer(running)
        finally:
            for call in running:
                call.cancel()
        latency_s = time.monotonic() - began_s
        shard.delay.note(latency_s)
        self._observe(shard.number, latency_s, hedged)
        self._eject_slow(shard)
        return answer

    async def _ask_replica(
        self,
        replica: Replica,
        ask: Ask[Answer],
        shard: int,
        until_s: float,
    ) -> Answer:
        began_s = time.monotonic()
        replica.in_flight += 1
        try:
            answer = await ask(replica.client, shard, until_s)
        except asyncio.CancelledError:  # another answered first: it takes at least so long
            replica.note_answer(time.monotonic() - began_s)
            raise
        except (ShardUnavailableError, DeadlineExceededError):
            replica.note_failure(time.monotonic())
            raise
        finally:
            replica.in_flight -= 1
        replica.note_answer(time.monotonic() - began_s)
        return answer

    def _eject_slow(self, shard: ShardState) -> None:
        slow = eject_slow(shard.replicas, time.monotonic())
        if slow is not None:
            log.warning(
                "%s at %s is slow and is left out for a while", slow.client.model, slow.client.url
            )


async def first_answer(calls: set["asyncio.Task[Answer]"]) -> Answer:
    """The first result of several calls. Raises what the last one raised when all fail."""
    pending = set(calls)
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for call in done:
            if call.exception() is None:
                return call.result()
        refused = [call for call in done if isinstance(call.exception(), ShardFailedError)]
        if refused or not pending:
            return (refused or list(done))[0].result()  # raises


def failed(done: set["asyncio.Task[Answer]"]) -> bool:
    """Whether a call ended without an answer that another replica might give."""
    return any(isinstance(call.exception(), ShardUnavailableError) for call in done)
