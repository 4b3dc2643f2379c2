"""The best few against the default, measured in turns: what the machine did meanwhile, it did to all."""

import contextlib
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from models.files import write_atomically
from models.manifest import Record
from optimize.errors import TuneError
from optimize.tune.objective import Probed, highest_rate
from optimize.tune.server import Probe, Server
from optimize.tune.trials import COLD_START_PER_S, Bench, Trial, running

FINALISTS = 2  # beside the default: each costs as much time as the default itself
ROUNDS_NAME = "rounds.json"


class Turn(Record):
    """The highest rate that one configuration held in one round; `p99_ms` at that rate.

    `generator_limited`: the load generator was at its own limit, the rate is a lower bound.
    """

    rate_per_s: float
    p99_ms: float | None
    memory_bytes: int
    generator_limited: bool = False


class Confirmed(Record):
    """A configuration with what it reached in every round; rounds pair up with those of the others."""

    parameters: dict[str, int]
    turns: list[Turn]

    @property
    def rates(self) -> list[float]:
        """The rate of each round."""
        return [turn.rate_per_s for turn in self.turns]

    @property
    def median_rate(self) -> float:
        """The middle one."""
        return statistics.median(self.rates)

    @property
    def median_p99_ms(self) -> float | None:
        """The median of the p99 of rounds in which any rate held."""
        found = [turn.p99_ms for turn in self.turns if turn.p99_ms is not None]
        return statistics.median(found) if found else None

    @property
    def memory_bytes(self) -> int:
        """The most that it took."""
        return max(turn.memory_bytes for turn in self.turns)


def finalists(trials: Sequence[Trial], default: Mapping[str, int]) -> list[dict[str, int]]:
    """The default and the best others, to be compared in earnest."""
    held = [
        trial for trial in trials if trial.outcome == "held" and trial.parameters != dict(default)
    ]
    best = sorted(held, key=lambda trial: -trial.rate_per_s)[:FINALISTS]
    return [dict(default), *(trial.parameters for trial in best)]


def confirm(
    bench: Bench,
    candidates: Sequence[dict[str, int]],
    trials: Sequence[Trial],
    rounds: int,
    announce: Callable[[str], None],
) -> list[Confirmed]:
    """All candidates served at the same time and loaded one after the other, in several rounds.

    Rounds that `work` holds of the same candidates are kept. Raises TuneError when one does not start.
    """
    path = bench.work / ROUNDS_NAME
    done = read_rounds(path, candidates)[:rounds]
    if len(done) < rounds:
        about = {tuple(trial.parameters.values()): trial.rate_per_s for trial in trials}
        with contextlib.ExitStack() as up:
            servers = [
                (
                    *up.enter_context(running(bench, parameters, f"finalist-{i}")),
                    about.get(tuple(parameters.values())) or COLD_START_PER_S,
                )
                for i, parameters in enumerate(candidates)
            ]
            for number in range(len(done), rounds):
                done.append(play_round(servers, number, bench.recipe.tune.min_rate_per_s))
                write_rounds(path, candidates, done)
                rates = ", ".join(f"{turn.rate_per_s:.0f}/s" for turn in done[-1])
                announce(f"round {number + 1} of {rounds}, default first: {rates}")
    return [
        Confirmed(parameters=parameters, turns=[turns[i] for turns in done])
        for i, parameters in enumerate(candidates)
    ]


def play_round(
    servers: Sequence[tuple[Server, Probe, float]], number: int, floor_per_s: float
) -> list[Turn]:
    """Every server's highest rate with the same arrivals, from about where it was before.

    Every other round goes backwards, so that drift favours none.
    """
    turns: dict[int, Turn] = {}
    order = range(len(servers)) if number % 2 == 0 else range(len(servers))[::-1]
    for i in order:
        server, probe, about_per_s = servers[i]
        reached = highest_rate(
            partial(with_seed, probe, number + 1), about_per_s, floor_per_s, about_per_s
        )
        turns[i] = Turn(
            rate_per_s=reached.rate_per_s,
            p99_ms=reached.p99_ms,
            memory_bytes=server.memory_bytes(),
            generator_limited=reached.generator_limited,
        )
    return [turns[i] for i in range(len(servers))]


def with_seed(probe: Probe, seed: int, rate_per_s: float) -> Probed:
    """A probe whose arrivals are decided."""
    return probe(rate_per_s, seed)


def read_rounds(path: Path, candidates: Sequence[dict[str, int]]) -> list[list[Turn]]:
    """The rounds that were finished with the same candidates before; none when they were others."""
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    if stored["candidates"] != list(candidates):
        return []
    return TypeAdapter(list[list[Turn]]).validate_python(stored["rounds"])


def write_rounds(
    path: Path, candidates: Sequence[dict[str, int]], rounds: Sequence[Sequence[Turn]]
) -> None:
    """Keep finished rounds for a confirmation that resumes."""
    content = {
        "candidates": list(candidates),
        "rounds": [[turn.model_dump() for turn in turns] for turns in rounds],
    }
    write_atomically(path, json.dumps(content).encode())


def choose(confirmed: Sequence[Confirmed], max_memory_mib: int | None) -> tuple[Confirmed, str]:
    """The configuration to serve with, and why, in words. The first is the default.

    Another one must be ahead of it in every round, and its median above everything that the default
    reached: less is noise. A default that needs more memory than allowed gives way to any that does not;
    raises TuneError when all do.
    """
    default, *others = confirmed
    limit_bytes = math.inf if max_memory_mib is None else max_memory_mib * 2**20
    within = [one for one in others if one.memory_bytes <= limit_bytes]
    best = max(within, key=lambda one: one.median_rate, default=None)
    of_default = f"{spread(default)} of the default"
    if default.memory_bytes > limit_bytes:
        too_much = f"{default.memory_bytes / 2**20:.0f} MiB, more than {max_memory_mib}"
        if best is None:
            raise TuneError(
                f"nothing fits: the default takes {too_much}: allow more with tune.max_memory_mib, or "
                "use a smaller variant"
            )
        return best, f"{spread(best)} against {of_default}, which takes {too_much}"
    if best is None:
        return default, f"the default stays at {spread(default)}: nothing else held the limits"
    ahead = [one for one in within if is_ahead(one, default)]
    if not ahead:
        return default, (
            f"the default stays at {spread(default)}: the best other reached {spread(best)}, which is "
            "not beyond the noise"
        )
    best = max(ahead, key=lambda one: one.median_rate)
    return best, f"{spread(best)} against {of_default}, in {len(best.turns)} rounds"


def is_ahead(one: Confirmed, default: Confirmed) -> bool:
    """Whether it beats the default in each round, and by its median in all of them at once."""
    in_each = all(own > other for own, other in zip(one.rates, default.rates, strict=True))
    return in_each and one.median_rate > max(default.rates)


def spread(one: Confirmed) -> str:
    """The median rate with its range, and a warning where it may be the load generator's."""
    limited = any(turn.generator_limited for turn in one.turns)
    bound = ", the load generator at its limit" if limited else ""
    return f"{one.median_rate:.0f}/s ({min(one.rates):.0f} to {max(one.rates):.0f}{bound})"
