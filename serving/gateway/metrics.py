"""What the gateway measures, for Prometheus. Filled in one place: middleware.RecordRequests."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

# Seconds, as Prometheus asks; an embedding takes 1 to 20 ms, a deadline is 10 s.
BUCKETS_S = (
    *(0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class Trace:
    """What one request leaves behind for the metrics and the log."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.stages_s: dict[str, float] = {}
        self.texts = 0
        self.tokens = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage, also when it fails."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.stages_s[name] = time.perf_counter() - start_s

    def count(self, texts: int, tokens: int) -> None:
        """Note the work that the model did."""
        self.texts, self.tokens = texts, tokens


class Metrics:
    """The instruments of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.in_flight = Gauge(
            "farshore_gateway_in_flight", "Requests being answered", registry=self._registry
        )
        self._requests = Counter(
            "farshore_gateway_requests",
            "Requests by route and HTTP status",
            ["route", "status"],
            registry=self._registry,
        )
        self._request_s = Histogram(
            "farshore_gateway_request_seconds",
            "Time from a request's headers to the end of its reply",
            ["route"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._stage_s = Histogram(
            "farshore_gateway_stage_seconds",
            "Time spent in each stage of an answer",
            ["stage"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._texts = Counter(
            "farshore_gateway_texts", "Texts embedded by the model", registry=self._registry
        )
        self._tokens = Counter(
            "farshore_gateway_tokens", "Tokens of these texts", registry=self._registry
        )

        self._shard_s = Histogram(
            "farshore_index_shard_seconds",
            "Time until a shard of the index answered",
            ["shard"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._hedges = Counter(
            "farshore_index_hedges",
            "Answers of a shard for which two replicas were asked",
            ["shard"],
            registry=self._registry,
        )
        self._partial = Counter(
            "farshore_index_partial_answers",
            "Answers of the index that lacked at least one shard",
            registry=self._registry,
        )

    def record(self, route: str, status: int, elapsed_s: float, trace: Trace) -> None:
        """Count one finished request."""
        self._requests.labels(route, str(status)).inc()
        self._request_s.labels(route).observe(elapsed_s)
        for stage, stage_s in trace.stages_s.items():
            self._stage_s.labels(stage).observe(stage_s)
        self._texts.inc(trace.texts)
        self._tokens.inc(trace.tokens)

    def record_shard(self, shard: int, elapsed_s: float, hedged: bool) -> None:
        """Count one answer of a shard of the index, and whether two replicas were asked for it."""
        self._shard_s.labels(str(shard)).observe(elapsed_s)
        if hedged:
            self._hedges.labels(str(shard)).inc()

    def record_coverage(self, coverage: float) -> None:
        """Count one answer of the index that was not made of all shards."""
        if coverage < 1:
            self._partial.inc()

    def exposition(self) -> bytes:
        """Every metric in Prometheus' text format."""
        return generate_latest(self._registry)
