"""Which variants may be served: a pure decision with its reasons in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from models.manifest import Evidence, Interval
from optimize.recipe import EvaluationData, Gate

Verdict = Literal["accepted", "rejected", "not enough data"]


@dataclass(frozen=True)
class Decision:
    """The verdict on one variant. `reasons` explains it in full sentences, also when it is accepted."""

    variant: str
    verdict: Verdict
    reasons: list[str]


def decide(
    variant: str, evidence: Evidence, ndcg_loss: Interval, enough_data: str | None, gate: Gate
) -> Decision:
    """Judge one variant. `enough_data` is None, or says in words what is missing."""
    if enough_data is not None:
        return Decision(variant, "not enough data", [enough_data])
    slow = speed_shortfalls(evidence, gate)
    loss = f"nDCG@10 loss {ndcg_loss.value:.2%} ({ndcg_loss.low:.2%} to {ndcg_loss.high:.2%})"
    limit = f"the recipe allows {gate.max_ndcg_loss:.2%}"
    if ndcg_loss.low > gate.max_ndcg_loss:
        return Decision(variant, "rejected", [f"{loss}: {limit}", *slow])
    if slow:
        return Decision(variant, "rejected", slow)
    if not ndcg_loss.high <= gate.max_ndcg_loss:  # also when the loss is not a number
        return Decision(variant, "not enough data", [f"{loss}: {limit}, more questions would tell"])
    return Decision(variant, "accepted", [f"{loss}: {limit}", *describe_speed(evidence)])


def data_shortage(questions: int, passages: int, needed: EvaluationData) -> str | None:
    """What the evaluation set lacks for a verdict, or None."""
    if questions < needed.min_questions:
        return f"{questions} questions evaluated, the recipe asks for {needed.min_questions}"
    if passages < needed.min_passages:
        return f"{passages} passages evaluated, the recipe asks for {needed.min_passages}"
    return None


def speed_shortfalls(evidence: Evidence, gate: Gate) -> list[str]:
    """One sentence per batch size at which the variant is not fast enough or was not timed."""
    measured = {speed.batch_size: speed.speedup for speed in evidence.speed}
    shortfalls = []
    for batch_size, needed in sorted(gate.min_speedup.items()):
        speedup = measured.get(batch_size)
        if speedup is None:
            shortfalls.append(f"batch {batch_size} was not timed: add it to speed.batch_sizes")
        elif speedup.value < needed:
            shortfalls.append(
                f"{speedup.value:.2f}x the baseline's speed at batch {batch_size}, "
                f"the recipe asks for {needed:g}x"
            )
    return shortfalls


def describe_speed(evidence: Evidence) -> list[str]:
    """The speed-up at each batch size, in words."""
    return [f"{s.speedup.value:.2f}x faster at batch {s.batch_size}" for s in evidence.speed]


def choose(decisions: Sequence[Decision], evidence: Mapping[str, Evidence]) -> str | None:
    """The accepted variant with the highest throughput at the largest batch, hence the cheapest."""
    accepted = [d.variant for d in decisions if d.verdict == "accepted"]

    def throughput(variant: str) -> float:
        return max(evidence[variant].speed, key=lambda s: s.batch_size).throughput_texts_per_s

    return max(accepted, key=throughput, default=None)
