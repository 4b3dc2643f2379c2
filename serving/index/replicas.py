"""Which replica of a shard is asked, when a second one is asked too, and which is left out for a while.

Decisions are functions of a replica's record and the time; `router.py` keeps the records.

- power of two choices: of two replicas at random the one with less in flight (Mitzenmacher 2001)
- hedging: after the time that most requests take, a second replica is asked, within a budget
  (Dean and Barroso, "The Tail at Scale", 2013)
- ejection: a replica that fails in a row, or is slow on all it does, gets no requests for a while
"""

import random
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from serving.index.client import ShardClient

WINDOW = 64  # latencies that a replica is judged by
MIN_SAMPLES = 16
FAILURES_TO_EJECT = 3
SLOW_FACTOR = 3.0  # times the median of its best sibling
SLOW_MARGIN_S = 0.01  # and by so much more: microseconds do not matter
FIRST_EJECTION_S = 1.0
LONGEST_EJECTION_S = 30.0


@dataclass
class Replica:
    """What is known of one replica."""

    client: ShardClient
    in_flight: int = 0
    failures: int = 0
    ejections: int = 0
    ejected_until_s: float = 0.0
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    @property
    def median_s(self) -> float | None:
        """How long it usually takes; None before that can be said."""
        if len(self.latencies_s) < MIN_SAMPLES:
            return None
        return statistics.median(self.latencies_s)

    def note_answer(self, latency_s: float) -> None:
        """It answered; a whole window of answers since it came back makes up for what was before."""
        self.latencies_s.append(latency_s)
        self.failures = 0
        if len(self.latencies_s) == WINDOW:
            self.ejections = 0

    def note_unfinished(self, waited_s: float) -> None:
        """Nobody waits for it any longer: it takes at least so long. Less than usual says nothing."""
        if waited_s > max(self.median_s or 0.0, SLOW_MARGIN_S):
            self.latencies_s.append(waited_s)

    def note_failure(self, now_s: float) -> None:
        """It failed; enough failures in a row eject it, once: the others in flight fail with it."""
        self.failures += 1
        if self.failures >= FAILURES_TO_EJECT and self.ejected_until_s <= now_s:
            self.eject(now_s)

    def eject(self, now_s: float) -> None:
        """Leave it out, each time for twice as long."""
        self.ejected_until_s = now_s + min(FIRST_EJECTION_S * 2**self.ejections, LONGEST_EJECTION_S)
        self.ejections = min(self.ejections + 1, 16)
        self.latencies_s.clear()


def choose(replicas: Sequence[Replica], now_s: float, chance: random.Random) -> Replica:
    """The replica to ask first: of two at random the less busy one.

    When all are left out, all count again: one that came back must be found.
    """
    willing = [r for r in replicas if r.ejected_until_s <= now_s] or list(replicas)
    if len(willing) == 1:
        return willing[0]
    first, second = chance.sample(willing, 2)
    return first if first.in_flight <= second.in_flight else second


def choose_other(
    replicas: Sequence[Replica], asked: Sequence[Replica], now_s: float, chance: random.Random
) -> Replica | None:
    """The replica to ask as well, None when there is no other that is not left out."""
    others = [r for r in not_asked(replicas, asked) if r.ejected_until_s <= now_s]
    return choose(others, now_s, chance) if others else None


def not_asked(replicas: Sequence[Replica], asked: Sequence[Replica]) -> list[Replica]:
    """The other replicas."""
    return [r for r in replicas if all(r is not one for one in asked)]


def eject_slow(replicas: Sequence[Replica], now_s: float) -> Replica | None:
    """Leave out the slowest replica when it is slow on all it does, compared with the best; which it was.

    Never the only one that is left.
    """
    known = [(r.median_s, r) for r in replicas if r.ejected_until_s <= now_s]
    judged = sorted(((m, id(r), r) for m, r in known if m is not None), key=lambda item: item[0])
    if len(judged) < 2:
        return None
    best_s, slowest_s, slowest = judged[0][0], judged[-1][0], judged[-1][2]
    if slowest_s <= SLOW_FACTOR * best_s + SLOW_MARGIN_S:
        return None
    slowest.eject(now_s)
    return slowest


@dataclass
class HedgeBudget:
    """Extra requests allowed: a share of those that were asked for, with a small reserve; share 0: none."""

    share: float
    reserve: float = 2.0
    _allowance: float = 0.0

    def __post_init__(self) -> None:
        self._allowance = self.reserve if self.share > 0 else 0.0

    def note_request(self) -> None:
        """One more request was asked for."""
        self._allowance = min(self._allowance + self.share, max(self.reserve, 1.0))

    def take(self) -> bool:
        """Whether one extra request may be sent; it is then spent."""
        if self._allowance < 1.0:
            return False
        self._allowance -= 1.0
        return True


@dataclass
class HedgeDelay:
    """How long to wait before asking a second replica: what nearly all requests take."""

    quantile: float = 0.95
    margin: float = 1.5
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=256))

    def note(self, latency_s: float) -> None:
        """One request took so long."""
        self.latencies_s.append(latency_s)

    @property
    def delay_s(self) -> float | None:
        """None before that can be said."""
        if len(self.latencies_s) < MIN_SAMPLES:
            return None
        ordered = sorted(self.latencies_s)
        return self.margin * ordered[int(self.quantile * (len(ordered) - 1))]
