"""From a recipe to the graphs of its variants:

    load -> fine_tune -> distill -> export_onnx -> fuse -> quantize

Each arrow is a step of its own, so that variants share what they have in common.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from models.files import sha256_lines
from optimize.data import data_folder
from optimize.data.folder import read_texts
from optimize.distill.layers import keep_layers
from optimize.distill.static import quantize_static_table, write_static
from optimize.distill.student import write_student
from optimize.distill.teacher import write_teacher_vectors
from optimize.distill.texts import short_texts
from optimize.export_onnx import write_export
from optimize.fine_tune import write_classifier_student, write_fine_tuned
from optimize.load import WEIGHTS, fetch_source, source_identity
from optimize.quantize import Isa, detect_isa, fuse, quantize_half, quantize_int8, write_static_int8
from optimize.quantize.calibration import ranges_of
from optimize.quantize.dynamic import weight_type
from optimize.quantize.exclusion import exclude_until_held
from optimize.quantize.graph import weight_products
from optimize.recipe import Recipe, encoder_settings
from optimize.sections import Distill
from optimize.steps import Step, Workspace, key_of
from optimize.tools import tool_versions
from optimize.training import train
from optimize.variants import Family, Variant, parse_variant

TEACHER_TOKENS = 64  # of a training text, where only a static student learns from it
NOTES = "notes.json"  # a list of sentences beside a variant's graph


@dataclass(frozen=True)
class Built:
    """`source` as it was fetched; `model` is what variants are compared with: the source, or the
    classifier that was trained from it; `families` holds what each family's graph was exported from;
    `variants` hold one model.onnx each.
    """

    source: Step
    model: Step
    families: dict[Family, Step]
    variants: dict[str, Step]

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
        family = self.families.get(parse_variant(variant).family, self.model)
        path = family.directory / "temperature.json"
        return float(family.read_json(path.name)["temperature"]) if path.is_file() else None


def build(recipe: Recipe, workspace: Workspace, data: Any) -> Built:
    """Make the graph of every variant of the recipe."""
    source = workspace.step("load", source_identity(recipe), partial(fetch_source, recipe))
    model = fine_tune(recipe, workspace, source, data)
    workshop = Workshop(recipe, workspace, data, model)
    variants = {variant.name: workshop.make(variant) for variant in recipe.parsed_variants}
    return Built(source, model, workshop.families, variants)


def fine_tune(recipe: Recipe, workspace: Workspace, source: Step, data: Any) -> Step:
    """The classifier trained from the source, or the source where nothing is to be trained."""
    if recipe.fine_tune is None:
        return source
    inputs = {
        "source": source.digest,
        "data": data.digests,
        "tools": tool_versions(),
        **recipe.fine_tune.model_dump(),
    }
    checkpoint = workspace.root / "checkpoints" / f"fine_tune-{key_of(inputs)}"
    make = partial(write_fine_tuned, source.directory, data, recipe.fine_tune, checkpoint)
    return workspace.step("fine_tune", inputs, make, also=[train])


@dataclass
class Workshop:
    """Makes variants; what two of them share is made once."""

    recipe: Recipe
    workspace: Workspace
    data: Any
    model: Step
    tools: dict[str, str] = field(default_factory=tool_versions)
    families: dict[Family, Step] = field(default_factory=dict)
    graphs: dict[Family, Step] = field(default_factory=dict)

    def make(self, variant: Variant) -> Step:
        """The step that holds the variant's model.onnx."""
        if variant.family == "static":
            return self.static(variant)
        graph = self.graph(variant.family)
        if variant.fused:
            graph = self.derive("fuse", graph, {}, partial(fuse, onnx_of(graph)))
        match variant.precision:
            case "int8":
                return self.int8(graph)
            case "qdq":
                return self.qdq(graph)
            case "fp16":
                return self.derive("half", graph, {}, partial(quantize_half, onnx_of(graph)))
            case _:
                return graph

    def graph(self, family: Family) -> Step:
        """The FP32 graph of a family, or the raw graph as it was brought."""
        if self.recipe.has_raw_graph:
            return self.model
        if family not in self.graphs:
            self.families[family] = self.student() if family == "student" else self.model
            self.graphs[family] = self.export(self.families[family])
        return self.graphs[family]

    def export(self, model: Step) -> Step:
        """The graph of a model, with everything that follows its transformer."""
        inputs = {
            "calibration": sha256_lines(map(str, self.data.calibration)),
            **self.recipe.export.model_dump(),
            **asdict(encoder_settings(self.recipe)),
        }
        make = partial(write_export, self.recipe, model.directory, self.data.calibration)
        return self.derive("export_onnx", model, inputs, make)

    def int8(self, graph: Step) -> Step:
        """Dynamic INT8: activations get their scale at run time."""
        isa, table = self.isa(), self.recipe.quantize.embedding_table
        make = partial(quantize_int8, onnx_of(graph), isa, table)
        inputs = {"isa": isa, "embedding_table": table}
        return self.derive("quantize-int8", graph, inputs, make, also=[weight_products])

    def qdq(self, graph: Step) -> Step:
        """Static INT8: activations get their scale from calibration texts."""
        section = self.recipe.quantize
        inputs = {
            "isa": self.isa(),
            "calibration": sha256_lines(map(str, self.data.calibration)),
            **section.model_dump(),
        }
        make = partial(
            write_static_int8,
            onnx_of(graph),
            self.model.directory / "tokenizer.json",
            self.data.calibration,
            self.isa(),
            section,
            encoder_settings(self.recipe),
        )
        also: list[Callable[..., Any]] = [
            ranges_of,
            exclude_until_held,
            weight_products,
            weight_type,
        ]
        return self.derive("quantize-qdq", graph, inputs, make, also)

    def student(self) -> Step:
        """A student of the model, from some of its layers."""
        section = self.section.student
        assert section is not None, "recipes with student variants have this section"
        if self.recipe.task == "classify":
            inputs = {"data": self.data.digests, **section.model_dump()}
            source = (self.model.directory, self.data)
            write = partial(write_classifier_student, *source, section)
        else:
            inputs = {"texts": sha256_lines(self.texts), **section.model_dump()}
            teacher = self.teacher()
            write = partial(
                write_student, self.model.directory, self.texts, teacher.directory, section
            )
        checkpoint = self.workspace.root / "checkpoints" / f"student-{key_of(inputs)}"
        make = partial(write, checkpoint)
        return self.derive("distill-student", self.model, inputs, make, also=[train, keep_layers])

    def static(self, variant: Variant) -> Step:
        """The static student, with an FP32 or an INT8 table."""
        section = self.section.static
        assert section is not None, "recipes with static variants have this section"
        inputs = {"texts": sha256_lines(self.texts), **section.model_dump()}
        teacher = self.teacher()
        make = partial(
            write_static,
            self.model.directory,
            self.texts,
            teacher.directory,
            section,
            self.recipe.max_tokens,
        )
        table = self.derive("distill-static", self.model, inputs, make)
        if variant.precision == "fp32":
            return table
        make = partial(quantize_static_table, onnx_of(table))
        return self.derive("quantize-static", table, {}, make)

    def teacher(self) -> Step:
        """The model's vectors of the training texts, which both students learn from."""
        graph = self.graph("source")
        settings = encoder_settings(self.recipe)
        tokenizer = self.model.directory / "tokenizer.json"
        student = self.section.student
        max_tokens = student.max_tokens if student else TEACHER_TOKENS
        make = partial(
            write_teacher_vectors, onnx_of(graph), tokenizer, self.texts, max_tokens, settings
        )
        inputs = {"texts": sha256_lines(self.texts), "max_tokens": max_tokens}
        return self.derive("teacher", graph, inputs, make)

    @property
    def section(self) -> Distill:
        """How students are trained."""
        return self.recipe.distill or Distill()

    @cached_property
    def texts(self) -> list[str]:
        """What students are trained on: never anything that is evaluated."""
        return training_texts(self.recipe, self.workspace, self.data)

    def isa(self) -> Isa:
        """The instruction set that INT8 kernels are laid out for."""
        asked = self.recipe.quantize.isa
        return detect_isa() if asked == "auto" else asked

    def derive(
        self,
        name: str,
        origin: Step,
        inputs: Mapping[str, Any],
        make: Callable[[Path], None],
        also: Sequence[Callable[..., Any]] = (),
    ) -> Step:
        """A step made from another one, with these tools."""
        whole = {"from": origin.digest, "tools": self.tools, **inputs}
        return self.workspace.step(name, whole, make, also)


def onnx_of(step: Step) -> Path:
    """The graph that a step holds."""
    return step.directory / "model.onnx"


def training_texts(recipe: Recipe, workspace: Workspace, data: Any) -> list[str]:
    """The training part of the recipe's data, or of the data named for it, in pieces as short as queries."""
    texts = recipe.distill.texts if recipe.distill else None
    training = read_texts(data_folder(texts, workspace), "training") if texts else data.training
    return short_texts(training, [*data.questions, *data.passages])
