import math
from collections.abc import Callable
from pathlib import Path

import pytest

from models.manifest import Evidence, Interval
from optimize.gate import Decision, choose, data_shortage, decide
from optimize.recipe import EvaluationData, Gate

MakeEvidence = Callable[..., Evidence]

GATE = Gate(max_ndcg_loss=0.01, min_speedup={1: 1.1, 32: 1.5})
FAST = {1: 2.0, 32: 3.0}
SMALL_LOSS = Interval(value=0.002, low=-0.001, high=0.004)


def test_a_fast_variant_that_keeps_its_quality_is_accepted(make_evidence: MakeEvidence):
    decision = decide("int8", make_evidence(FAST), SMALL_LOSS, None, GATE)
    assert decision == Decision(
        "int8",
        "accepted",
        [
            "nDCG@10 loss 0.20% (-0.10% to 0.40%): the recipe allows 1.00%",
            "2.00x faster at batch 1",
            "3.00x faster at batch 32",
        ],
    )


def test_a_slower_variant_is_rejected_with_its_number(make_evidence: MakeEvidence):
    decision = decide("int8", make_evidence({1: 0.8, 32: 3.0}), SMALL_LOSS, None, GATE)
    assert decision.verdict == "rejected"
    assert decision.reasons == [
        "0.80x the baseline's speed at batch 1, the recipe asks for 1.1x",
    ]


def test_a_certain_loss_of_quality_is_rejected_with_its_interval(make_evidence: MakeEvidence):
    loss = Interval(value=0.05, low=0.03, high=0.07)
    decision = decide("int8", make_evidence(FAST), loss, None, GATE)
    assert decision.verdict == "rejected"
    assert decision.reasons == ["nDCG@10 loss 5.00% (3.00% to 7.00%): the recipe allows 1.00%"]


def test_a_variant_that_is_worse_and_slower_is_rejected_with_all_reasons(
    make_evidence: MakeEvidence,
):
    loss = Interval(value=0.05, low=0.03, high=0.07)
    decision = decide("int8", make_evidence({1: 0.8, 32: 0.9}), loss, None, GATE)
    assert [reason.split(" ")[0] for reason in decision.reasons] == ["nDCG@10", "0.80x", "0.90x"]


@pytest.mark.parametrize(("value", "high"), [(0.008, 0.0101), (0.012, 0.02), (0.008, math.nan)])
def test_a_loss_that_may_be_too_large_is_not_enough_data(
    make_evidence: MakeEvidence, value: float, high: float
):
    loss = Interval(value=value, low=0.005, high=high)
    decision = decide("int8", make_evidence(FAST), loss, None, GATE)
    assert decision.verdict == "not enough data"
    (reason,) = decision.reasons
    assert reason.endswith("the recipe allows 1.00%, more questions would tell")


def test_a_loss_at_the_limit_is_accepted(make_evidence: MakeEvidence):
    loss = Interval(value=0.01, low=0.01, high=0.01)
    assert decide("int8", make_evidence(FAST), loss, None, GATE).verdict == "accepted"


def test_too_little_data_is_the_verdict_however_good_the_numbers(make_evidence: MakeEvidence):
    decision = decide("int8", make_evidence(FAST), SMALL_LOSS, "10 questions evaluated", GATE)
    assert decision == Decision("int8", "not enough data", ["10 questions evaluated"])


def test_a_batch_size_that_was_not_timed_cannot_pass(make_evidence: MakeEvidence):
    decision = decide("int8", make_evidence({1: 2.0}), SMALL_LOSS, None, GATE)
    assert decision.verdict == "rejected"
    assert decision.reasons == ["batch 32 was not timed: add it to speed.batch_sizes"]


@pytest.mark.parametrize(
    ("questions", "passages", "shortage"),
    [
        (10, 20, None),
        (9, 20, "9 questions evaluated, the recipe asks for 10"),
        (10, 19, "19 passages evaluated, the recipe asks for 20"),
    ],
)
def test_a_shortage_of_data_is_told_in_numbers(questions: int, passages: int, shortage: str | None):
    needed = EvaluationData(data=Path(), min_questions=10, min_passages=20)
    assert data_shortage(questions, passages, needed) == shortage


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
