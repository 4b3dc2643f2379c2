import math
from collections.abc import Callable

import pytest

from models.manifest import Evidence, Interval
from optimize.gate import Decision, choose, decide
from optimize.sections import Gate

MakeEvidence = Callable[..., Evidence]

GATE = Gate(max_relative_loss={"ndcg@10": 0.01}, min_speedup={1: 1.1, 32: 1.5})
FAST = {1: 2.0, 32: 3.0}
SMALL_LOSS = {"ndcg@10": Interval(value=0.002, low=-0.001, high=0.004)}


def test_a_fast_variant_that_keeps_its_quality_is_accepted(make_evidence: MakeEvidence):
    decision = decide("int8", make_evidence(FAST), SMALL_LOSS, None, GATE)
    assert decision == Decision(
        "int8",
        "accepted",
        [
            "ndcg@10 loss 0.20% (-0.10% to 0.40%): the recipe allows 1.00%",
            "2.00x as fast at batch 1",
            "3.00x as fast at batch 32",
        ],
    )


def test_a_slower_variant_is_rejected_with_its_number(make_evidence: MakeEvidence):
    decision = decide("int8", make_evidence({1: 0.8, 32: 3.0}), SMALL_LOSS, None, GATE)
    assert decision.verdict == "rejected"
    assert decision.reasons == [
        "too slow: 0.80x the baseline's speed at batch 1, the recipe asks for 1.1x",
    ]


def test_a_certain_loss_of_quality_is_rejected_with_its_interval(make_evidence: MakeEvidence):
    loss = {"ndcg@10": Interval(value=0.05, low=0.03, high=0.07)}
    decision = decide("int8", make_evidence(FAST), loss, None, GATE)
    assert decision.verdict == "rejected"
    assert decision.reasons == ["ndcg@10 loss 5.00% (3.00% to 7.00%): the recipe allows 1.00%"]


def test_a_variant_that_is_worse_and_slower_is_rejected_with_all_reasons(
    make_evidence: MakeEvidence,
):
    loss = {"ndcg@10": Interval(value=0.05, low=0.03, high=0.07)}
    decision = decide("int8", make_evidence({1: 0.8, 32: 0.9}), loss, None, GATE)
    assert [reason.split(" ")[0] for reason in decision.reasons] == ["ndcg@10", "too", "too"]


@pytest.mark.parametrize(("value", "high"), [(0.008, 0.0101), (0.012, 0.02), (0.008, math.nan)])
def test_a_loss_that_may_be_too_large_is_not_enough_data(
    make_evidence: MakeEvidence, value: float, high: float
):
    loss = {"ndcg@10": Interval(value=value, low=0.005, high=high)}
    decision = decide("int8", make_evidence(FAST), loss, None, GATE)
    assert decision.verdict == "not enough data"
    (reason,) = decision.reasons
    assert reason.endswith("the recipe allows 1.00%, more examples would tell")


def test_a_loss_at_the_limit_is_accepted(make_evidence: MakeEvidence):
    loss = {"ndcg@10": Interval(value=0.01, low=0.01, high=0.01)}
    assert decide("int8", make_evidence(FAST), loss, None, GATE).verdict == "accepted"


def test_too_little_data_is_the_verdict_however_good_the_numbers(make_evidence: MakeEvidence):
    decision = decide("int8", make_evidence(FAST), SMALL_LOSS, "10 questions evaluated", GATE)
    assert decision == Decision("int8", "not enough data", ["10 questions evaluated"])


def test_a_batch_size_that_was_not_timed_cannot_pass(make_evidence: MakeEvidence):
    decision = decide("int8", make_evidence({1: 2.0}), SMALL_LOSS, None, GATE)
    assert decision.verdict == "rejected"
    assert decision.reasons == ["batch 32 was not timed: add it to speed.batch_sizes"]


def test_a_loss_in_points_is_judged_and_told_in_points(make_evidence: MakeEvidence):
    gate = Gate(max_absolute_loss={"accuracy": 0.01})
    loss = {"accuracy": Interval(value=0.02, low=0.015, high=0.03)}
    decision = decide("int8", make_evidence(FAST), loss, None, gate)
    assert decision == Decision(
        "int8",
        "rejected",
        ["accuracy loss 2.00 points (1.50 to 3.00): the recipe allows 1.00 points"],
    )


@pytest.mark.parametrize(
    ("variant", "verdict"), [("static", "rejected"), ("student-int8", "accepted")]
)
def test_a_static_student_has_to_be_faster_by_far(
    make_evidence: MakeEvidence, variant: str, verdict: str
):
    gate = GATE.model_copy(update={"static_min_speedup": 50.0})
    decision = decide(variant, make_evidence({1: 49.0, 32: 60.0}), SMALL_LOSS, None, gate)
    assert decision.verdict == verdict


@pytest.mark.parametrize(
    ("memory_bytes", "verdict"), [(200 * 2**20, "accepted"), (201 * 2**20, "rejected")]
)
def test_a_variant_that_needs_too_much_memory_is_rejected(
    make_evidence: MakeEvidence, memory_bytes: int, verdict: str
):
    gate = GATE.model_copy(update={"max_memory_mib": 200})
    evidence = make_evidence(FAST).model_copy(update={"memory_bytes": memory_bytes})
    decision = decide("int8", evidence, SMALL_LOSS, None, gate)
    assert decision.verdict == verdict
    if verdict == "rejected":
        assert decision.reasons == ["uses 201 MiB of memory, the recipe allows 200 MiB"]


def test_a_memory_limit_without_a_measurement_is_not_enough_data(make_evidence: MakeEvidence):
    gate = GATE.model_copy(update={"max_memory_mib": 200})
    decision = decide("int8", make_evidence(FAST), SMALL_LOSS, None, gate)
    assert decision.verdict == "not enough data"
    assert "run it on the target's hardware" in decision.reasons[0]


def test_where_nothing_could_be_timed_the_recipes_order_decides(make_evidence: MakeEvidence):
    evidence = {name: make_evidence({}) for name in ("student-fp16", "fp16")}
    decisions = [Decision(name, "accepted", []) for name in evidence]
    assert choose(decisions, evidence) == "student-fp16"


def test_the_accepted_variant_with_the_most_throughput_is_chosen(make_evidence: MakeEvidence):
    evidence = {
        "fp32": make_evidence(FAST, texts_per_s=100),
        "int8": make_evidence(FAST, texts_per_s=300),
        "tiny": make_evidence(FAST, texts_per_s=900),
    }
    verdicts = {"fp32": "accepted", "int8": "accepted", "tiny": "rejected"}
    decisions = [Decision(name, verdict, []) for name, verdict in verdicts.items()]
    assert choose(decisions, evidence) == "int8"


def test_throughput_is_compared_at_the_largest_batch(make_evidence: MakeEvidence):
    fast_alone, fast_together = make_evidence(FAST, 100), make_evidence(FAST, 200)
    first = fast_alone.speed[0].model_copy(update={"throughput_texts_per_s": 1000.0})
    evidence = {
        "alone": fast_alone.model_copy(update={"speed": [first, fast_alone.speed[1]]}),
        "together": fast_together,
    }
    decisions = [Decision(name, "accepted", []) for name in evidence]
    assert choose(decisions, evidence) == "together"


@pytest.mark.parametrize("verdict", ["rejected", "not enough data"])
def test_nothing_is_chosen_when_nothing_is_accepted(make_evidence: MakeEvidence, verdict: str):
    decisions = [Decision("int8", verdict, [])]
    assert choose(decisions, {"int8": make_evidence(FAST)}) is None
