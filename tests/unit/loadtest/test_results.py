import math

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from loadtest.results import (
    CONNECTION,
    OK,
    REFUSED,
    SERVER_ERROR,
    TIMEOUT,
    Recorder,
    Sample,
    allowed_late,
    p99_upper_bound_ms,
    saturation_reasons,
    summarise,
    value_at_quantile_ms,
)

FINE = {
    "planned": 100,
    "sent": 100,
    "lateness_p99_ms": 1.0,
    "latency_p99_ms": 20.0,
    "cpu_share": 0.2,
}


def recorded(latencies_s):
    recorder = Recorder()
    for latency_s in latencies_s:
        recorder.record(Sample(0.0, 0.0, float(latency_s), OK))
    return recorder


@pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 160, 5_000])
@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99, 0.999, 1.0])
def test_quantiles_agree_with_numpy_within_the_histograms_precision(count, quantile):
    latencies_s = np.random.default_rng(count).lognormal(-3.5, 1.2, count)
    truth_ms = 1e3 * np.quantile(latencies_s, quantile, method="inverted_cdf")
    value_ms = value_at_quantile_ms(recorded(latencies_s).latency, quantile)
    assert value_ms == pytest.approx(truth_ms, rel=1e-3, abs=1e-3)


def test_latency_counts_from_the_planned_time_and_not_from_the_actual_send():
    recorder = Recorder()
    recorder.record(Sample(planned_s=1.0, sent_s=1.4, done_s=1.5, outcome=OK))
    assert value_at_quantile_ms(recorder.latency, 1.0) == pytest.approx(500, rel=1e-3)
    assert value_at_quantile_ms(recorder.lateness, 1.0) == pytest.approx(400, rel=1e-3)


def test_requests_of_the_warm_up_are_thrown_away():
    recorder = Recorder()
    recorder.record(Sample(-0.1, -0.1, 5.0, OK))
    assert recorder.outcomes.total() == recorder.latency.total_count == 0


def test_a_wait_beyond_the_histograms_range_is_recorded_at_its_end():
    assert value_at_quantile_ms(recorded([90_000]).latency, 1.0) == pytest.approx(
        3_600_000, rel=1e-3
    )


def test_errors_are_counted_apart_and_quick_refusals_do_not_improve_the_latency():
    recorder = recorded([1.0] * 10)
    for outcome, latency_s in ((REFUSED, 0.001), (SERVER_ERROR, 0.001), (CONNECTION, 0.001)):
        recorder.record(Sample(0.0, 0.0, latency_s, outcome))
    recorder.record(Sample(0.0, 0.0, 10.0, TIMEOUT))
    result = summarise(recorder, planned=14, duration_s=7, cpu_share=0.1, interrupted=False)
    assert result.errors == {"refused": 1, "server_error": 1, "timeout": 1, "connection": 1}
    assert (result.sent, result.answered, result.served) == (14, 12, 10)
    assert result.latency.count == 11
    assert result.latency.p50_ms == pytest.approx(1_000, rel=1e-3)
    assert result.latency.max_ms == pytest.approx(10_000, rel=1e-3)


def test_rates_cover_the_time_until_the_last_answer():
    recorder = recorded([1.0] * 99)
    recorder.record(Sample(9.9, 9.9, 20.0, OK))
    result = summarise(recorder, planned=100, duration_s=10, cpu_share=0.1, interrupted=False)
    assert result.planned_rate_per_s == 10
    assert result.goodput_per_s == result.achieved_rate_per_s == 5


def test_the_timeline_shows_a_stall_where_it_happened(result):
    assert [second.start_s for second in result.timeline] == list(range(10))
    assert [second.requests for second in result.timeline] == [100] * 10
    assert result.timeline[-1].max_ms == pytest.approx(1_000)


def test_the_histogram_in_the_result_can_be_merged_with_another(result):
    histogram = HdrHistogram.decode(result.latency_histogram)
    histogram.decode_and_add(result.latency_histogram)
    assert histogram.total_count == 2 * result.latency.count
    assert value_at_quantile_ms(histogram, 0.99) == result.latency.p99_ms


@pytest.mark.parametrize(
    ("count", "late"),
    [(0, None), (458, None), (459, 0), (661, 0), (662, 1), (2_009, 9), (2_010, 10)],
)
def test_a_p99_claim_with_99_percent_confidence_needs_459_requests_or_662_with_one_late(
    count, late
):
    assert allowed_late(count) == late


@pytest.mark.parametrize("count", [500, 3_000])
def test_the_allowed_late_requests_are_the_most_that_the_binomial_distribution_grants(count):
    def at_most(late):
        ways = (math.comb(count, k) * 0.01**k * 0.99 ** (count - k) for k in range(late + 1))
        return sum(ways)

    late = allowed_late(count)
    assert at_most(late) <= 0.01 < at_most(late + 1)


def test_the_upper_bound_covers_the_true_p99_in_99_of_100_experiments():
    draw = np.random.default_rng(1)
    late = allowed_late(1_000)
    bounds = [np.sort(draw.uniform(size=1_000))[1_000 - late - 1] for _ in range(2_000)]
    assert np.mean(np.array(bounds) >= 0.99) >= 0.985


def test_too_few_requests_give_no_bound_and_enough_give_the_order_statistic():
    assert p99_upper_bound_ms(recorded(np.arange(1, 459) / 1e3).latency) is None
    assert p99_upper_bound_ms(recorded(np.arange(1, 663) / 1e3).latency) == pytest.approx(
        661, rel=1e-3
    )


def test_a_generator_with_room_is_not_saturated():
    assert saturation_reasons(**FINE) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sent": 99}, "sent only 99 of 100"),
        ({"lateness_p99_ms": 12.0}, "12.0 ms late"),
        ({"cpu_share": 0.9}, "90% of its core"),
    ],
)
def test_a_saturated_generator_is_named_with_its_reason(change, reason):
    (told,) = saturation_reasons(**FINE | change)
    assert reason in told
