"""How the graph of each variant is made:

    distill -> export_onnx -> fuse -> quantize

Each arrow is a step of its own, so that variants share what they have in common.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from models.files import sha256_lines
from optimize.data import data_folder
from optimize.data.folder import read_texts
from optimize.distill.static import quantize_static_table, write_static
from optimize.distill.student import write_student
from optimize.distill.teacher import write_teacher_vectors
from optimize.distill.texts import short_texts
from optimize.export_onnx import write_export
from optimize.fine_tune import write_classifier_student
from optimize.quantize import Isa, detect_isa, fuse, quantize_half, quantize_int8, write_static_int8
from optimize.quantize.exclusion import NOTHING, Spared
from optimize.recipe import Recipe, encoder_settings
from optimize.sections import Distill
from optimize.steps import Step, Workspace, key_of
from optimize.tools import tool_versions
from optimize.variants import Family, Variant

TEACHER_TOKENS = 64  # of a training text, where only a static student learns from it


@dataclass
class Workshop:
    """Makes variants of `model`; a step that two of them share is made once."""

    recipe: Recipe
    workspace: Workspace
    data: Any
    model: Step
    tools: dict[str, str] = field(default_factory=tool_versions)
    families: dict[Family, Step] = field(default_factory=dict)
    graphs: dict[Family, Step] = field(default_factory=dict)

    def make(self, variant: Variant, spared: Spared = NOTHING) -> Step:
        """The step that holds the variant's model.onnx; `spared` says which products of a qdq variant are
        to stay in FP32. Raises QuantizeError, ExportError or TrainingError when it cannot be made.
        """
        if variant.family == "static":
            return self.static(variant)
        graph = self.graph(variant.family)
        if variant.fused:
            graph = self.derive("fuse", graph, {}, partial(fuse, onnx_of(graph)))
        match variant.precision:
            case "int8":
                return self.int8(graph)
            case "qdq":
                return self.qdq(graph, spared)
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
        return self.derive("quantize-int8", graph, {"isa": isa, "embedding_table": table}, make)

    def qdq(self, graph: Step, spared: Spared) -> Step:
        """Static INT8: activations get their scale from calibration texts."""
        section = self.recipe.quantize
        inputs = {
            "isa": self.isa(),
            "calibration": sha256_lines(map(str, self.data.calibration)),
            "spared": asdict(spared),
            **section.model_dump(),
        }
        make = partial(
            write_static_int8,
            onnx_of(graph),
            self.tokenizer,
            self.data.calibration,
            self.isa(),
            section,
            encoder_settings(self.recipe),
            spared,
        )
        return self.derive("quantize-qdq", graph, inputs, make)

    def student(self) -> Step:
        """A student of the model, from some of its layers."""
        section = self.section.student
        assert section is not None, "recipes with student variants have this section"
        source = self.model.directory
        if self.recipe.task == "classify":
            inputs = {"data": self.data.digests, **section.model_dump()}
            write = partial(write_classifier_student, source, self.data, section)
        else:
            teacher = self.teacher()
            inputs = {**self.lessons(teacher), **section.model_dump()}
            write = partial(write_student, source, self.texts, teacher.directory, section)
        checkpoint = self.workspace.root / "checkpoints" / f"student-{key_of(inputs)}"
        return self.derive("distill-student", self.model, inputs, partial(write, checkpoint))

    def static(self, variant: Variant) -> Step:
        """The static student, with an FP32 or an INT8 table."""
        section = self.section.static
        assert section is not None, "recipes with static variants have this section"
        teacher = self.teacher()
        make = partial(
            write_static,
            self.model.directory,
            self.texts,
            teacher.directory,
            section,
            self.text_tokens,
        )
        inputs = {**self.lessons(teacher), **section.model_dump()}
        table = self.derive("distill-static", self.model, inputs, make)
        if variant.precision == "fp32":
            return table
        make = partial(quantize_static_table, onnx_of(table))
        return self.derive("quantize-static", table, {}, make)

    def teacher(self) -> Step:
        """The model's vectors of the training texts, which both students learn from."""
        graph, settings = self.graph("source"), encoder_settings(self.recipe)
        tokens = self.text_tokens
        make = partial(
            write_teacher_vectors, onnx_of(graph), self.tokenizer, self.texts, tokens, settings
        )
        inputs = {"texts": sha256_lines(self.texts), "max_tokens": tokens}
        return self.derive("teacher", graph, inputs, make)

    def lessons(self, teacher: Step) -> dict[str, Any]:
        """What a student learns from: the texts, where they are cut, and the teacher's vectors of them."""
        texts = sha256_lines(self.texts)
        return {"texts": texts, "text_tokens": self.text_tokens, "teacher": teacher.digest}

    @property
    def text_tokens(self) -> int:
        """Where training texts are cut: teacher and students see the same words of each."""
        return self.section.student.max_tokens if self.section.student else TEACHER_TOKENS

    @property
    def section(self) -> Distill:
        """How students are trained."""
        return self.recipe.distill or Distill()

    @property
    def tokenizer(self) -> Path:
        """The tokenizer that all variants share."""
        return self.model.directory / "tokenizer.json"

    @cached_property
    def texts(self) -> list[str]:
        """What students are trained on: never anything that is evaluated."""
        return training_texts(self.recipe, self.workspace, self.data)

    def isa(self) -> Isa:
        """The instruction set that INT8 kernels are laid out for."""
        asked = self.recipe.quantize.isa
        return detect_isa() if asked == "auto" else asked

    def derive(
        self, name: str, origin: Step, inputs: Mapping[str, Any], make: Callable[[Path], None]
    ) -> Step:
        """A step made from another one, with these tools."""
        whole = {"from": origin.digest, "tools": self.tools, **inputs}
        return self.workspace.step(name, whole, make)


def onnx_of(step: Step) -> Path:
    """The graph that a step holds."""
    return step.directory / "model.onnx"


def training_texts(recipe: Recipe, workspace: Workspace, data: Any) -> list[str]:
    """The training part of the recipe's data, or of the data named for it, in pieces as short as queries."""
    texts = recipe.distill.texts if recipe.distill else None
    training = read_texts(data_folder(texts, workspace), "training") if texts else data.training
    return short_texts(training, [*data.questions, *data.passages])
