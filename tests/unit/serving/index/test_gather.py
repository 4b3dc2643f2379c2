"""Searches that come together, without shards: what is asked is echoed, when the test lets it."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from serving.index import gather
from serving.index.gather import CALLS_AT_ONCE, MOST_QUERIES, Gatherer
from serving.index.metric import Vectors

Echo = tuple[Vectors, int]


class Shards:
    """Answers with the queries and k that it is asked, once it may."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.free = asyncio.Event()
        self.error: Exception | None = None

    async def search(self, key: str, queries: Vectors, k: int) -> Echo:
        self.calls.append((key, len(queries), k))
        await self.free.wait()
        if self.error is not None:
            raise self.error
        return queries, k


def part(answer: Echo, rows: slice, k: int) -> Echo:
    queries, most = answer
    return queries[rows], min(k, most)


def query(value: float, rows: int = 1) -> Vectors:
    return np.full((rows, 2), value, dtype=np.float32)


def run(test: Callable[[Shards, "Gatherer[str, Echo]"], Awaitable[None]]) -> None:
    async def with_shards() -> None:
        shards = Shards()
        await test(shards, Gatherer(shards.search, part))

    asyncio.run(with_shards())


async def begun(gatherer: "Gatherer[str, Echo]", *asked: tuple[str, Vectors, int]):
    """Searches that are under way or wait."""
    tasks = [asyncio.create_task(gatherer.ask(*one)) for one in asked]
    await asyncio.sleep(0)
    return tasks


def test_a_search_that_comes_alone_is_asked_at_once():
    async def test(shards: Shards, gatherer: "Gatherer[str, Echo]") -> None:
        shards.free.set()
        queries, k = await gatherer.ask("a", query(1), 5)
        assert queries.tolist() == [[1, 1]]
        assert (k, shards.calls) == (5, [("a", 1, 5)])

    run(test)


def test_what_comes_while_shards_are_busy_is_asked_together_and_each_gets_its_own():
    async def test(shards: Shards, gatherer: "Gatherer[str, Echo]") -> None:
        asked = [("a", query(n, rows=1 + n % 3), 1 + n) for n in range(CALLS_AT_ONCE + 6)]
        tasks = await begun(gatherer, *asked)
        assert len(shards.calls) == CALLS_AT_ONCE
        shards.free.set()
        for (queries, k), (_, expected, wanted) in zip(
            await asyncio.gather(*tasks), asked, strict=True
        ):
            assert queries.tolist() == expected.tolist()
            assert k == wanted
        waiting = asked[CALLS_AT_ONCE:]
        assert shards.calls[CALLS_AT_ONCE:] == [
            ("a", sum(len(one[1]) for one in waiting), max(one[2] for one in waiting))
        ]

    run(test)


def test_only_searches_of_one_key_are_asked_together():
    async def test(shards: Shards, gatherer: "Gatherer[str, Echo]") -> None:
        busy = [("a", query(0), 1)] * CALLS_AT_ONCE
        tasks = await begun(gatherer, *busy, ("a", query(1), 1), ("b", query(2), 1))
        shards.free.set()
        await asyncio.gather(*tasks)
        assert sorted(shards.calls[CALLS_AT_ONCE:]) == [("a", 1, 1), ("b", 1, 1)]

    run(test)


def test_no_call_holds_more_queries_than_it_may():
    async def test(shards: Shards, gatherer: "Gatherer[str, Echo]") -> None:
        busy = [("a", query(0), 1)] * CALLS_AT_ONCE
        many = [("a", query(n, rows=MOST_QUERIES // 2), 1) for n in range(5)]
        tasks = await begun(gatherer, *busy, *many)
        shards.free.set()
        await asyncio.gather(*tasks)
        assert [call[1] for call in shards.calls[CALLS_AT_ONCE:]] == [
            MOST_QUERIES,
            MOST_QUERIES,
            MOST_QUERIES // 2,
        ]

    run(test)


def test_a_call_that_takes_long_holds_others_up_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(gather, "LONGEST_TURN_S", 0.01)

    async def test(shards: Shards, gatherer: "Gatherer[str, Echo]") -> None:
        await begun(gatherer, *[("a", query(n), 1) for n in range(CALLS_AT_ONCE + 3)])
        while len(shards.calls) == CALLS_AT_ONCE:
            await asyncio.sleep(0.001)
        assert shards.calls[CALLS_AT_ONCE:] == [("a", 3, 1)]

    run(test)


def test_an_error_reaches_everybody_who_was_asked_for_and_later_searches_are_answered():
    async def test(shards: Shards, gatherer: "Gatherer[str, Echo]") -> None:
        tasks = await begun(gatherer, *[("a", query(n), 1) for n in range(CALLS_AT_ONCE + 3)])
        shards.error = ValueError("gone")
        shards.free.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {str(outcome) for outcome in outcomes} == {"gone"}
        shards.error = None
        assert (await gatherer.ask("a", query(9), 1))[0].tolist() == [[9, 9]]

    run(test)


@pytest.mark.parametrize("left", range(CALLS_AT_ONCE + 2))
def test_a_caller_who_leaves_takes_nobody_along(left: int):
    async def test(shards: Shards, gatherer: "Gatherer[str, Echo]") -> None:
        tasks = await begun(gatherer, *[("a", query(n), 1) for n in range(CALLS_AT_ONCE + 2)])
        tasks[left].cancel()
        shards.free.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        answered = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, tuple)]
        assert answered == [n for n in range(len(tasks)) if n != left]

    run(test)
