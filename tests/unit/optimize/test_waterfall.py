from collections.abc import Callable

import pytest

from models.manifest import Evidence, Tuning
from models.prices import find_price, load_prices
from optimize.waterfall import waterfall

PRICE = find_price(load_prices(), "aws-c7i.large")

MakeEvidence = Callable[..., Evidence]


@pytest.fixture
def evidence(make_evidence: MakeEvidence) -> dict[str, Evidence]:
    """Everything takes 12.5 ms alone; throughput in batches differs."""
    rates = {"pytorch": 400, "fp32": 600, "int8": 1000, "student-int8": 4000, "static": 9000}
    return {name: make_evidence({1: 1.0, 32: 1.0}, rate) for name, rate in rates.items()}


def test_the_way_from_the_demo_leads_over_what_the_chosen_variant_descends_from(
    evidence: dict[str, Evidence],
):
    stages = waterfall(evidence, "pytorch", "student-int8", None, PRICE)
    assert [(stage.label, stage.rate_per_s) for stage in stages] == [
        ("pytorch, one request at a time", 80.0),
        ("pytorch, batches of 32", 400.0),
        ("fp32, batches of 32", 600.0),
        ("int8, batches of 32", 1000.0),
        ("student-int8, batches of 32", 4000.0),
    ]


def test_dollars_are_the_price_of_the_time_that_a_million_requests_take(
    evidence: dict[str, Evidence],
):
    first = waterfall(evidence, "pytorch", "int8", None, PRICE)[0]
    hours = 1e6 / 80 / 3600
    assert first.usd_per_million == pytest.approx(PRICE.usd_per_hour * hours)


def test_a_tuned_server_is_the_last_stage_at_the_rate_that_holds_its_limit(
    evidence: dict[str, Evidence],
):
    tuning = Tuning(
        parameters={},
        default_parameters={},
        max_p99_ms=50,
        rate_per_s=1500.0,
        p99_ms=42.0,
        default_rate_per_s=900.0,
        memory_bytes=None,
        trials=3,
        seconds=60.0,
        hardware={},
    )
    last = waterfall(evidence, "pytorch", "int8", tuning, PRICE)[-1]
    assert (last.label, last.rate_per_s) == ("tuned on Triton, p99 within 50 ms", 1500.0)


def test_without_a_chosen_variant_the_way_ends_at_the_baseline(evidence: dict[str, Evidence]):
    stages = waterfall(evidence, "pytorch", None, None, PRICE)
    assert [stage.label.split(",")[0] for stage in stages] == ["pytorch", "pytorch"]


def test_where_nothing_was_timed_there_is_no_waterfall(make_evidence: MakeEvidence):
    assert waterfall({"pytorch": make_evidence({})}, "pytorch", None, None, PRICE) == []
