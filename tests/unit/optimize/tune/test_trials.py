import pytest

from optimize.recipe import Recipe
from optimize.sections import Tune
from optimize.tune.objective import Probed, Reached
from optimize.tune.trials import Trial, judge

MIB = 2**20


@pytest.fixture
def recipe(small_recipe: Recipe) -> Recipe:
    tune = Tune(max_p99_ms=50.0, max_memory_mib=300, min_rate_per_s=10.0)
    return small_recipe.model_copy(update={"tune": tune})


def probed(holds: bool, errors: int = 0) -> Probed:
    return Probed(
        rate_per_s=10.0,
        p50_ms=5.0,
        p99_ms=30.0 if holds else 70.0,
        holds=holds,
        errors=errors,
        generator_saturated=False,
    )


def judged(
    recipe: Recipe, rate: float, memory_mib: int = 200, errors: int = 0, limited: bool = False
) -> Trial:
    reached = Reached(
        rate_per_s=rate,
        p99_ms=30.0 if rate else None,
        generator_limited=limited,
        probes=[probed(rate > 0, errors)],
    )
    return judge(recipe, 0, {"instances": 1}, reached, memory_mib * MIB, 1.0)


def test_what_holds_all_limits_is_held_at_its_rate(recipe: Recipe):
    trial = judged(recipe, 400.0)
    assert trial.outcome == "held"
    assert "up to 400/s" in trial.reason
    assert trial.figures is not None


def test_too_much_memory_is_missed_and_says_how_much(recipe: Recipe):
    trial = judged(recipe, 400.0, memory_mib=301)
    assert trial.outcome == "missed"
    assert trial.reason == "301 MiB are more than 300"


def test_not_even_the_least_rate_is_missed_with_what_failed(recipe: Recipe):
    trial = judged(recipe, 0.0, errors=7)
    assert trial.outcome == "missed"
    assert trial.reason == "p99 is above 50 ms at 10/s already, 7 requests failed"


def test_a_rate_that_may_be_the_generators_says_so(recipe: Recipe):
    assert "load generator" in judged(recipe, 400.0, limited=True).reason
