"""The table of contents of `make optimize`, from top to bottom:

    load -> export_onnx -> quantize -> measure -> gate -> package -> report

Every step is content-addressed (steps.py): a second run repeats nothing, a killed run resumes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from models.manifest import Evidence, Source, hardware_facts, sha256_lines
from models.triton.text_encoder.encoder import TextEncoder, open_session
from optimize.errors import GateError
from optimize.evaluation import Evaluation, evaluation_digests, read_evaluation
from optimize.export_onnx import write_export
from optimize.gate import Decision, choose, data_shortage, decide
from optimize.load import fetch_source, open_source, source_identity
from optimize.package import Proof, Published, assemble, publish, served_code_digest
from optimize.quality import (
    Encode,
    bootstrap_mean,
    bootstrap_relative_loss,
    scores_of,
    write_ranks,
)
from optimize.quantize import detect_isa, quantize_int8
from optimize.recipe import Recipe, encoder_settings
from optimize.report import Outcome, VariantReport, write_reports
from optimize.speed import write_speeds
from optimize.steps import Step, Workspace, code_digest
from optimize.tools import tool_versions
from optimize.triton_config import text_encoder_config

BASELINE = "pytorch"  # eager FP32, the model as a notebook runs it
SPEED_TEXTS = 4096


def optimize(recipe: Recipe, workspace: Workspace, repository: Path, reports: Path) -> Outcome:
    """Carry a recipe to a published repository and its reports.

    Raises GateError, with the reports written, when no variant is good enough.
    """
    evaluation = read_evaluation(recipe.evaluation.data)
    source = load(recipe, workspace)
    variants = export_variants(recipe, workspace, source, evaluation)

    candidates = Candidates(recipe, evaluation, source, variants)
    ranks = measure_quality(candidates, workspace)
    speeds = measure_speeds(candidates, workspace)
    evidence = collect_evidence(candidates, ranks, speeds)

    decisions = judge(candidates, ranks, evidence)
    chosen = choose(decisions, evidence)

    published = Published(repository, digest=None, changed=False)
    if chosen is not None:
        packaged = package(candidates, workspace, evidence, decisions, chosen)
        published = publish(packaged.directory, repository)

    outcome = describe(candidates, evidence, decisions, chosen, published)
    write_reports(outcome, reports)
    if chosen is None:
        reasons = "\n".join(
            f"  {d.variant}: {d.verdict}: {'; '.join(d.reasons)}" for d in decisions
        )
        raise GateError(f"no variant passed the gate, nothing was packaged:\n{reasons}")
    return outcome


def load(recipe: Recipe, workspace: Workspace) -> Step:
    """The source model's files in one place."""
    return workspace.step("load", source_identity(recipe), partial(fetch_source, recipe))


def export_variants(
    recipe: Recipe, workspace: Workspace, source: Step, evaluation: Evaluation
) -> dict[str, Step]:
    """One model.onnx per variant of the recipe; INT8 is made from the FP32 graph."""
    tools = tool_versions()
    fp32 = workspace.step(
        "export_onnx",
        {
            "source": source.digest,
            "tools": tools,
            "calibration": sha256_lines(evaluation.calibration),
            **recipe.export.model_dump(),
            **asdict(encoder_settings(recipe)),
        },
        partial(write_export, recipe, source.directory, evaluation.calibration),
    )
    variants = {"fp32": fp32}
    if "int8" in recipe.variants:
        isa = detect_isa() if recipe.quantize.isa == "auto" else recipe.quantize.isa
        variants["int8"] = workspace.step(
            "quantize",
            {"fp32": fp32.digest, "isa": isa, "tools": tools},
            partial(quantize_int8, fp32.directory / "model.onnx", isa),
        )
    return {name: variants[name] for name in recipe.variants}


@dataclass(frozen=True)
class Candidates:
    """The baseline and the variants, opened on first use: a run that repeats nothing opens none."""

    recipe: Recipe
    evaluation: Evaluation
    source: Step
    variants: Mapping[str, Step]

    @cached_property
    def encoders(self) -> dict[str, Encode]:
        """How to encode with each, the baseline first."""
        settings = encoder_settings(self.recipe)
        baseline = open_source(self.source.directory, settings.max_tokens)
        encoders: dict[str, Encode] = {BASELINE: baseline.encode}
        for name, step in self.variants.items():
            session = open_session(step.directory / "model.onnx", settings)
            encoders[name] = vectors_only(TextEncoder(session, baseline.tokenizer, settings))
        return encoders

    def open(self, name: str) -> Encode:
        """How to encode with one of them."""
        return self.encoders[name]

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each candidate's files, the baseline first."""
        return {BASELINE: self.source.digest} | {n: s.digest for n, s in self.variants.items()}

    @cached_property
    def conditions(self) -> dict[str, Any]:
        """What decides a measurement beside the model: data, settings, code and tools."""
        return {
            "data": evaluation_digests(self.recipe.evaluation.data),
            "settings": asdict(encoder_settings(self.recipe)),
            "code": [served_code_digest(), code_digest(open_source)],
            "tools": tool_versions(),
        }


def vectors_only(encoder: TextEncoder) -> Encode:
    """The encoder without its token counts."""
    return lambda texts: encoder.encode(texts).embeddings


