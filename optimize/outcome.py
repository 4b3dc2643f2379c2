"""One run of the pipeline as a value: everything that its reports show."""

from collections.abc import Mapping, Sequence

from pydantic import Field

from models.hardware import hardware_facts
from models.manifest import Evidence, Record, Task, VectorFigures
from models.prices import Price, usd_per_million
from optimize.build import Built
from optimize.gate import Decision
from optimize.graph_facts import graph_facts
from optimize.measure import Candidates
from optimize.package import Published
from optimize.proof import Proof
from optimize.tasks import TASKS
from optimize.tasks.classify import ClassFigures
from optimize.tools import tool_versions
from optimize.tune.apply import Tuned
from optimize.waterfall import Stage, largest, waterfall
from optimize.workshop import onnx_of


class VariantReport(Record):
    """One row: a candidate, what was measured and the gate's words on it.

    `notes` says how the variant was made, where there is more to say than its name; `classes` are a
    classifier's figures of each class; `opset` is that of the variant's graph.
    """

    name: str
    evidence: Evidence
    classes: list[ClassFigures] = Field(default_factory=list)
    verdict: str
    reasons: list[str]
    notes: list[str]
    opset: int | None = None


class Outcome(Record):
    """One run of the pipeline. `chosen` is None when nothing passed the gate; `unmade` says of variants
    that are in no row why they cannot be made.
    """

    name: str
    task: Task
    target: str
    primary: str
    repository: str
    repository_changed: bool
    digest: str | None
    chosen: str | None
    baseline: str
    variants: list[VariantReport]
    unmade: dict[str, str]
    stored_vectors: list[VectorFigures]
    price: Price
    usd_per_million: dict[str, float]
    waterfall: list[Stage]
    tuned: Tuned | None
    frozen: dict[str, float]
    data_summary: str
    data_provenance: str
    hardware: dict[str, str]
    tool_versions: dict[str, str]


def describe(
    candidates: Candidates,
    evidence: Mapping[str, Evidence],
    classes: Mapping[str, list[ClassFigures]],
    decisions: Sequence[Decision],
    chosen: str | None,
    published: Published,
    proof: Proof | None,
    tuned: Tuned | None,
    frozen: Mapping[str, float],
    price: Price,
) -> Outcome:
    """Everything the reports show; `proof` is what the manifest says, where something was packaged, and
    `tuned` what an earlier search chose for serving it; `frozen` is the accuracy without fine-tuning.
    """
    recipe, verdicts = candidates.recipe, {d.variant: d for d in decisions}
    tuning = tuned.tuning if tuned else None
    return Outcome(
        name=recipe.name,
        task=recipe.task,
        target=recipe.target,
        primary=TASKS[recipe.task].primary,
        repository=str(published.repository),
        repository_changed=published.changed,
        digest=published.digest,
        chosen=chosen,
        baseline=candidates.baseline,
        variants=[
            VariantReport(
                name=name,
                evidence=evidence[name],
                classes=classes[name],
                verdict=verdicts[name].verdict if name in verdicts else "baseline",
                reasons=verdicts[name].reasons if name in verdicts else [],
                notes=candidates.built.notes(name),
                opset=opset_of_variant(candidates.built, name),
            )
            for name in candidates.digests
        ],
        unmade=candidates.built.unmade,
        stored_vectors=proof.stored_vectors if proof else [],
        price=price,
        usd_per_million={
            name: usd_per_million(price.usd_per_hour, largest(measured).throughput_texts_per_s)
            for name, measured in evidence.items()
            if measured.speed
        },
        waterfall=waterfall(evidence, candidates.baseline, chosen, tuning, price),
        tuned=tuned,
        frozen=dict(frozen),
        data_summary=candidates.data.summary,
        data_provenance=candidates.data.provenance,
        hardware=hardware_facts(),
        tool_versions=tool_versions(),
    )


def opset_of_variant(built: Built, name: str) -> int | None:
    """The version of ONNX's operators in a variant's graph; None for the baseline."""
    step = built.variants.get(name)
    return graph_facts(onnx_of(step)).opset if step else None


def metrics_of(outcome: Outcome) -> list[str]:
    """The task's metrics, the primary one first."""
    others = [name for name in outcome.variants[0].evidence.quality if name != outcome.primary]
    return [outcome.primary, *others]
