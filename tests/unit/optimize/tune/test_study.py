from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from optimize.recipe import Recipe
from optimize.sections import Serving, Tune
from optimize.tune.objective import Figures
from optimize.tune.space import Parameters, Space, space_of
from optimize.tune.study import Goal, Limits, open_study, propose, search
from optimize.tune.trials import Trial

GOAL = Goal("throughput", usd_per_hour=0.1, max_p99_ms=50.0, max_memory_mib=None)

Run = Callable[[int, Parameters, float | None], Trial]


@pytest.fixture
def space(small_recipe: Recipe) -> Space:
    tune = Tune(token_budget=(1024,), instances=(1, 2, 4), workers=(1, 2))
    return space_of(small_recipe.model_copy(update={"tune": tune, "serving": Serving()}), cores=2)


def rate_of(parameters: Parameters) -> float:
    """A made-up server: larger batches and no delay are better, and one instance with two workers."""
    return (
        float(parameters["max_batch_size"])
        + 20.0 * parameters["workers"] / parameters["instances"]
        - parameters["max_queue_delay_us"] / 100
        + 60.0
    )


def held(number: int, parameters: Parameters, _: float | None) -> Trial:
    return Trial(
        number=number,
        parameters=parameters,
        outcome="held",
        reason="",
        rate_per_s=rate_of(parameters),
        p99_ms=40.0,
        memory_bytes=100,
        seconds=1.0,
    )


def recording(run: Run, asked: list[Parameters]) -> Run:
    """The same trials, noted in the order in which they were asked for."""

    def record(number: int, parameters: Parameters, best: float | None) -> Trial:
        asked.append(parameters)
        return run(number, parameters, best)

    return record


def test_no_configuration_is_tried_twice_and_none_that_is_refused(space: Space, tmp_path: Path):
    asked: list[Parameters] = []
    trials = search(space, GOAL, recording(held, asked), tmp_path, Limits(20))
    assert len(trials) == len(asked) == 20
    assert len({tuple(one.values()) for one in asked}) == 20
    assert all(space.objection(one) is None for one in asked)
    assert asked[0] == space.default


def test_a_search_ends_when_there_is_nothing_left_to_try(space: Space, tmp_path: Path):
    values = {name: values[:2] for name, values in space.values.items()}
    small = replace(space, values=values, default={name: v[0] for name, v in values.items()})
    trials = search(small, GOAL, held, tmp_path, Limits(1_000))
    assert len(trials) == small.size == 16


def test_a_search_finds_a_better_configuration_than_the_start(space: Space, tmp_path: Path):
    trials = search(space, GOAL, held, tmp_path, Limits(25), seed=1)
    best = max(trial.rate_per_s for trial in trials)
    everything = sorted((rate_of(one) for one in space.grid()), reverse=True)
    assert best > rate_of(space.default)
    assert best >= everything[5]


def test_a_stopped_search_goes_on_and_repeats_only_what_was_under_way(space: Space, tmp_path: Path):
    asked: list[Parameters] = []

    def stop_at_the_fourth(number: int, parameters: Parameters, best: float | None) -> Trial:
        asked.append(parameters)
        if number == 3:
            raise KeyboardInterrupt
        return held(number, parameters, best)

    with pytest.raises(KeyboardInterrupt):
        search(space, GOAL, stop_at_the_fourth, tmp_path, Limits(8))
    resumed: list[Parameters] = []
    trials = search(space, GOAL, recording(held, resumed), tmp_path, Limits(8))
    assert len(trials) == 8
    assert [trial.number for trial in trials] == list(range(8))
    assert len(resumed) == 5
    assert not any(one in asked[:3] for one in resumed)


def test_a_finished_search_asks_nothing_again(space: Space, tmp_path: Path):
    first = search(space, GOAL, held, tmp_path, Limits(6))
    asked: list[Parameters] = []
    assert search(space, GOAL, recording(held, asked), tmp_path, Limits(6)) == first
    assert asked == []


def test_a_crashed_trial_is_kept_with_its_reason_and_the_search_goes_on(
    space: Space, tmp_path: Path
):
    def crash(number: int, parameters: Parameters, best: float | None) -> Trial:
        if parameters["instances"] == 2:
            return Trial(number=number, parameters=parameters, outcome="failed", reason="no memory")
        return held(number, parameters, best)

    trials = search(space, GOAL, crash, tmp_path, Limits(12))
    failed = [trial for trial in trials if trial.outcome == "failed"]
    assert len(trials) == 12
    assert failed
    assert all(trial.reason == "no memory" for trial in failed)


def test_a_trial_is_told_the_best_rate_that_held_all_limits(space: Space, tmp_path: Path):
    told: list[float | None] = []

    def run(number: int, parameters: Parameters, best: float | None) -> Trial:
        told.append(best)
        missed = number == 1  # fast, but in too much memory
        trial = held(number, parameters, best)
        changed = {"outcome": "missed", "rate_per_s": 9_999.0} if missed else {"rate_per_s": 10.0}
        return trial.model_copy(update=changed)

    search(space, GOAL, run, tmp_path, Limits(3))
    assert told == [None, 10.0, 10.0]


def test_time_that_is_up_ends_a_search_also_after_it_was_stopped(space: Space, tmp_path: Path):
    first = search(space, GOAL, held, tmp_path, Limits(4))  # each took a second, by its own account
    assert search(space, GOAL, held, tmp_path, Limits(50, seconds=3.9)) == first


def test_a_grid_goes_in_nested_loops_and_a_shuffled_one_does_not(space: Space, tmp_path: Path):
    asked: list[Parameters] = []
    search(space, GOAL, recording(held, asked), tmp_path / "grid", Limits(5), how="grid")
    shuffled: list[Parameters] = []
    limits = Limits(5)
    search(space, GOAL, recording(held, shuffled), tmp_path / "s", limits, how="shuffled-grid")
    assert asked == list(space.grid())[:5]
    assert shuffled != asked


def test_too_much_memory_steers_the_search_away(space: Space, tmp_path: Path):
    def hungry(number: int, parameters: Parameters, best: float | None) -> Trial:
        trial = held(number, parameters, best)
        return trial.model_copy(update={"memory_bytes": parameters["max_batch_size"] * 2**20})

    def large_ones(max_memory_mib: int | None) -> int:
        goal = Goal("cost", 0.1, 50.0, max_memory_mib)
        trials = search(space, goal, hungry, tmp_path / str(max_memory_mib), Limits(20), seed=3)
        return sum(trial.parameters["max_batch_size"] == 128 for trial in trials[3:])

    assert large_ones(max_memory_mib=100) < large_ones(max_memory_mib=None)


def test_figures_of_a_failed_trial_do_not_exist():
    trial = Trial(number=0, parameters={"instances": 1}, outcome="failed", reason="")
    assert trial.figures is None
    assert isinstance(held(0, {"max_batch_size": 1, "max_queue_delay_us": 0, "workers": 1,
                               "instances": 1}, None).figures, Figures)  # fmt: skip


def test_a_search_killed_before_a_proposal_was_taken_up_goes_on(space: Space, tmp_path: Path):
    search(space, GOAL, held, tmp_path, Limits(2))
    study = open_study(tmp_path, 0)
    study.enqueue_trial({"instances": 0})
    propose(study, space, space.default)  # takes up the one before, and leaves this one waiting
    trials = search(space, GOAL, held, tmp_path, Limits(4))
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert all(trial.state.is_finished() for trial in open_study(tmp_path, 0).trials)
