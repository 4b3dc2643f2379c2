import pytest

from optimize.recipe import Recipe
from optimize.sections import Serving, Tune
from optimize.tune.space import (
    NAMES,
    Space,
    first_guesses,
    parameters_of,
    recipe_with,
    space_of,
)


@pytest.fixture
def space(small_recipe: Recipe) -> Space:
    return space_of(small_recipe, cores=2)


def tuned_recipe(recipe: Recipe, tune: Tune, serving: Serving) -> Recipe:
    return recipe.model_copy(update={"tune": tune, "serving": serving})


def test_the_recipes_own_values_can_always_be_tried(small_recipe: Recipe):
    serving = Serving(max_batch_size=48, max_queue_delay_us=300, instances=3, token_budget=700)
    space = space_of(tuned_recipe(small_recipe, Tune(), serving), cores=4)
    assert all(space.default[name] in space.values[name] for name in NAMES)
    assert space.default in list(space.grid())
    assert space.objection(space.default) is None


def test_one_run_per_core_is_the_same_configuration_in_both_spellings(space: Space):
    named = {**space.default, "workers": 2}
    automatic = {**space.default, "workers": 0}
    assert space.normal(named) == space.normal(automatic)


def test_a_queue_delay_means_nothing_for_single_texts(space: Space):
    one = {**space.default, "max_batch_size": 1}
    assert space.normal({**one, "max_queue_delay_us": 5000}) == space.normal(
        {**one, "max_queue_delay_us": 0}
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"instances": 4, "workers": 2}, "8 runs at a time on 2 core"),
        ({"max_queue_delay_us": 50_000}, "as long as p99 allows"),
        ({"token_budget": 128}, "256 tokens"),
    ],
)
def test_what_cannot_be_any_good_is_refused_with_the_reason(
    space: Space, changed: dict[str, int], words: str
):
    assert words in str(space.objection({**space.default, **changed}))


def test_the_grid_holds_every_valid_configuration_once(small_recipe: Recipe):
    tune = Tune(
        max_batch_size=(1, 64),
        max_queue_delay_us=(0, 500, 60_000),
        instances=(1, 4),
        workers=(1, 2),
        token_budget=(1024,),
    )
    space = space_of(tuned_recipe(small_recipe, tune, Serving()), cores=2)
    grid = list(space.grid())
    # (batch, delay) is (1, 0), (64, 0) or (64, 500); (instances, workers) is (1, 1), (1, 2) or (4, 1).
    assert len(grid) == space.size == 9
    assert len({tuple(one.values()) for one in grid}) == 9


def test_the_first_guesses_are_valid_and_begin_with_the_recipe(space: Space):
    guesses = first_guesses(space)
    assert guesses[0] == space.default
    assert {"instances": 2, "workers": 1}.items() <= guesses[1].items()
    assert all(space.objection(guess) is None for guess in guesses)


def test_a_recipe_with_other_parameters_keeps_what_is_not_searched(small_recipe: Recipe):
    recipe = small_recipe.model_copy(update={"serving": Serving(vectors="fp16")})
    changed = recipe_with(recipe, {**parameters_of(recipe.serving), "instances": 2})
    assert changed.serving == Serving(vectors="fp16", instances=2)
    assert changed.evaluation == recipe.evaluation
