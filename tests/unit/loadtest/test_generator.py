"""The real Locust process against a real HTTP server."""

import pytest

from loadtest.arrivals import poisson
from loadtest.errors import GeneratorError
from loadtest.generator import measure
from loadtest.settings import Settings


def with_texts(settings: Settings, path, *texts: str) -> Settings:
    path.write_text("\n".join(texts))
    return settings.model_copy(update={"queries": path})


def test_every_planned_request_is_sent_once_and_answered(settings):
    samples = []
    result = measure(settings, lambda sample, _: samples.append(sample))
    schedule = poisson(settings.rate_per_s, settings.total_s, settings.seed)
    planned_s = sorted(sample.planned_s for sample in samples)
    assert planned_s == pytest.approx(schedule - settings.warmup_s)
    assert result.planned == result.sent == result.served == sum(schedule >= settings.warmup_s)
    assert not result.interrupted


def test_requests_never_leave_before_their_time(settings):
    samples = []
    measure(settings, lambda sample, _: samples.append(sample))
    assert all(sample.sent_s >= sample.planned_s for sample in samples)


def test_refusals_server_errors_and_lost_connections_are_counted_apart(settings, tmp_path):
    texts = ("fine", "refuse", "fail", "drop")
    result = measure(with_texts(settings, tmp_path / "queries.txt", *texts))
    assert result.errors["timeout"] == 0
    assert min(result.errors[kind] for kind in ("refused", "server_error", "connection")) > 0
    assert result.served + sum(result.errors.values()) == result.sent == result.planned
    assert result.answered == result.sent - result.errors["connection"]


def test_a_server_that_never_answers_is_a_timeout_with_its_waiting_time(settings, tmp_path):
    settings = settings.model_copy(update={"rate_per_s": 20, "timeout_s": 1.0})
    result = measure(with_texts(settings, tmp_path / "queries.txt", "hang"))
    assert result.errors["timeout"] == result.sent
    assert result.answered == 0
    assert result.latency.p50_ms >= 1_000


def test_nobody_listening_is_a_connection_error_and_not_a_crash(settings):
    result = measure(settings.model_copy(update={"url": "http://127.0.0.1:1"}))
    assert result.errors["connection"] == result.sent > 0
    assert result.latency is None


def test_an_absurd_rate_saturates_the_generator_and_says_so(settings):
    result = measure(settings.model_copy(update={"rate_per_s": 50_000, "duration_s": 1.0}))
    assert result.generator_saturated
    assert result.sent < result.planned
    assert "planned requests in time" in result.saturation_reasons[0]


def test_a_generator_that_cannot_start_is_an_error_with_its_reason(settings, tmp_path):
    missing = settings.model_copy(update={"queries": tmp_path / "none.txt"})
    with pytest.raises(GeneratorError, match="no queries at"):
        measure(missing)
