"""Around every request: its id, its measurements, and the last word on unexpected errors."""

import logging
import re
import time
import uuid
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.gateway.errors import error_body
from serving.gateway.metrics import Metrics, Trace

log = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
TRACE = "farshore.trace"  # key of the request's Trace in its ASGI scope
SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
CLIENT_LEFT = 499  # nginx's status for a client that closed the connection; only ever recorded


class RecordRequests:
    """Pure ASGI: Starlette's BaseHTTPMiddleware would add a task and two queues to each request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace = scope[TRACE] = Trace(request_id(Headers(scope=scope).get(REQUEST_ID)))
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = trace.request_id
            await send(message)

        start_s = time.perf_counter()
        with self._metrics.in_flight.track_inprogress():
            try:
                await self._app(scope, receive, send_with_id)
            except ClientDisconnect:
                status = CLIENT_LEFT
            except Exception:
                log.exception("request %s failed unexpectedly", trace.request_id)
                if not status:
                    await unexpected(trace)(scope, receive, send_with_id)
            finally:
                self._metrics.record(route_of(scope), status, time.perf_counter() - start_s, trace)


def request_id(offered: str | None) -> str:
    """The client's own id when it is safe to log and echo, else a new one."""
    if offered is not None and SANE_REQUEST_ID.fullmatch(offered):
        return offered
    return uuid.uuid4().hex


def route_of(scope: Scope) -> str:
    """The template of the matched route, so that made-up paths cannot grow the metrics."""
    return getattr(scope.get("route"), "path", "other")


def unexpected(trace: Trace) -> Response:
    """The reply to an error that nobody foresaw; the details are in the log only."""
    message = (
        f"unexpected error: report request id {trace.request_id}, which the server's log explains"
    )
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return Response(error_body(status, message), status, media_type="application/json")
