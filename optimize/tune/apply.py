"""What a search found, kept for later packagings and written into the published repository."""

import json
import shutil
from pathlib import Path

from pydantic import ValidationError

from models.files import sha256_file, sha256_lines, write_atomically
from models.hardware import hardware_facts
from models.manifest import Record, Tuning
from optimize.package import Published, publish, served_code_digest
from optimize.recipe import Recipe
from optimize.tune.edit import write_tuned
from optimize.tune.objective import Figures
from optimize.tune.space import recipe_with

TUNE_FOLDER = Path("build/tune")


class Tuned(Record):
    """The serving parameters that were chosen for one model, and why."""

    parameters: dict[str, int]
    tuning: Tuning
    tried: list[Figures]
    """Every configuration that held the limits at some rate, in the order of the trials."""

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe with what was chosen in its section `serving`; what is not searched stays."""
        return recipe_with(recipe, self.parameters)


def tuning_key(recipe: Recipe, graph: Path, tokenizer: Path) -> str:
    """What a search is about: the model's bytes, the code that serves it, the limits and the machine.

    How long was searched (trials, probe_s, seed) does not matter. Other values in the recipe's section
    `serving` make another key: what you write there counts until you tune again.
    """
    tune = recipe.tune.model_dump(mode="json", exclude={"trials", "probe_s", "seed"})
    hardware = hardware_facts()
    parts = [
        sha256_file(graph),
        sha256_file(tokenizer),
        served_code_digest(),
        json.dumps([recipe.name, recipe.task, recipe.target, recipe.max_tokens]),
        json.dumps(recipe.serving.model_dump(mode="json"), sort_keys=True),
        json.dumps(tune, sort_keys=True),
        json.dumps([hardware["cpu"], hardware["cores"], hardware["gpu"]]),
    ]
    return sha256_lines(parts)[:16]


def find_tuned(
    recipe: Recipe, graph: Path, tokenizer: Path, folder: Path = TUNE_FOLDER
) -> Tuned | None:
    """What an earlier search chose for exactly this model on this machine; None when there was none."""
    path = folder / f"{tuning_key(recipe, graph, tokenizer)}.json"
    try:
        return Tuned.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):  # one of another version of Farshore is none
        return None


def keep_tuned(tuned: Tuned, key: str, folder: Path = TUNE_FOLDER) -> None:
    """Store what a search chose, for the packagings that follow."""
    write_atomically(folder / f"{key}.json", tuned.model_dump_json(indent=2).encode() + b"\n")


def publish_tuned(
    recipe: Recipe, repository: Path, tuned: Tuned, destination: Path, work: Path
) -> Published:
    """Publish `repository` with the chosen parameters at `destination`, which may be the same place."""
    assembled = work / "assembled"
    shutil.rmtree(assembled, ignore_errors=True)
    try:
        write_tuned(recipe, repository, tuned.parameters, tuned.tuning, assembled)
        return publish(assembled, destination)
    finally:
        shutil.rmtree(assembled, ignore_errors=True)
