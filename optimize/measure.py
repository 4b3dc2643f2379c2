"""What is measured of the baseline and of every variant: quality, speed, memory, processor time, size."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from models.hardware import gpu_model, hardware_facts
from models.manifest import Evidence, LengthSpeed, Speed
from models.triton.text_encoder.tokens import open_tokenizer
from optimize.build import Built
from optimize.code_digest import code_digest
from optimize.footprint import write_footprints
from optimize.gate import Decision, Losses, decide
from optimize.opening import open_baseline, open_variant
from optimize.package import served_code_digest
from optimize.quality import Encode, Measure, bootstrap_losses, bootstrap_metrics
from optimize.recipe import Recipe, encoder_settings
from optimize.sbom import DataSet
from optimize.speed import write_speeds
from optimize.steps import Step, Workspace
from optimize.tasks import PREDICTIONS, TASKS
from optimize.tasks.classify import ClassFigures
from optimize.tools import tool_versions
from optimize.variants import parse_variant


@dataclass(frozen=True)
class Candidates:
    """The baseline and the variants, opened on first use: a run that repeats nothing opens none."""

    recipe: Recipe
    data: Any
    data_digests: Mapping[str, str]
    data_sets: Sequence[DataSet]
    built: Built

    @property
    def baseline(self) -> str:
        """What the source is called: eager FP32 as in a notebook, or a raw graph as it was brought."""
        return "onnx" if self.recipe.has_raw_graph else "pytorch"

    @cached_property
    def openers(self) -> dict[str, Callable[[], Encode]]:
        """How to open each for encoding, the baseline first; picklable, for processes of their own."""
        model, settings = self.built.model.directory, encoder_settings(self.recipe)
        openers: dict[str, Callable[[], Encode]] = {
            self.baseline: partial(open_baseline, model, self.recipe)
        }
        for name, step in self.built.variants.items():
            graph, tokenizer = step.directory / "model.onnx", model / "tokenizer.json"
            openers[name] = partial(open_variant, graph, tokenizer, settings)
        return openers

    @cached_property
    def opened(self) -> dict[str, Encode]:
        """Those that were opened already."""
        return {}

    def open(self, name: str) -> Encode:
        """How to encode with one of them."""
        if name not in self.opened:
            self.opened[name] = self.openers[name]()
        return self.opened[name]

    def open_all(self) -> dict[str, Encode]:
        """All of them, open at the same time."""
        return {name: self.open(name) for name in self.openers}

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that all of them share."""
        return open_tokenizer(self.built.model.directory / "tokenizer.json", self.recipe.max_tokens)

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digest of each candidate's files, the baseline first."""
        steps = self.built.variants.items()
        return {self.baseline: self.built.model.digest} | {name: s.digest for name, s in steps}

    @cached_property
    def conditions(self) -> dict[str, Any]:
        """What decides a measurement beside the model: data, settings, code and tools."""
        return {
            "data": self.data_digests,
            "evaluation": self.recipe.evaluation.model_dump(mode="json", exclude={"data"}),
            "settings": asdict(encoder_settings(self.recipe)),
            "code": [served_code_digest(), code_digest(open_baseline)],
            "tools": tool_versions(),
        }


def encodes_queries_only(recipe: Recipe, variant: str) -> bool:
    """Whether a variant is a student that answers over its teacher's document vectors."""
    return recipe.task == "embed" and parse_variant(variant).family != "source"


def measure_quality(candidates: Candidates, workspace: Workspace) -> dict[str, Step]:
    """The predictions of every candidate on the held-out data."""
    steps: dict[str, Step] = {}
    for name in candidates.digests:
        steps[name] = predict(candidates, workspace, name, steps.get(candidates.baseline))
    return steps


def predict(candidates: Candidates, workspace: Workspace, name: str, baseline: Step | None) -> Step:
    """The predictions of one candidate; `baseline` holds the document vectors of variants without any."""
    recipe = candidates.recipe
    is_query_side = name != candidates.baseline and encodes_queries_only(recipe, name)
    documents = baseline if is_query_side else None
    make = partial(
        TASKS[recipe.task].write_predictions,
        partial(candidates.open, name),
        candidates.data,
        documents.directory if documents else None,
    )
    inputs = {
        "model": candidates.digests[name],
        "documents": documents.digest if documents else None,
        **candidates.conditions,
    }
    return workspace.step(f"quality-{name}", inputs, make)


