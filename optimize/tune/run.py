"""The search from top to bottom: check -> search -> confirm -> choose -> keep -> publish."""

import argparse
import datetime
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from models.files import write_atomically
from models.hardware import hardware_facts
from models.manifest import INPUTS, Record, Tuning
from models.prices import Price, find_price, load_prices, usd_per_million
from optimize.errors import TuneError
from optimize.package import Published
from optimize.recipe import Recipe
from optimize.tune.apply import Tuned, keep_tuned, publish_tuned, tuning_key
from optimize.tune.confirm import Confirmed, choose, confirm, finalists
from optimize.tune.edit import check_repository
from optimize.tune.objective import Figures, pareto_front
from optimize.tune.server import Load
from optimize.tune.space import parameters_of, space_of
from optimize.tune.study import Goal, Limits, Search, search
from optimize.tune.trials import Bench, Trial, run_trial

MAX_ITEMS = 5000
REPORT_NAME = "tuning.json"
ITEMS_NAME = "items.jsonl"


@dataclass(frozen=True)
class Plan:
    """How long to search, and where what lies.

    `folder` keeps studies, the report and what later packagings take over; `destination` is where the tuned
    repository is published, often in place of `repository`.
    """

    repository: Path
    destination: Path
    folder: Path
    limits: Limits
    rounds: int = 5
    how: Search = "tpe"


def plan_of(recipe: Recipe, options: argparse.Namespace) -> Plan:
    """The plan of a command line. Raises TuneError when it asks for nothing."""
    trials = recipe.tune.trials if options.trials is None else options.trials
    if trials < 1 or options.rounds < 1 or (options.minutes is not None and options.minutes <= 0):
        raise TuneError("a search needs at least one trial, one round and some time")
    return Plan(
        repository=options.repository,
        destination=options.publish or options.repository,
        folder=options.folder,
        limits=Limits(trials, None if options.minutes is None else options.minutes * 60),
        rounds=options.rounds,
        how=options.search,
    )


class TuneReport(Record):
    """Everything that a search tried and found. Rates are items per second within the p99 limit."""

    schema_version: int = 1
    model: str
    variant: str
    key: str
    search: str
    objective: str
    max_p99_ms: float
    max_memory_mib: int | None
    price: Price
    usd_per_million: float | None
    space: dict[str, list[int]]
    configurations: int
    trials: list[Trial]
    pareto_front: list[Figures]
    confirmed: list[Confirmed]
    verdict: str
    tuned: Tuned
    load_before: float
    created_at: str


