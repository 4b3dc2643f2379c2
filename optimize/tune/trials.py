"""One configuration tried: served by a real Triton, loaded to its limit, stopped."""

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from models.manifest import Record
from optimize.errors import TuneError
from optimize.recipe import Recipe
from optimize.tune.edit import write_edited
from optimize.tune.objective import (
    SEARCH_TOLERANCE,
    Figures,
    Probed,
    Reached,
    highest_rate,
    violations,
)
from optimize.tune.server import Load, Probe, Server, prober, served

COLD_START_PER_S = 100.0  # the first rate that is tried when nothing is known
SEARCH_ATTEMPTS = 2


class Trial(Record):
    """What became of one configuration.

    `held`: it holds all limits at `rate_per_s`; `missed`: it does not, not even at the least rate or not in
    the memory allowed; `failed`: it could not be measured. `reason` says so in words.
    """

    number: int
    parameters: dict[str, int]
    outcome: Literal["held", "missed", "failed"]
    reason: str
    rate_per_s: float = 0.0
    p99_ms: float | None = None
    memory_bytes: int | None = None
    generator_limited: bool = False
    probes: list[Probed] = Field(default_factory=list)
    seconds: float = 0.0

    @property
    def figures(self) -> Figures | None:
        """What it is judged by; None when it could not be measured."""
        if self.memory_bytes is None:
            return None
        return Figures(
            parameters=self.parameters,
            rate_per_s=self.rate_per_s,
            p99_ms=self.p99_ms,
            memory_bytes=self.memory_bytes,
        )


@dataclass(frozen=True)
class Bench:
    """What all trials share: the packaged repository, the load, and a folder for copies and logs."""

    recipe: Recipe
    repository: Path
    load: Load
    work: Path


@contextlib.contextmanager
def running(
    bench: Bench, parameters: Mapping[str, int], name: str
) -> Iterator[tuple[Server, Probe]]:
    """A configuration served, with a load generator for it. The logs stay in `work/<name>`.

    Raises TuneError when Triton does not start.
    """
    folder = bench.work / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        write_edited(bench.recipe, bench.repository, parameters, folder / "repository")
        with (
            served(folder / "repository", folder) as server,
            prober(server, bench.load, folder) as probe,
        ):
            yield server, probe
    finally:
        shutil.rmtree(folder / "repository", ignore_errors=True)


def run_trial(
    bench: Bench, number: int, parameters: dict[str, int], best_per_s: float | None
) -> Trial:
    """Measure one configuration; a crash makes it a failed trial."""
    began_s = time.monotonic()
    tune = bench.recipe.tune
    try:
        with running(bench, parameters, f"trial-{number:03d}") as (server, probe):
            reached = highest_rate(
                lambda rate_per_s: probe(rate_per_s, tune.seed),
                best_per_s or COLD_START_PER_S,
                tune.min_rate_per_s,
                best_per_s,
                SEARCH_ATTEMPTS,
                SEARCH_TOLERANCE,
            )
            memory_bytes = server.memory_bytes()
    except TuneError as error:
        seconds = time.monotonic() - began_s
        return Trial(
            number=number,
            parameters=parameters,
            outcome="failed",
            reason=str(error),
            seconds=seconds,
        )
    return judge(
        bench.recipe, number, parameters, reached, memory_bytes, time.monotonic() - began_s
    )


def judge(
    recipe: Recipe,
    number: int,
    parameters: dict[str, int],
    reached: Reached,
    memory_bytes: int,
    seconds: float,
) -> Trial:
    """Whether what was measured holds the recipe's limits, in words. Pure."""
    tune = recipe.tune
    figures = Figures(
        parameters=parameters,
        rate_per_s=reached.rate_per_s,
        p99_ms=reached.p99_ms,
        memory_bytes=memory_bytes,
    )
    over = violations(figures, tune.max_p99_ms, tune.max_memory_mib)
    if reached.rate_per_s == 0:
        errors = sum(probed.errors for probed in reached.probes)
        failing = f", {errors} requests failed" if errors else ""
        reason = (
            f"p99 is above {tune.max_p99_ms:g} ms at {tune.min_rate_per_s:g}/s already{failing}"
        )
    elif over.get("memory", 0.0) > 0:
        reason = f"{memory_bytes / 2**20:.0f} MiB are more than {tune.max_memory_mib}"
    else:
        reason = f"p99 within {tune.max_p99_ms:g} ms up to {reached.rate_per_s:.0f}/s"
        if reached.generator_limited:
            reason += ", where the load generator was at its own limit"
    return Trial(
        number=number,
        parameters=parameters,
        outcome="held" if all(by <= 0 for by in over.values()) else "missed",
        reason=reason,
        rate_per_s=reached.rate_per_s,
        p99_ms=reached.p99_ms,
        memory_bytes=memory_bytes,
        generator_limited=reached.generator_limited,
        probes=reached.probes,
        seconds=seconds,
    )
