"""Which variants may be served: a pure decision with its reasons in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from models.manifest import Evidence, Interval
from optimize.sections import Gate
from optimize.variants import parse_variant

Verdict = Literal["accepted", "rejected", "not enough data"]
Losses = Mapping[str, Interval]


@dataclass(frozen=True)
class Decision:
    """The verdict on one variant. `reasons` explains it in full sentences, also when it is accepted."""

    variant: str
    verdict: Verdict
    reasons: list[str]


def decide(
    variant: str, evidence: Evidence, losses: Losses, shortage: str | None, gate: Gate
) -> Decision:
    """Judge one variant. `losses` compare it with the source model, in the units of the gate's limits;
    `shortage` is None, or says in words what the data lacks for any verdict.
    """
    if shortage is not None:
        return Decision(variant, "not enough data", [shortage])
    limits = loss_limits(gate)
    worse = [describe_loss(m, losses[m], gate) for m in limits if losses[m].low > limits[m]]
    failures = [*worse, *speed_shortfalls(variant, evidence, gate), *memory_excess(evidence, gate)]
    if failures:
        return Decision(variant, "rejected", failures)
    unclear = [describe_loss(m, losses[m], gate) for m in limits if not holds(losses[m], limits[m])]
    unknown = [f"{words}, more examples would tell" for words in unclear]
    if gate.max_memory_mib is not None and evidence.memory_bytes is None:
        unknown.append(
            "the recipe limits its memory, which was not measured: run it on the target's hardware, or "
            "drop gate.max_memory_mib"
        )
    if unknown:
        return Decision(variant, "not enough data", unknown)
    kept = [describe_loss(metric, losses[metric], gate) for metric in limits]
    return Decision(variant, "accepted", [*kept, *describe_speed(evidence)])


def keeps_quality(losses: Losses, gate: Gate) -> bool:
    """Whether every limit of quality surely holds."""
    return all(holds(losses[metric], limit) for metric, limit in loss_limits(gate).items())


def holds(loss: Interval, limit: float) -> bool:
    """Whether a loss surely is within its limit; one that is not a number is not."""
    return loss.high <= limit


def loss_limits(gate: Gate) -> dict[str, float]:
    """The largest loss allowed by metric, a share or points."""
    return gate.max_relative_loss | gate.max_absolute_loss


def describe_loss(metric: str, loss: Interval, gate: Gate) -> str:
    """A loss with its interval and its limit."""
    if metric in gate.max_relative_loss:
        limit = f"{gate.max_relative_loss[metric]:.2%}"
        measured = f"{loss.value:z.2%} ({loss.low:z.2%} to {loss.high:z.2%})"
    else:
        limit = f"{gate.max_absolute_loss[metric] * 100:.2f} points"
        points = [f"{value * 100:z.2f}" for value in (loss.value, loss.low, loss.high)]
        measured = f"{points[0]} points ({points[1]} to {points[2]})"
    return f"{metric} loss {measured}: the recipe allows {limit}"


def speed_shortfalls(variant: str, evidence: Evidence, gate: Gate) -> list[str]:
    """One sentence per batch size at which the variant is not fast enough or was not timed."""
    measured = {speed.batch_size: speed.speedup for speed in evidence.speed}
    shortfalls = []
    for batch_size, needed in sorted(needed_speedups(variant, gate).items()):
        speedup = measured.get(batch_size)
        if speedup is None:
            shortfalls.append(f"batch {batch_size} was not timed: add it to speed.batch_sizes")
        elif speedup.value < needed:
            shortfalls.append(
                f"too slow: {speedup.value:.2f}x the baseline's speed at batch {batch_size}, "
                f"the recipe asks for {needed:g}x"
            )
    return shortfalls


def needed_speedups(variant: str, gate: Gate) -> dict[int, float]:
    """The factor asked for at each batch size; a static student has to earn its weaker word order."""
    if parse_variant(variant).family == "static":
        return gate.min_speedup | {1: gate.static_min_speedup}
    return gate.min_speedup


def memory_excess(evidence: Evidence, gate: Gate) -> list[str]:
    """One sentence when the serving process needs more memory than the recipe allows."""
    if gate.max_memory_mib is None or evidence.memory_bytes is None:
        return []
    used_mib = evidence.memory_bytes / 2**20
    if used_mib <= gate.max_memory_mib:
        return []
    return [f"uses {used_mib:.0f} MiB of memory, the recipe allows {gate.max_memory_mib} MiB"]


def describe_speed(evidence: Evidence) -> list[str]:
    """The speed-up at each batch size, in words."""
    return [f"{s.speedup.value:.2f}x as fast at batch {s.batch_size}" for s in evidence.speed]


def choose(decisions: Sequence[Decision], evidence: Mapping[str, Evidence]) -> str | None:
    """The accepted variant with the highest throughput at the largest batch, hence the cheapest.

    Where nothing could be timed (a GPU target without its GPU) the recipe's order decides.
    """
    accepted = [d.variant for d in decisions if d.verdict == "accepted"]

    def throughput(variant: str) -> float:
        speeds = evidence[variant].speed
        return max(((s.batch_size, s.throughput_texts_per_s) for s in speeds), default=(0, 0.0))[1]

    return max(accepted, key=throughput, default=None)
