"""Which configuration to try next: Optuna's TPE with a journal, so that a killed study resumes.

https://optuna.readthedocs.io: ask-and-tell, JournalStorage, Trial.set_constraint. The journal holds every
finished trial; one that was under way when the study was killed is tried again.
"""

import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from optimize.tune.objective import value_of, violations
from optimize.tune.space import NAMES, Parameters, Space, first_guesses
from optimize.tune.trials import Trial

JOURNAL_NAME = "study.journal"
ATTRIBUTE = "trial"  # our own record of a trial, as JSON
RANDOM_TRIALS = 6  # before the model of TPE is asked; the first guesses are among them

Search = Literal["tpe", "grid", "shuffled-grid"]
Key = tuple[int, ...]


@dataclass(frozen=True)
class Limits:
    """When a study is over: after so many trials, or when their time is up."""

    trials: int
    seconds: float | None = None


@dataclass(frozen=True)
class Goal:
    """What trials are compared by."""

    objective: Literal["throughput", "cost"]
    usd_per_hour: float
    max_p99_ms: float
    max_memory_mib: int | None


def search(
    space: Space,
    goal: Goal,
    run: Callable[[int, Parameters, float | None], Trial],
    folder: Path,
    limits: Limits,
    how: Search = "tpe",
    seed: int = 0,
) -> list[Trial]:
    """Try configurations until a limit is reached; those finished earlier in `folder` count.

    `run(number, parameters, best rate so far)` carries out a trial. A configuration that `space` objects to
    is never run.
    """
    study = open_study(folder, seed)
    tried = {key_of(trial.parameters): trial for trial in finished_trials(study)}
    proposals = proposals_of(study, space, tried.keys(), how, seed)
    began_s = time.monotonic() - sum(trial.seconds for trial in tried.values())
    while len(tried) < limits.trials:
        if limits.seconds is not None and time.monotonic() - began_s >= limits.seconds:
            break
        proposed = next(proposals, None)
        if proposed is None:
            break
        proposal, parameters = proposed
        trial = run(len(tried), parameters, best_rate(tried.values()))
        tell(study, proposal, trial, goal)
        tried[key_of(parameters)] = trial
    return sorted(tried.values(), key=lambda trial: trial.number)


def open_study(folder: Path, seed: int) -> optuna.Study:
    """The study in `folder`, or a new one. Trials that were under way when it was killed are given up."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL_NAME)))
    study = optuna.create_study(
        storage=storage, study_name="serving", direction="maximize", load_if_exists=True
    )
    study.sampler = sampler_of(seed + len(study.trials))
    for _ in study.get_trials(states=(TrialState.WAITING,)):
        study.ask()  # takes one that waits: only a running trial may be given up
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def sampler_of(seed: int) -> optuna.samplers.BaseSampler:
    """TPE; a resumed study needs another seed, or it would begin with the same random trials."""
    return optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed)


def finished_trials(study: optuna.Study) -> list[Trial]:
    """Our own records of what the journal holds, in the order in which they were tried."""
    records = [trial.user_attrs.get(ATTRIBUTE) for trial in study.trials]
    return [Trial.model_validate_json(record) for record in records if record is not None]


def proposals_of(
    study: optuna.Study, space: Space, tried: Collection[Key], how: Search, seed: int
) -> Iterator[tuple[optuna.Trial, Parameters]]:
    """What to try, one after the other: each configuration at most once. `tried` grows meanwhile."""
    given = first_guesses(space) if how == "tpe" else list(space.grid())
    if how == "shuffled-grid":
        random.Random(seed).shuffle(given)
    for parameters in given:
        if key_of(parameters) not in tried:
            yield propose(study, space, parameters), parameters
    while how == "tpe":
        proposal = study.ask()
        suggested = space.normal(suggest(proposal, space))
        nearest = nearest_untried(space, suggested, tried)
        if nearest is None:
            return
        if nearest != suggested:
            study.tell(proposal, state=TrialState.FAIL)
            proposal = propose(study, space, nearest)
        yield proposal, nearest


def propose(study: optuna.Study, space: Space, parameters: Parameters) -> optuna.Trial:
    """A configuration of ours as if Optuna had suggested it."""
    study.enqueue_trial(indices_of(space, parameters))
    proposal = study.ask()
    suggest(proposal, space)
    return proposal


def suggest(proposal: optuna.Trial, space: Space) -> Parameters:
    """What Optuna suggests. It is asked for places among the values, so that it knows their order."""
    places = {name: proposal.suggest_int(name, 0, len(space.values[name]) - 1) for name in NAMES}
    return {name: space.values[name][place] for name, place in places.items()}


def nearest_untried(
    space: Space, suggested: Parameters, tried: Collection[Key]
) -> Parameters | None:
    """The valid configuration closest to a suggestion that was not tried yet; None when all were.

    TPE suggests what it likes again and again, and knows nothing of what must not be started: its
    neighbours are the next best thing to try.
    """
    wanted = indices_of(space, suggested)

    def distance(parameters: Parameters) -> int:
        found = indices_of(space, parameters)
        return sum(abs(found[name] - wanted[name]) for name in NAMES)

    untried = [parameters for parameters in space.grid() if key_of(parameters) not in tried]
    return min(untried, key=distance, default=None)


def indices_of(space: Space, parameters: Parameters) -> dict[str, int]:
    """The place of each parameter among its values."""
    return {name: space.values[name].index(parameters[name]) for name in NAMES}


def key_of(parameters: Mapping[str, int]) -> Key:
    """A configuration as a value that sets and dicts hold."""
    return tuple(parameters.values())


def best_rate(trials: Iterable[Trial]) -> float | None:
    """The highest rate so far within all limits; None before there is one."""
    return max((trial.rate_per_s for trial in trials if trial.outcome == "held"), default=None)


def tell(study: optuna.Study, proposal: optuna.Trial, trial: Trial, goal: Goal) -> None:
    """What a trial was worth and by how much it exceeds each limit, with our own record of it."""
    proposal.set_user_attr(ATTRIBUTE, trial.model_dump_json())
    figures = trial.figures
    if figures is None:
        study.tell(proposal, state=TrialState.FAIL)
        return
    for name, by in violations(figures, goal.max_p99_ms, goal.max_memory_mib).items():
        proposal.set_constraint(name, by)
    study.tell(proposal, value_of(goal.objective, figures.rate_per_s, goal.usd_per_hour))
