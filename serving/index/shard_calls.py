"""One shard is asked: a replica is chosen, another one when the first takes long, and both are judged."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from serving.errors import DeadlineExceededError, ShardUnavailableError
from serving.index.client import ShardClient
from serving.index.replicas import (
    HedgeBudget,
    HedgeDelay,
    Replica,
    choose,
    choose_other,
    eject_slow,
    not_asked,
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
    """Asks shards, hedging within a budget that all of them share.

    A replica that says nothing for `patience_s` has failed; a client may have waited less.
    """

    def __init__(self, budget: HedgeBudget, observe: Observe, patience_s: float) -> None:
        self._budget = budget
        self._observe = observe
        self._patience_s = patience_s
        self._chance = random.Random()

    async def ask(
        self,
        shard: ShardState,
        ask: Ask[Answer],
        until_s: float,
    ) -> Answer:
        """One shard's answer, of the first replica that has one. Raises what the last one raised."""
        if not shard.replicas:
            raise ShardUnavailableError(f"shard {shard.number} runs nowhere now")
        self._budget.note_request()
        began_s = time.monotonic()
        if len(shard.replicas) == 1:  # nobody else to ask: no task for it
            answer = await self._ask_replica(shard.replicas[0], ask, shard.number, until_s)
            self._observe(shard.number, time.monotonic() - began_s, False)
            return answer
        asked = [choose(shard.replicas, began_s, self._chance)]
        calls = [self._begin(asked[0], ask, shard.number, until_s)]
        pending, waiting_s = set(calls), shard.delay.delay_s
        try:
            while True:
                done, pending = await asyncio.wait(
                    pending, timeout=waiting_s, return_when=asyncio.FIRST_COMPLETED
                )
                if any(map(is_final, done)):
                    break
                other = self._another(shard, asked, done)
                if other is not None:
                    asked.append(other)
                    calls.append(self._begin(other, ask, shard.number, until_s))
                    pending.add(calls[-1])
                    waiting_s = None
                elif not pending:
                    break
                elif waiting_s is not None:  # the budget was spent: later again
                    waiting_s *= 2
            answer = best(done).result()
        finally:
            dismiss(calls)
        latency_s = time.monotonic() - began_s
        shard.delay.note(latency_s)
        self._observe(shard.number, latency_s, len(asked) > 1)
        self._eject_slow(shard)
        return answer

    def _another(
        self, shard: ShardState, asked: list[Replica], done: set["asyncio.Task[Answer]"]
    ) -> Replica | None:
        """Whom to ask as well: when one has failed, or, within the budget, when none has answered in time."""
        now_s = time.monotonic()
        if not done:
            other = choose_other(shard.replicas, asked, now_s, self._chance)
            return other if other is not None and self._budget.take() else None
        others = not_asked(shard.replicas, asked)
        return choose(others, now_s, self._chance) if others and any(map(failed, done)) else None

    def _begin(
        self, replica: Replica, ask: Ask[Answer], shard: int, until_s: float
    ) -> "asyncio.Task[Answer]":
        return asyncio.create_task(self._ask_replica(replica, ask, shard, until_s))

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
        except asyncio.CancelledError:  # another answered first
            replica.note_unfinished(time.monotonic() - began_s)
            raise
        except DeadlineExceededError:
            waited_s = time.monotonic() - began_s
            if waited_s < self._patience_s:
                replica.note_unfinished(waited_s)
            else:
                replica.note_failure(time.monotonic())
            raise
        except ShardUnavailableError:
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


def best(done: set["asyncio.Task[Answer]"]) -> "asyncio.Task[Answer]":
    """Of calls that ended, one that has an answer, else one that was refused, else any."""
    return min(done, key=lambda call: (call.exception() is not None, not is_final(call)))


def is_final(call: "asyncio.Task[Answer]") -> bool:
    """Whether a call ended with what another replica would say as well: an answer, or a refusal."""
    return not isinstance(call.exception(), ShardUnavailableError | DeadlineExceededError)


def failed(call: "asyncio.Task[Answer]") -> bool:
    """Whether a call ended without an answer that another replica might give."""
    return isinstance(call.exception(), ShardUnavailableError)


def dismiss(calls: list["asyncio.Task[Answer]"]) -> None:
    """End the calls that nobody waits for any longer; of those that failed nothing is left unread."""
    for call in calls:
        if not call.cancel() and not call.cancelled():
            call.exception()
