import asyncio
import logging

import httpx
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from serving.gateway.metrics import Metrics
from serving.gateway.middleware import RecordRequests


def ask(error: Exception, metrics: Metrics) -> httpx.Response:
    """The reply to a request whose handler raises `error`."""

    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise error

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(RecordRequests(broken, metrics))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get("/", headers={"X-Request-Id": "my-id"})

    return asyncio.run(get())


def test_an_unexpected_error_is_told_by_id_and_explained_in_the_log_only(
    caplog: pytest.LogCaptureFixture,
):
    metrics = Metrics()
    with caplog.at_level(logging.ERROR):
        reply = ask(RuntimeError("a secret detail"), metrics)
    assert reply.status_code == 500
    assert reply.headers["X-Request-Id"] == "my-id"
    assert "my-id" in reply.json()["error"]["message"]
    assert "secret" not in reply.text
    assert "my-id" in caplog.text
    assert "a secret detail" in caplog.text
    assert b'requests_total{route="other",status="500"} 1.0' in metrics.exposition()


def test_a_client_that_leaves_is_counted_and_is_no_error_of_ours(
    caplog: pytest.LogCaptureFixture,
):
    metrics = Metrics()
    # Nothing is sent to a client that has left, which httpx's transport takes for an empty reply.
    with pytest.raises(AssertionError):
        ask(ClientDisconnect(), metrics)
    assert b'requests_total{route="other",status="499"} 1.0' in metrics.exposition()
    assert b"farshore_gateway_in_flight 0.0" in metrics.exposition()
    assert caplog.text == ""
