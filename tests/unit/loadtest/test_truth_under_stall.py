"""The reason for the open loop, shown on a server that stalls for one second in every ten."""

import http.client
import json
import threading
import time

import numpy as np
import pytest

from loadtest.generator import measure
from loadtest.settings import make_settings

EVERY_S, STALL_S = 10.0, 1.0
BODY = json.dumps({"input": "is this the truth"})


def true_waits_s(due_s, origin_s):
    """What requests due at monotonic times must wait: until the end of the stall they fall into."""
    phase_s = (np.asarray(due_s) - origin_s) % EVERY_S
    return np.where(phase_s >= EVERY_S - STALL_S, EVERY_S - phase_s, 0.0)


def true_p99_ms(due_s, origin_s):
    return 1e3 * np.quantile(true_waits_s(due_s, origin_s), 0.99, method="inverted_cdf")


@pytest.mark.slow
def test_the_open_loop_reports_the_true_p99_of_a_server_that_stalls(stalling_gateway):
    settings = make_settings(
        url=f"http://127.0.0.1:{stalling_gateway['port']}", model="m", rate_per_s=150, duration_s=30
    )
    due_s = []

    def note(sample, _):
        if sample.planned_s >= 0:
            due_s.append(sample.origin_s + sample.planned_s)

    result = measure(settings, note)
    truth_ms = true_p99_ms(due_s, stalling_gateway["origin_s"])
    assert truth_ms > 500  # about a tenth of all requests waited, up to a second
    assert result.latency.p99_ms == pytest.approx(truth_ms, rel=0.05)
    assert result.sent == result.served == result.planned


@pytest.mark.slow
def test_a_closed_loop_hides_the_same_stall(stalling_gateway):
    latencies_s, start_s = [], time.monotonic()

    def user():
        connection = http.client.HTTPConnection("127.0.0.1", stalling_gateway["port"])
        while time.monotonic() < start_s + EVERY_S + 2 * STALL_S:  # at least one whole stall
            sent_s = time.monotonic()
            connection.request("POST", "/v1/embeddings", BODY)
            connection.getresponse().read()
            latencies_s.append(time.monotonic() - sent_s)

    users = [threading.Thread(target=user) for _ in range(4)]
    for thread in users:
        thread.start()
    for thread in users:
        thread.join()

    due_s = np.arange(
        start_s, start_s + EVERY_S, 1e-3
    )  # a whole period, as an open loop samples it
    truth_ms = true_p99_ms(due_s, stalling_gateway["origin_s"])
    assert max(latencies_s) > 0.9 * STALL_S  # it was there to be seen
    assert 1e3 * np.quantile(latencies_s, 0.99) < 0.1 * truth_ms