def measure_quality(candidates: Candidates, workspace: Workspace) -> dict[str, list[int]]:
    """The rank of the right passage for every held-out question, per candidate."""
    return {
        name: workspace.step(
            f"quality-{name}",
            {"model": digest, **candidates.conditions},
            partial(write_ranks, partial(candidates.open, name), candidates.evaluation),
        ).read_json("ranks.json")
        for name, digest in candidates.digests.items()
    }


def measure_speeds(candidates: Candidates, workspace: Workspace) -> dict[str, Any]:
    """Latency and throughput per candidate, interleaved in one run on this machine."""
    run = candidates.recipe.speed
    texts = candidates.evaluation.questions[:SPEED_TEXTS]
    step = workspace.step(
        "speed",
        {
            "models": candidates.digests,
            "hardware": hardware_facts(),
            **run.model_dump(),
            **candidates.conditions,
        },
        partial(write_speeds, lambda: candidates.encoders, BASELINE, texts, run),
    )
    speeds: dict[str, Any] = step.read_json("speed.json")
    return speeds


def collect_evidence(
    candidates: Candidates, ranks: Mapping[str, list[int]], speeds: Mapping[str, Any]
) -> dict[str, Evidence]:
    """Quality with intervals, speed and file size per candidate."""
    sizes = {BASELINE: candidates.source.directory / "model.safetensors"}
    sizes |= {name: step.directory / "model.onnx" for name, step in candidates.variants.items()}
    return {
        name: Evidence(
            quality={m: bootstrap_mean(v) for m, v in scores_of(np.array(ranks[name])).items()},
            speed=speeds[name],
            size_bytes=path.stat().st_size,
        )
        for name, path in sizes.items()
    }


def judge(
    candidates: Candidates, ranks: Mapping[str, list[int]], evidence: Mapping[str, Evidence]
) -> list[Decision]:
    """The gate's verdict on each variant."""
    evaluation, recipe = candidates.evaluation, candidates.recipe
    shortage = data_shortage(len(evaluation.questions), len(evaluation.passages), recipe.evaluation)
    ndcg = {name: scores_of(np.array(values))["ndcg@10"] for name, values in ranks.items()}
    return [
        decide(
            name,
            evidence[name],
            bootstrap_relative_loss(ndcg[name], ndcg[BASELINE]),
            shortage,
            recipe.gate,
        )
        for name in candidates.variants
    ]


def package(
    candidates: Candidates,
    workspace: Workspace,
    evidence: Mapping[str, Evidence],
    decisions: list[Decision],
    chosen: str,
) -> Step:
    """The chosen variant as a complete Triton repository with its manifest."""
    recipe, source = candidates.recipe, candidates.source
    model = candidates.variants[chosen]
    proof = Proof(
        variant=chosen,
        embedding_dim=read_embedding_dim(source.directory),
        source=Source.model_validate(source.read_json("source.json")),
        evidence=evidence[chosen],
        baseline=evidence[BASELINE],
        gate=[f"{d.variant} {d.verdict}: {'; '.join(d.reasons)}" for d in decisions],
        data_provenance=[candidates.evaluation.provenance],
        recipe_sha256=recipe_digest(recipe),
        hardware=hardware_facts(),
        tool_versions=tool_versions(),
    )
    return workspace.step(
        "package",
        {
            "model": model.digest,
            "source": source.digest,
            "code": served_code_digest(),
            "recipe": proof.recipe_sha256,
            "config": str(text_encoder_config(recipe, proof.embedding_dim)),
            "evidence": [evidence[name].model_dump() for name in (chosen, BASELINE)],
            "gate": proof.gate,
        },
        partial(
            assemble,
            recipe,
            model.directory / "model.onnx",
            source.directory / "tokenizer.json",
            proof,
        ),
    )


def read_embedding_dim(source: Path) -> int:
    """The width of the model's vectors: pooling keeps the hidden size."""
    return int(json.loads((source / "config.json").read_text())["hidden_size"])


def recipe_digest(recipe: Recipe) -> str:
    """The digest of a recipe's meaning: independent of comments and of where it lies."""
    settings = recipe.model_dump(mode="json", exclude={"evaluation": {"data"}})
    return sha256_lines([json.dumps(settings, sort_keys=True)])


def describe(
    candidates: Candidates,
    evidence: Mapping[str, Evidence],
    decisions: list[Decision],
    chosen: str | None,
    published: Published,
) -> Outcome:
    """Everything the reports show."""
    evaluation = candidates.evaluation
    verdicts = {d.variant: d for d in decisions}
    return Outcome(
        name=candidates.recipe.name,
        repository=str(published.repository),
        repository_changed=published.changed,
        digest=published.digest,
        chosen=chosen,
        baseline=BASELINE,
        variants=[
            VariantReport(
                name=name,
                evidence=evidence[name],
                verdict=verdicts[name].verdict if name in verdicts else "baseline",
                reasons=verdicts[name].reasons if name in verdicts else [],
            )
            for name in candidates.digests
        ],
        questions=len(evaluation.questions),
        passages=len(evaluation.passages),
        data_provenance=evaluation.provenance,
        hardware=hardware_facts(),
        tool_versions=tool_versions(),
    )
