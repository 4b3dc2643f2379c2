"""From a recipe to the graphs of its variants:

    load -> fine_tune or calibrate -> the steps of each variant

Those of the variants are in workshop.py.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optimize.calibrate import write_calibrated
from optimize.errors import ExportError, QuantizeError, TrainingError, VariantError
from optimize.fine_tune import write_fine_tuned
from optimize.load import WEIGHTS, fetch_source, source_identity
from optimize.recipe import Recipe
from optimize.steps import Step, Workspace, key_of
from optimize.tools import tool_versions
from optimize.variants import parse_variant
from optimize.workshop import Workshop, onnx_of

NOTES = "notes.json"  # a list of sentences beside a model or a graph


@dataclass(frozen=True)
class Built:
    """`source` as it was fetched; `model` is what variants are compared with: the source, or the
    classifier that was trained or calibrated from it; `variants` hold one model.onnx each; `unmade` says
    of the recipe's others why they cannot be made.
    """

    source: Step
    model: Step
    workshop: Workshop
    variants: dict[str, Step]
    unmade: dict[str, str]

    @property
    def weights(self) -> Path:
        """The file that the model's size is taken from."""
        raw = self.model.directory / "model.onnx"
        return raw if raw.is_file() else self.model.directory / WEIGHTS

    def served_files(self, variant: str) -> tuple[Path, Path]:
        """The graph of a variant and its tokenizer."""
        return onnx_of(self.variants[variant]), self.model.directory / "tokenizer.json"

    def notes(self, variant: str) -> list[str]:
        """How a variant was made, in words, where its step left any."""
        step = self.variants.get(variant, self.model)
        path = step.directory / NOTES
        return list(step.read_json(NOTES)) if path.is_file() else []

    def temperature(self, variant: str) -> float | None:
        """What a classifier's logits are divided by inside its graph; None for other tasks."""
        family = self.workshop.families.get(parse_variant(variant).family, self.model)
        path = family.directory / "temperature.json"
        return float(family.read_json(path.name)["temperature"]) if path.is_file() else None


def build(recipe: Recipe, workspace: Workspace, data: Any) -> Built:
    """Make the graph of every variant of the recipe that can be made.

    Raises VariantError when there is none.
    """
    source = workspace.step("load", source_identity(recipe), partial(fetch_source, recipe))
    model = finish_classifier(recipe, workspace, source, data)
    workshop = Workshop(recipe, workspace, data, model)
    variants: dict[str, Step] = {}
    unmade: dict[str, str] = {}
    for variant in recipe.parsed_variants:
        try:
            variants[variant.name] = workshop.make(variant)
        except (QuantizeError, ExportError, TrainingError) as error:
            unmade[variant.name] = str(error)
    if not variants:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in unmade.items())
        raise VariantError(f"none of the recipe's variants can be made:\n{reasons}")
    return Built(source, model, workshop, variants, unmade)


def finish_classifier(recipe: Recipe, workspace: Workspace, source: Step, data: Any) -> Step:
    """The classifier trained from the source, or a trained one calibrated; other sources as they are."""
    if recipe.task != "classify" or recipe.has_raw_graph:
        return source
    inputs = {"source": source.digest, "data": data.digests, "tools": tool_versions()}
    if recipe.fine_tune is None:
        make = partial(write_calibrated, source.directory, data, recipe.max_tokens)
        return workspace.step("calibrate", inputs | {"max_tokens": recipe.max_tokens}, make)
    inputs |= recipe.fine_tune.model_dump()
    checkpoint = workspace.root / "checkpoints" / f"fine_tune-{key_of(inputs)}"
    make = partial(write_fine_tuned, source.directory, data, recipe.fine_tune, checkpoint)
    return workspace.step("fine_tune", inputs, make)
