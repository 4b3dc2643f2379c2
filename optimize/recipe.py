"""What to optimize, from where, and what counts as good enough: a YAML file, read strictly."""

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from models.files import sha256_lines
from models.manifest import INPUTS, OUTPUTS, Record
from models.triton.text_encoder.encoder import EncoderSettings
from optimize import sections
from optimize.errors import RecipeError
from optimize.sections import (
    Distill,
    Evaluation,
    Export,
    FineTune,
    FolderData,
    Gate,
    Name,
    OnnxSource,
    PackageSource,
    Quantize,
    Serving,
    Source,
    SpeedRun,
    TensorRT,
    Tune,
)
from optimize.variants import Variant, parse_variant

T = TypeVar("T", bound=BaseModel)

VariantName = Annotated[str, AfterValidator(lambda name: parse_variant(name).name)]

METRICS = {
    "embed": ("ndcg@10", "recall@1", "recall@10", "mrr@10"),
    "classify": ("accuracy", "macro_f1", "ece"),
    "rerank": ("ndcg@10", "recall@1", "mrr@10"),
}


class Recipe(Record):
    """One model to optimize."""

    name: Name
    task: Literal["embed", "classify", "rerank"]
    target: Literal["cpu", "gpu"] = "cpu"
    source: Source
    max_tokens: Annotated[int, Field(ge=8)] = 256
    variants: Annotated[tuple[VariantName, ...], Field(min_length=1)]
    fine_tune: FineTune | None = None
    distill: Distill | None = None
    export: Export = Export()
    quantize: Quantize = Quantize()
    tensorrt: TensorRT | None = None
    evaluation: Evaluation
    speed: SpeedRun = SpeedRun()
    gate: Gate = Gate()
    serving: Serving = Serving()
    tune: Tune = Tune()

    @property
    def parsed_variants(self) -> list[Variant]:
        """What the names in `variants` mean, in their order."""
        return [parse_variant(name) for name in self.variants]

    @property
    def has_raw_graph(self) -> bool:
        """Whether the source is an ONNX graph: then there is nothing to train or to export."""
        return isinstance(self.source, OnnxSource) or (
            isinstance(self.source, PackageSource) and self.source.onnx_file is not None
        )

    @model_validator(mode="after")
    def stages_fit_together(self) -> Self:
        """Refuse combinations that no stage could carry out."""
        problems = [words for wrong, words in contradictions(self) if wrong]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def contradictions(recipe: Recipe) -> list[tuple[bool, str]]:
    """Each rule between sections: whether it is broken, and what to do then."""
    families = {variant.family for variant in recipe.parsed_variants}
    given = any(variant.precision == "given" for variant in recipe.parsed_variants)
    distill = recipe.distill or Distill()
    metrics = METRICS[recipe.task]
    asked = {*recipe.gate.max_relative_loss, *recipe.gate.max_absolute_loss}
    unknown = sorted(asked - set(metrics))
    trains = recipe.fine_tune is not None or bool(families - {"source"})
    return [
        (
            "student" in families and distill.student is None,
            "student variants need distill.student: add it, or drop them from variants",
        ),
        (
            "student" in families and recipe.task == "rerank",
            "students of rerankers are not supported: drop the student variants",
        ),
        (
            "static" in families and (distill.static is None or recipe.task != "embed"),
            "static variants need distill.static and the task embed",
        ),
        (
            trains and isinstance(recipe.evaluation.data, FolderData) and distill.texts is None,
            "training needs texts: evaluation.data of kind folder holds none, name distill.texts",
        ),
        (
            recipe.fine_tune is not None and recipe.task != "classify",
            "fine_tune trains classifiers: drop it, or set task: classify",
        ),
        (
            recipe.task == "classify"
            and recipe.fine_tune is None
            and not getattr(recipe.evaluation.data, "labels", ()),
            "a classifier that is trained already needs evaluation.data.labels, its classes in the order "
            "of its outputs (kind labelled); else add fine_tune",
        ),
        (
            recipe.has_raw_graph and (trains or not given),
            "a raw ONNX graph cannot be trained, and its own variant is called `given`: "
            "use variants given, given-fused, int8 or qdq",
        ),
        (
            given and not recipe.has_raw_graph,
            "`given` is the variant of a raw ONNX graph: use fp32",
        ),
        (
            bool(unknown),
            f"gate: no metric {', '.join(unknown)} for {recipe.task}: use {', '.join(metrics)}",
        ),
        (
            recipe.serving.vectors != "fp32" and recipe.task != "embed",
            "serving.vectors is for embedders: leave it at fp32",
        ),
        *core_contradictions(recipe),
    ]


def core_contradictions(recipe: Recipe) -> list[tuple[bool, str]]:
    """The same of what runs an ensemble's core: found here, not after hours of training."""
    engines, core = recipe.tensorrt, recipe.serving.core
    return [
        (
            core != "onnxruntime" and recipe.target == "cpu",
            f"serving.core: {core} needs target: gpu",
        ),
        (
            core == "tensorrt" and (engines is None or engines.builder != "tensorrt"),
            "serving.core: tensorrt serves an engine of the datacenter builder: set tensorrt.builder: "
            "tensorrt and run it on the GPU, or choose serving.core: onnxruntime_tensorrt",
        ),
        (
            core == "tensorrt" and engines is not None and len(engines.compute_capabilities) > 1,
            "serving.core: tensorrt packages one engine: name one GPU in tensorrt.compute_capabilities",
        ),
    ]


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
        inputs=INPUTS[recipe.task],
        output=OUTPUTS[recipe.task],
        vectors=recipe.serving.vectors,
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


def resolve_paths(record: T, base: Path) -> T:
    """The same record with absolute paths, at any depth."""
    changes: dict[str, Path | BaseModel] = {}
    for name in type(record).model_fields:
        value = getattr(record, name)
        if isinstance(value, Path):
            changes[name] = (base / value).resolve()
        elif isinstance(value, BaseModel):
            changes[name] = resolve_paths(value, base)
    return record.model_copy(update=changes)


def recipe_digest(recipe: Recipe) -> str:
    """The digest of a recipe's meaning: independent of comments and of where its files lie."""
    return sha256_lines([json.dumps(names_only(recipe.model_dump()), sort_keys=True)])


def names_only(value: Any) -> Any:
    """The same JSON value with every path cut to its name."""
    if isinstance(value, dict):
        return {key: names_only(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [names_only(inner) for inner in value]
    return value.name if isinstance(value, Path) else value


def describe_problem(problem: Any) -> str:
    """One validation problem in words, with the nearest known field when one is unknown."""
    where = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] != "extra_forbidden":
        return f"{where}: {problem['msg']}"
    word = str(problem["loc"][-1])  # which another section may know
    near = difflib.get_close_matches(word, known_fields() - {word}, n=1)
    hint = (
        f"did you mean `{near[0]}`?" if near else "remove it, or see models/recipes/ for the fields"
    )
    return f"{where}: unknown field; {hint}"


def known_fields() -> set[str]:
    """The names of all fields of a recipe at any depth."""
    records: list[type[Record]] = [
        value
        for value in vars(sections).values()
        if isinstance(value, type) and issubclass(value, Record)
    ]
    return set(Recipe.model_fields).union(*(record.model_fields for record in records))