def tune(
    recipe: Recipe, plan: Plan, items: Sequence[Any], announce: Callable[[str], None]
) -> tuple[TuneReport, Published]:
    """Search the serving parameters of a packaged repository and publish it with what was found.

    `items` are what the model is asked in production: texts, or pairs for a reranker. A search that was
    stopped goes on where it was. Raises ManifestError or TuneError when the repository cannot be tuned by
    this recipe or nothing holds its limits, PricesError for an instance without a price.
    """
    manifest = check_repository(recipe, plan.repository)
    price = find_price(load_prices(), recipe.tune.instance)
    load_before = os.getloadavg()[0]
    version = plan.repository / recipe.name / str(manifest.version)
    key = tuning_key(recipe, version / "model.onnx", version / "tokenizer.json")
    bench = prepare(recipe, plan, items, plan.folder / f"{key}-{plan.how}")
    space = space_of(recipe, int(hardware_facts()["cores"]))

    trials = search(
        space,
        goal_of(recipe, price),
        partial(announced_trial, bench, announce, min(plan.limits.trials, space.size)),
        bench.work,
        plan.limits,
        plan.how,
        recipe.tune.seed,
    )
    confirmed = confirm(bench, finalists(trials, space.default), trials, plan.rounds, announce)
    best, verdict = choose(confirmed, recipe.tune.max_memory_mib)
    announce(verdict)

    tuned = describe(recipe, trials, confirmed[0], best)
    report = TuneReport(
        model=manifest.name,
        variant=manifest.variant,
        key=key,
        search=plan.how,
        objective=recipe.tune.objective,
        max_p99_ms=recipe.tune.max_p99_ms,
        max_memory_mib=recipe.tune.max_memory_mib,
        price=price,
        usd_per_million=dollars(price, tuned.tuning.rate_per_s),
        space={name: list(values) for name, values in space.values.items()},
        configurations=space.size,
        trials=trials,
        pareto_front=pareto_front(tuned.tried),
        confirmed=confirmed,
        verdict=verdict,
        tuned=tuned,
        load_before=load_before,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    write_atomically(plan.folder / REPORT_NAME, report.model_dump_json(indent=2).encode() + b"\n")
    keep_tuned(tuned, key, plan.folder)
    return report, publish_tuned(recipe, plan.repository, tuned, plan.destination, bench.work)


def prepare(recipe: Recipe, plan: Plan, items: Sequence[Any], work: Path) -> Bench:
    """The folder of a study with what is sent; an interrupted trial's copies are cleared away."""
    work.mkdir(parents=True, exist_ok=True)
    for leftover in work.glob("*/repository"):
        shutil.rmtree(leftover, ignore_errors=True)
    rows = [[item] if isinstance(item, str) else list(item) for item in items[:MAX_ITEMS]]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(work / ITEMS_NAME, lines.encode())
    load = Load(
        model=recipe.name,
        inputs=INPUTS[recipe.task],
        items=work / ITEMS_NAME,
        seconds=recipe.tune.probe_s,
        max_p99_ms=recipe.tune.max_p99_ms,
    )
    return Bench(recipe, plan.repository, load, work)


def announced_trial(
    bench: Bench,
    announce: Callable[[str], None],
    trials: int,
    number: int,
    parameters: dict[str, int],
    best_per_s: float | None,
) -> Trial:
    """Run a trial and say in a line what came of it."""
    trial = run_trial(bench, number, parameters, best_per_s)
    words = ", ".join(f"{name} {value}" for name, value in parameters.items())
    announce(f"trial {number + 1} of {trials}: {words}: {trial.reason}")
    return trial


def goal_of(recipe: Recipe, price: Price) -> Goal:
    """What the recipe asks for."""
    tune = recipe.tune
    return Goal(tune.objective, price.usd_per_hour, tune.max_p99_ms, tune.max_memory_mib)


def dollars(price: Price, rate_per_s: float) -> float | None:
    """Dollars per million requests; None at no rate at all."""
    return usd_per_million(price.usd_per_hour, rate_per_s) if rate_per_s else None


def describe(recipe: Recipe, trials: Sequence[Trial], default: Confirmed, best: Confirmed) -> Tuned:
    """What was chosen with its evidence. Raises TuneError when not even that holds the limits."""
    if best.median_rate == 0 or best.median_p99_ms is None:
        raise TuneError(
            f"nothing holds p99 within {recipe.tune.max_p99_ms:g} ms at {recipe.tune.min_rate_per_s:g} "
            "requests per second: allow more with tune.max_p99_ms, or use a smaller variant"
        )
    # The recipe's own spelling of its default (workers: 0) stays when the default does.
    written = parameters_of(recipe.serving)
    parameters = written if best is default else best.parameters
    return Tuned(
        parameters=parameters,
        tuning=Tuning(
            parameters=parameters,
            default_parameters=written,
            max_p99_ms=recipe.tune.max_p99_ms,
            rate_per_s=best.median_rate,
            p99_ms=best.median_p99_ms,
            default_rate_per_s=default.median_rate,
            memory_bytes=best.memory_bytes,
            trials=len(trials),
            seconds=round(sum(trial.seconds for trial in trials), 1),
            hardware=hardware_facts(),
        ),
        tried=[trial.figures for trial in trials if trial.figures and trial.rate_per_s],
    )
