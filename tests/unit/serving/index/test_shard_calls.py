"""One shard asked through replicas whose answers the test gives, one event at a time."""

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from serving.errors import DeadlineExceededError, ShardFailedError, ShardUnavailableError
from serving.index.client import ShardClient
from serving.index.replicas import MIN_SAMPLES, HedgeBudget, Replica
from serving.index.shard_calls import ShardCalls, ShardState
from tests.unit.serving.index.fake_node import soon, until

GONE = ShardUnavailableError("gone")


class Asked:
    """Who was asked, and what becomes of each call: set by the test."""

    def __init__(self, replicas: int, share: float = 1.0, hedging: bool = True) -> None:
        self.calls: dict[str, asyncio.Future[str]] = {}
        self.observed: list[bool] = []
        known = [Replica(ShardClient(None, f"replica-{n}", "demo")) for n in range(replicas)]
        self.shard = ShardState(0, known)
        for _ in range(10 * MIN_SAMPLES if hedging else 0):
            self.shard.delay.note(0.001)
        self.budget = HedgeBudget(share)
        self._calls = ShardCalls(
            self.budget, lambda _s, _l, hedged: self.observed.append(hedged), patience_s=0.05
        )

    def begin(self) -> "asyncio.Task[str]":
        return asyncio.create_task(self._calls.ask(self.shard, self._ask, soon()))

    async def _ask(self, client: ShardClient, _shard: int, _until_s: float) -> str:
        self.calls[client.url] = asyncio.get_running_loop().create_future()
        return await self.calls[client.url]

    async def asked(self, count: int) -> list["asyncio.Future[str]"]:
        """The first calls, when there are so many."""
        await until(lambda: len(self.calls) >= count)
        return list(self.calls.values())

    def replica(self, at: int) -> Replica:
        """The replica that was asked first, second ..."""
        url = list(self.calls)[at]
        return next(r for r in self.shard.replicas if r.client.url == url)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario; no call may end with an error that nobody looked at, or stay in flight."""
    unseen: list[object] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: unseen.append(what))
        await scenario()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(watched())
    gc.collect()
    assert not unseen


def test_the_first_answer_of_two_counts_and_the_other_call_is_given_up():
    async def scenario() -> None:
        shard = Asked(replicas=2)
        answer = shard.begin()
        first, second = await shard.asked(2)
        second.set_result("second")
        assert await answer == "second"
        await asyncio.sleep(0)
        assert first.cancelled()
        assert [r.in_flight for r in shard.shard.replicas] == [0, 0]
        assert shard.observed == [True]

    run(scenario)


@pytest.mark.parametrize("error", [GONE, DeadlineExceededError("late"), ShardFailedError("no")])
def test_an_answer_counts_although_the_other_one_fails_in_the_same_moment(error: Exception):
    async def scenario() -> None:
        shard = Asked(replicas=2)
        answer = shard.begin()
        first, second = await shard.asked(2)
        first.set_exception(error)
        second.set_result("second")
        assert await answer == "second"

    run(scenario)


def test_a_failed_one_is_made_up_for_by_the_next_until_none_is_left():
    async def scenario() -> None:
        shard = Asked(replicas=3, share=0.0, hedging=False)
        answer = shard.begin()
        for asked in (1, 2):
            calls = await shard.asked(asked)
            calls[-1].set_exception(GONE)
        calls = await shard.asked(3)
        calls[-1].set_result("third")
        assert await answer == "third"
        assert [shard.replica(at).failures for at in range(3)] == [1, 1, 0]

    run(scenario)


def test_a_failed_one_is_made_up_for_also_after_hedging_was_refused():
    async def scenario() -> None:
        shard = Asked(replicas=2, share=0.0)
        answer = shard.begin()
        await asyncio.sleep(0.01)  # past the delay after which a second one would be asked
        [first] = await shard.asked(1)
        first.set_exception(GONE)
        (await shard.asked(2))[1].set_result("second")
        assert await answer == "second"

    run(scenario)


def test_a_failed_one_is_made_up_for_by_one_that_was_left_out():
    async def scenario() -> None:
        shard = Asked(replicas=2, hedging=False)
        shard.shard.replicas[1].eject(soon())
        answer = shard.begin()
        [first] = await shard.asked(1)
        assert shard.replica(0) is shard.shard.replicas[0]
        first.set_exception(GONE)
        (await shard.asked(2))[1].set_result("second")
        assert await answer == "second"

    run(scenario)


def test_one_that_was_left_out_is_not_asked_in_advance():
    async def scenario() -> None:
        shard = Asked(replicas=2)
        shard.shard.replicas[1].eject(soon())
        answer = shard.begin()
        await asyncio.sleep(0.01)
        [first] = await shard.asked(1)
        first.set_result("first")
        assert await answer == "first"

    run(scenario)


def test_a_refusal_is_final_while_another_is_still_at_it():
    async def scenario() -> None:
        shard = Asked(replicas=2)
        answer = shard.begin()
        first, second = await shard.asked(2)
        first.set_exception(ShardFailedError("k is 0"))
        with pytest.raises(ShardFailedError, match="k is 0"):
            await answer
        await asyncio.sleep(0)
        assert second.cancelled()

    run(scenario)


def test_when_all_fail_it_is_said_why():
    async def scenario() -> None:
        shard = Asked(replicas=2)
        answer = shard.begin()
        for call in await shard.asked(2):
            call.set_exception(GONE)
        with pytest.raises(ShardUnavailableError, match="gone"):
            await answer
        assert shard.observed == []

    run(scenario)


def test_a_second_one_costs_its_share_of_the_budget():
    async def scenario() -> None:
        shard = Asked(replicas=2, share=0.01)
        hedged = []
        for _ in range(5):
            shard.calls.clear()
            answer = shard.begin()
            await asyncio.sleep(0.02)
            calls = await shard.asked(1)
            hedged.append(len(calls) == 2)
            calls[0].set_result("first")
            await answer
        assert hedged == [True, True, False, False, False]
        assert shard.observed == hedged

    run(scenario)


def test_one_that_is_late_is_hedged_when_there_is_a_budget_again():
    async def scenario() -> None:
        shard = Asked(replicas=2, share=0.1)
        while shard.budget.take():
            pass
        answer = shard.begin()
        await asyncio.sleep(0.01)
        assert len(shard.calls) == 1
        for _ in range(10):  # others ask meanwhile
            shard.budget.note_request()
        (await shard.asked(2))[1].set_result("second")
        assert await answer == "second"

    run(scenario)


def test_whoever_is_cancelled_leaves_nothing_running():
    async def scenario() -> None:
        shard = Asked(replicas=2)
        answer = shard.begin()
        calls = await shard.asked(2)
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        await asyncio.sleep(0)
        assert all(call.cancelled() for call in calls)
        assert [r.in_flight for r in shard.shard.replicas] == [0, 0]

    run(scenario)


@pytest.mark.parametrize(("waited_s", "failures"), [(0.0, 0), (0.06, 1)])
def test_silence_is_a_failure_when_it_lasted(waited_s: float, failures: int):
    async def scenario() -> None:
        shard = Asked(replicas=1)
        answer = shard.begin()
        [call] = await shard.asked(1)
        await asyncio.sleep(waited_s)
        call.set_exception(DeadlineExceededError("late"))
        with pytest.raises(DeadlineExceededError):
            await answer
        assert shard.replica(0).failures == failures

    run(scenario)


def test_a_shard_without_a_replica_is_unavailable():
    async def scenario() -> None:
        with pytest.raises(ShardUnavailableError, match="shard 0 runs nowhere"):
            await Asked(replicas=0).begin()

    run(scenario)
