"""Which serving parameters may be tried together."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from optimize.recipe import Recipe
from optimize.sections import Serving

Parameters = dict[str, int]  # by name as in the recipe's section `serving`

NAMES = ("max_batch_size", "max_queue_delay_us", "instances", "workers", "token_budget")
THREADS_PER_CORE = 2  # more runs at a time than this only wait for one another


@dataclass(frozen=True)
class Space:
    """The values of each parameter in ascending order, and what a combination must respect.

    The recipe's own values (`default`) are always among them.
    """

    values: Mapping[str, tuple[int, ...]]
    default: Parameters
    cores: int
    max_p99_ms: float
    longest_tokens: int

    @property
    def size(self) -> int:
        """How many different configurations may be tried."""
        return sum(1 for _ in self.grid())

    def grid(self) -> Iterator[Parameters]:
        """Every valid configuration once, as nested loops give them: the last parameter runs fastest."""
        seen = set()
        for chosen in itertools.product(*(self.values[name] for name in NAMES)):
            parameters = self.normal(dict(zip(NAMES, chosen, strict=True)))
            key = tuple(parameters.values())
            if key not in seen and self.objection(parameters) is None:
                seen.add(key)
                yield parameters

    def normal(self, parameters: Mapping[str, int]) -> Parameters:
        """The one of several spellings of the same configuration that is tried for all of them."""
        normal = {name: parameters[name] for name in NAMES}
        normal["workers"] = normal["workers"] or self.cores
        if normal["max_batch_size"] == 1:
            normal["max_queue_delay_us"] = 0  # there is nothing to wait for
        return normal

    def objection(self, parameters: Mapping[str, int]) -> str | None:
        """Why a configuration cannot be any good, so that it is never started; never of the default."""
        if dict(parameters) == self.default:
            return None
        threads = parameters["instances"] * parameters["workers"]
        if threads > THREADS_PER_CORE * self.cores:
            return f"{threads} runs at a time on {self.cores} core(s)"
        if parameters["max_queue_delay_us"] >= self.max_p99_ms * 1e3:
            return "the queue alone may hold a request for as long as p99 allows"
        if parameters["token_budget"] < self.longest_tokens:
            return f"the longest text ({self.longest_tokens} tokens) does not fit into token_budget"
        return None


def space_of(recipe: Recipe, cores: int) -> Space:
    """What the recipe's sections `tune` and `serving` allow on a machine with so many cores."""
    tune, default = recipe.tune, parameters_of(recipe.serving)
    values = {name: tuple(sorted({*getattr(tune, name), default[name]} - {0})) for name in NAMES}
    values["workers"] = tuple(sorted({*values["workers"], default["workers"] or cores}))
    values["max_queue_delay_us"] = tuple(
        sorted({*tune.max_queue_delay_us, default["max_queue_delay_us"]})
    )
    space = Space(values, default, cores, tune.max_p99_ms, recipe.max_tokens)
    return replace(space, default=space.normal(default))


def parameters_of(serving: Serving) -> Parameters:
    """The searched part of a recipe's section `serving`."""
    return {name: getattr(serving, name) for name in NAMES}


def recipe_with(recipe: Recipe, parameters: Mapping[str, int]) -> Recipe:
    """The recipe with other serving parameters; what is not searched stays as it is."""
    serving = recipe.serving.model_copy(update=dict(parameters))
    return recipe.model_copy(update={"serving": serving})


def first_guesses(space: Space) -> list[Parameters]:
    """What is tried before anything is known: the recipe, and each classic answer to load.

    Several instances with one run each (one queue, nothing shared), and larger batches behind a delay.
    """
    largest = space.values["max_batch_size"][-1]
    delays = [delay for delay in space.values["max_queue_delay_us"] if delay > 0]
    guesses = [space.default]
    if space.cores in space.values["instances"] and 1 in space.values["workers"]:
        guesses.append({**space.default, "instances": space.cores, "workers": 1})
    if delays:
        guesses.append(
            {**space.default, "max_batch_size": largest, "max_queue_delay_us": delays[0]}
        )
    normal = [space.normal(guess) for guess in guesses]
    return [
        guess
        for i, guess in enumerate(normal)
        if guess not in normal[:i] and space.objection(guess) is None
    ]
