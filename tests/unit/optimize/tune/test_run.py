import argparse
import json
from pathlib import Path

import pytest

from optimize.errors import TuneError
from optimize.recipe import Recipe
from optimize.tune.confirm import Confirmed, Turn
from optimize.tune.run import Plan, describe, plan_of, prepare
from optimize.tune.study import Limits


def options(**changed: object) -> argparse.Namespace:
    """A command line with nothing but the defaults."""
    given = {
        "repository": Path("repository"),
        "publish": None,
        "folder": Path("tune"),
        "trials": None,
        "minutes": None,
        "rounds": 5,
        "search": "tpe",
    }
    return argparse.Namespace(**(given | changed))


def confirmed(rate: float, parameters: dict[str, int]) -> Confirmed:
    turn = Turn(rate_per_s=rate, p99_ms=40.0 if rate else None, memory_bytes=2**28)
    return Confirmed(parameters=parameters, turns=[turn])


def test_without_options_the_recipe_decides_and_the_repository_is_replaced(small_recipe: Recipe):
    plan = plan_of(small_recipe, options())
    assert plan.limits == Limits(small_recipe.tune.trials, None)
    assert plan.destination == plan.repository
    assert plan_of(small_recipe, options(minutes=2.0, trials=3)).limits == Limits(3, 120.0)


@pytest.mark.parametrize(
    "changed", [{"trials": 0}, {"rounds": 0}, {"minutes": -1.0}, {"minutes": 0.0}]
)
def test_a_search_for_nothing_is_refused(small_recipe: Recipe, changed: dict[str, object]):
    with pytest.raises(TuneError, match="at least one"):
        plan_of(small_recipe, options(**changed))


def test_pairs_are_sent_with_a_text_for_each_input(small_recipe: Recipe, tmp_path: Path):
    recipe = small_recipe.model_copy(update={"task": "rerank"})
    plan = Plan(tmp_path, tmp_path, tmp_path, Limits(1))
    bench = prepare(recipe, plan, [("who", "me"), ("when", "now")], tmp_path / "work")
    lines = bench.load.items.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [["who", "me"], ["when", "now"]]
    assert bench.load.inputs == ("query", "text")


def test_what_an_interrupted_trial_left_is_cleared_away(small_recipe: Recipe, tmp_path: Path):
    leftover = tmp_path / "work/trial-003/repository"
    leftover.mkdir(parents=True)
    prepare(small_recipe, Plan(tmp_path, tmp_path, tmp_path, Limits(1)), ["a"], tmp_path / "work")
    assert not leftover.exists()


def test_a_default_that_stays_keeps_the_recipes_own_spelling(small_recipe: Recipe):
    default = confirmed(400.0, {"workers": 2})
    tuned = describe(small_recipe, [], default, default)
    assert tuned.parameters["workers"] == small_recipe.serving.workers == 0
    assert tuned.tuning.rate_per_s == tuned.tuning.default_rate_per_s == 400.0


def test_what_was_chosen_is_written_beside_the_default(small_recipe: Recipe):
    best = confirmed(600.0, {"instances": 2})
    tuned = describe(small_recipe, [], confirmed(400.0, {"instances": 1}), best)
    assert tuned.parameters == {"instances": 2}
    assert (tuned.tuning.rate_per_s, tuned.tuning.default_rate_per_s) == (600.0, 400.0)


def test_a_model_that_holds_no_rate_at_all_is_not_tuned(small_recipe: Recipe):
    nothing = confirmed(0.0, {"instances": 1})
    with pytest.raises(TuneError, match=r"allow more with tune\.max_p99_ms"):
        describe(small_recipe, [], nothing, nothing)
