"""The package step: the chosen variant with everything that is known of it, as a Triton repository."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models.hardware import gpu_model, hardware_facts
from models.manifest import Engine, Evidence, ReferenceProfile, Source, VectorFigures
from models.triton.text_encoder.tokens import bucket_of
from optimize.core_files import packaged_engine
from optimize.engine import Profile, read_engine
from optimize.ensemble import buckets_of
from optimize.export_tensorrt import export_tensorrt, profiles_of
from optimize.gate import Decision
from optimize.graph_facts import graph_facts
from optimize.measure import Candidates, encodes_queries_only
from optimize.package import Parts, assemble, configs_of, served_code_digest
from optimize.profile import reference_profile
from optimize.proof import Proof
from optimize.recipe import encoder_settings, recipe_digest
from optimize.sbom import runtime_packages
from optimize.steps import Step, Workspace
from optimize.tasks import PREDICTIONS
from optimize.tasks.embed import PASSAGES, QUESTIONS
from optimize.tools import tool_versions
from optimize.vectors import vector_figures


def prove(
    candidates: Candidates,
    workspace: Workspace,
    quality: Mapping[str, Step],
    evidence: Mapping[str, Evidence],
    decisions: list[Decision],
    chosen: str,
) -> Proof:
    """What the manifest says beside the files."""
    reference = profile(candidates, workspace, quality, chosen)
    graph, _ = candidates.built.served_files(chosen)
    source = Source.model_validate(candidates.built.source.read_json("source.json"))
    return Proof(
        variant=chosen,
        output_dim=reference.read_json("output.json")["dim"],
        labels=labels_of(candidates.data),
        temperature=candidates.built.temperature(chosen),
        space=source.weights_sha256,
        encodes="queries" if is_student(candidates, chosen) else "texts",
        source=source,
        evidence=evidence[chosen],
        baseline=evidence[candidates.baseline],
        gate=[f"{d.variant} {d.verdict}: {'; '.join(d.reasons)}" for d in decisions],
        stored_vectors=[
            VectorFigures.model_validate(figure) for figure in reference.read_json("vectors.json")
        ],
        profile=ReferenceProfile.model_validate(reference.read_json("profile.json")),
        engines=engines_in_repository(candidates, workspace, chosen),
        opset=graph_facts(graph).opset,
        data_provenance=[data_set.words for data_set in candidates.data_sets],
        recipe_sha256=recipe_digest(candidates.recipe),
        hardware=hardware_facts(),
        tool_versions=tool_versions(),
    )


def profile(
    candidates: Candidates, workspace: Workspace, quality: Mapping[str, Step], chosen: str
) -> Step:
    """What the held-out data looks like to the chosen variant, and its vectors in fewer bits."""
    passages = quality[candidates.baseline if is_student(candidates, chosen) else chosen]
    inputs = {
        "model": candidates.digests[chosen],
        "predictions": quality[chosen].digest,
        "passages": passages.digest,
        "data": candidates.data_digests,
    }
    make = partial(write_profile, candidates, quality[chosen].directory, passages.directory)
    return workspace.step("profile", inputs, make)


def write_profile(
    candidates: Candidates, predictions: Path, passages: Path, destination: Path
) -> None:
    """The profile step: profile.json, and vectors.json with the figures of an embedder."""
    task, data = candidates.recipe.task, candidates.data
    tokenizer = candidates.tokenizer()
    tokenizer.no_truncation()
    tokens = [len(encoding) for encoding in tokenizer.encode_batch_fast(data.profile_items)]
    embeddings = np.load(predictions / QUESTIONS) if task == "embed" else None
    probabilities = np.load(predictions / PREDICTIONS) if task == "classify" else None
    found = reference_profile(np.array(tokens), embeddings, probabilities, labels_of(data))
    (destination / "profile.json").write_text(found.model_dump_json(indent=2) + "\n")
    figures: list[VectorFigures] = []
    if embeddings is not None:
        figures = vector_figures(embeddings, np.load(passages / PASSAGES), data.relevant)
    outputs = embeddings if embeddings is not None else probabilities
    dim = 1 if outputs is None else outputs.shape[1]
    (destination / "output.json").write_text(json.dumps({"dim": dim}) + "\n")
    stored = [figure.model_dump() for figure in figures]
    (destination / "vectors.json").write_text(json.dumps(stored, indent=2) + "\n")


def package(candidates: Candidates, workspace: Workspace, proof: Proof) -> Step:
    """The proved variant as a complete Triton repository with its manifest."""
    recipe, built = candidates.recipe, candidates.built
    graph, tokenizer = built.served_files(proof.variant)
    parts = Parts(
        graph=graph,
        tokenizer=tokenizer,
        data_sets=candidates.data_sets,
        packages=runtime_packages(recipe.target),
        engines=engine_paths(build_engines(candidates, workspace, proof.variant)),
        profiles=served_profiles(candidates) if recipe.target == "gpu" else (),
    )
    inputs = {
        "model": built.variants[proof.variant].digest,
        "tokenizer": built.model.digest,
        "served_code": served_code_digest(),
        "settings": asdict(encoder_settings(recipe)),
        "config": [str(config) for config in configs_of(recipe, proof, parts)],
        "proof": proof.model_dump(mode="json"),
        "bill": [str(part) for part in (*parts.data_sets, *parts.packages)],
    }
    return workspace.step("package", inputs, partial(assemble, recipe, parts, proof))


def build_engines(candidates: Candidates, workspace: Workspace, chosen: str) -> Step | None:
    """TensorRT engines of the variant, where the recipe asks for them."""
    section = candidates.recipe.tensorrt
    if section is None:
        return None
    graph, profiles = candidates.built.variants[chosen], served_profiles(candidates)
    inputs = {
        "graph": graph.digest,
        "profiles": profiles,
        "gpu": gpu_model(),
        **section.model_dump(),
    }
    make = partial(export_tensorrt, graph.directory / "model.onnx", section, profiles)
    return workspace.step("export_tensorrt", inputs, make)


def served_profiles(candidates: Candidates) -> list[Profile]:
    """The shapes [batch, tokens] that a core for these texts is built for; they are served padded."""
    recipe = candidates.recipe
    buckets = buckets_of(recipe.max_tokens)
    encodings = candidates.tokenizer().encode_batch_fast(candidates.data.profile_items)
    lengths = [bucket_of(len(encoding), buckets) for encoding in encodings]
    return profiles_of(lengths, recipe.max_tokens, recipe.serving.max_batch_size)


def engine_paths(step: Step | None) -> dict[str, Path]:
    """The engines of a step by compute capability."""
    plans = sorted(step.directory.glob("*.plan")) if step else []
    return {read_engine(plan).engine.compute_capability: plan for plan in plans}


def engines_in_repository(
    candidates: Candidates, workspace: Workspace, chosen: str
) -> list[Engine]:
    """The engines that are packaged: none where the core is a graph and engines lie beside the reports."""
    recipe = candidates.recipe
    if recipe.target != "gpu" or recipe.serving.core != "tensorrt":
        return []
    plans = engine_paths(build_engines(candidates, workspace, chosen)).values()
    return [packaged_engine(recipe, read_engine(plan).engine) for plan in plans]


def is_student(candidates: Candidates, variant: str) -> bool:
    """Whether the variant answers over its teacher's document vectors."""
    return encodes_queries_only(candidates.recipe, variant)


def labels_of(data: Any) -> list[str]:
    """The names of a classifier's classes, in the order of its probabilities."""
    return list(getattr(data, "label_names", ()))
