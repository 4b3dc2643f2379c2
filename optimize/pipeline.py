"""The table of contents of `make optimize`, from top to bottom:

    data -> build (load, fine_tune, distill, export, quantize) -> measure, spare -> gate -> package -> report

Every step is content-addressed (steps.py): a second run repeats nothing, a killed run resumes.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from models.prices import find_price, load_prices
from optimize.build import build
from optimize.data import data_folder, folder_digests
from optimize.errors import GateError
from optimize.frozen import measure_frozen
from optimize.gate import Decision, choose
from optimize.measure import (
    Candidates,
    collect_classes,
    collect_evidence,
    judge,
    measure_footprints,
    measure_quality,
    measure_speeds,
)
from optimize.outcome import Outcome, describe
from optimize.package import Published, publish
from optimize.packaging import build_engines, package, prove
from optimize.recipe import Recipe
from optimize.report import write_reports
from optimize.sbom import DataSet, read_data_set
from optimize.spare import spare_until_held
from optimize.steps import RECORD_NAME, Step, Workspace
from optimize.tasks import TASKS
from optimize.tune.apply import TUNE_FOLDER, find_tuned


def optimize(
    recipe: Recipe,
    workspace: Workspace,
    repository: Path,
    reports: Path,
    asked: str | None = None,
    tune_folder: Path = TUNE_FOLDER,
) -> Outcome:
    """Carry a recipe to a published repository and its reports.

    `asked` names the variant to package instead of the cheapest accepted one; `tune_folder` holds what
    earlier searches chose for serving, which counts where it was found for exactly this model. Raises
    GateError, with the reports written, when no variant is good enough or the one asked for is not.
    """
    folder = data_folder(recipe.evaluation.data, workspace)
    data = TASKS[recipe.task].read(folder, recipe.evaluation)
    built = build(recipe, workspace, data)

    candidates = Candidates(
        recipe, data, folder_digests(folder), data_sets(recipe, folder, workspace), built
    )
    quality = measure_quality(candidates, workspace)
    candidates, quality = spare_until_held(candidates, workspace, quality)
    speed = measure_speeds(candidates, workspace)
    footprint = measure_footprints(candidates, workspace)
    evidence = collect_evidence(candidates, quality, speed, footprint)

    decisions = judge(candidates, quality, evidence)
    chosen = pick(decisions, choose(decisions, evidence), asked)

    published, proof, tuned = Published(repository, digest=None, changed=False), None, None
    if chosen is not None:
        proof = prove(candidates, workspace, quality, evidence, decisions, chosen)
        tuned = find_tuned(recipe, *candidates.built.served_files(chosen), tune_folder)
        if tuned is not None:
            candidates = replace(candidates, recipe=tuned.recipe(recipe))
            proof = proof.model_copy(update={"tuning": tuned.tuning})
        packaged = package(candidates, workspace, proof)
        published = publish(packaged.directory, repository)
        copy_engines(build_engines(candidates, workspace, chosen), reports / "engines")

    frozen = measure_frozen(recipe, workspace, built.source, data)
    price = find_price(load_prices(), recipe.tune.instance)
    classes = collect_classes(candidates, quality)
    outcome = describe(
        candidates, evidence, classes, decisions, chosen, published, proof, tuned, frozen, price
    )
    write_reports(outcome, reports)
    if chosen is None:
        raise GateError(explain_refusal(decisions, asked))
    return outcome


def copy_engines(engines: Step | None, folder: Path) -> None:
    """TensorRT engines beside the reports: those of TensorRT-RTX are not for Triton."""
    if engines is not None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(engines.directory, folder, ignore=shutil.ignore_patterns(RECORD_NAME))


def data_sets(recipe: Recipe, folder: Path, workspace: Workspace) -> list[DataSet]:
    """What the model was measured on, and what students were trained on where that is other data."""
    texts = recipe.distill.texts if recipe.distill else None
    found = [read_data_set(folder, f"{recipe.evaluation.data.kind}, evaluated")]
    if texts is not None:
        found.append(read_data_set(data_folder(texts, workspace), f"{texts.kind}, trained on"))
    return found


def pick(decisions: list[Decision], cheapest: str | None, asked: str | None) -> str | None:
    """The variant to package: the one asked for if it was accepted, else the cheapest."""
    if asked is None:
        return cheapest
    accepted = [d.variant for d in decisions if d.verdict == "accepted"]
    return asked if asked in accepted else None


def explain_refusal(decisions: list[Decision], asked: str | None) -> str:
    """Why nothing was packaged."""
    reasons = "\n".join(f"  {d.variant}: {d.verdict}: {'; '.join(d.reasons)}" for d in decisions)
    which = "no variant" if asked is None else f"{asked!r} has not"
    return f"{which} passed the gate, nothing was packaged:\n{reasons}"