def measure_speeds(candidates: Candidates, workspace: Workspace) -> Step | None:
    """Latency and throughput per candidate, interleaved in one run on this machine.

    None for a GPU target on a machine without a GPU: timings of its CPU would say nothing.
    """
    if is_other_hardware(candidates.recipe):
        return None
    run = candidates.recipe.speed
    make = partial(
        write_speeds,
        candidates.open_all,
        candidates.baseline,
        candidates.data.speed_items,
        candidates.tokenizer,
        run,
    )
    inputs = {
        "models": candidates.digests,
        "hardware": hardware_facts(),
        **run.model_dump(),
        **candidates.conditions,
    }
    return workspace.step("speed", inputs, make)


def is_other_hardware(recipe: Recipe) -> bool:
    """Whether the recipe's target is not the machine that it runs on."""
    return recipe.target == "gpu" and gpu_model() == "none"


def measure_footprints(candidates: Candidates, workspace: Workspace) -> Step | None:
    """Memory and processor time of a fresh process per candidate; None where timings would say nothing."""
    if is_other_hardware(candidates.recipe):
        return None
    return workspace.step(
        "footprint",
        {"models": candidates.digests, "hardware": hardware_facts(), **candidates.conditions},
        partial(write_footprints, candidates.openers, candidates.data.speed_items),
    )


def collect_evidence(
    candidates: Candidates,
    quality: Mapping[str, Step],
    speed: Step | None,
    footprint: Step | None,
) -> dict[str, Evidence]:
    """Everything that was measured, per candidate."""
    speeds = speed.read_json("speed.json") if speed else {}
    lengths = speed.read_json("lengths.json") if speed else {}
    footprints = footprint.read_json("footprint.json") if footprint else {}
    weights = {candidates.baseline: candidates.built.weights} | {
        name: step.directory / "model.onnx" for name, step in candidates.built.variants.items()
    }
    found = {}
    for name in candidates.digests:
        measure = measure_of(candidates, quality[name])
        segments = candidates.data.segments.items()
        found[name] = Evidence(
            quality=bootstrap_metrics(measure, all_rows(candidates)),
            segments={segment: bootstrap_metrics(measure, rows) for segment, rows in segments},
            speed=[Speed(**values) for values in speeds.get(name, [])],
            lengths=[LengthSpeed(**values) for values in lengths.get(name, [])],
            size_bytes=weights[name].stat().st_size,
            **footprints.get(name, {}),
        )
    return found


def measure_of(candidates: Candidates, quality: Step) -> Measure:
    """Every metric of one candidate's predictions over some rows."""
    predictions = np.load(quality.directory / PREDICTIONS)
    return partial(TASKS[candidates.recipe.task].measure, candidates.data, predictions)


def all_rows(candidates: Candidates) -> Any:
    """Every row of the held-out data."""
    return np.arange(candidates.data.examples)


def collect_classes(
    candidates: Candidates, quality: Mapping[str, Step]
) -> dict[str, list[ClassFigures]]:
    """The figures of each class, per candidate; none for tasks without classes."""
    figures_of = TASKS[candidates.recipe.task].class_figures
    return {
        name: figures_of(candidates.data, np.load(step.directory / PREDICTIONS))
        for name, step in quality.items()
    }


def judge(
    candidates: Candidates, quality: Mapping[str, Step], evidence: Mapping[str, Evidence]
) -> list[Decision]:
    """The gate's verdict on each variant of the recipe, also on those that cannot be made."""
    recipe, built = candidates.recipe, candidates.built
    shortage = candidates.data.shortage(recipe.evaluation)
    measured = [
        decide(name, evidence[name], losses_of(candidates, quality, name), shortage, recipe.gate)
        for name in built.variants
    ]
    reasons = {name: [f"it cannot be made: {reason}"] for name, reason in built.unmade.items()}
    return [*measured, *(Decision(name, "rejected", words) for name, words in reasons.items())]


def losses_of(candidates: Candidates, quality: Mapping[str, Step], name: str) -> Losses:
    """What a variant loses against the baseline, resampled in pairs."""
    variant, baseline = (measure_of(candidates, quality[n]) for n in (name, candidates.baseline))
    relative = tuple(candidates.recipe.gate.max_relative_loss)
    return bootstrap_losses(variant, baseline, all_rows(candidates), relative)
