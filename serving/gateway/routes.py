"""The HTTP routes: bytes off the wire, the answer asked for, bytes back."""

import asyncio
import re
import time
from typing import Any

from fastapi import APIRouter, Request, Response

from models.manifest import Record
from serving.errors import BodyTooLargeError, BodyTooSlowError, InvalidRequestError
from serving.gateway.answer import answer
from serving.gateway.middleware import TRACE
from serving.gateway.reply import embeddings_reply, models_reply
from serving.gateway.schemas import EmbeddingsRequest
from serving.gateway.state import Gateway

TIMEOUT_HEADER = "x-request-timeout-ms"

router = APIRouter()


def json_body(schema: type[Record]) -> dict[str, Any]:
    """What tells the API's page what a body looks like: bodies are read by hand, bounded and once."""
    content = {"application/json": {"schema": schema.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


@router.post("/v1/embeddings", openapi_extra=json_body(EmbeddingsRequest))
async def create_embeddings(request: Request) -> Response:
    """Embed a text or a list of texts, as OpenAI's API does."""
    gateway: Gateway = request.app.state.gateway
    trace = request.scope[TRACE]
    deadline_s = deadline_of(request)
    body = await read_request_body(request, deadline_s)
    answered = await answer(body, gateway.rules, gateway.model.embed, deadline_s, trace)
    with trace.stage("reply"):
        return Response(embeddings_reply(answered, gateway.manifest), media_type="application/json")


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """The served model."""
    gateway: Gateway = request.app.state.gateway
    return Response(models_reply(gateway.manifest), media_type="application/json")


@router.get("/healthz")
async def health() -> Response:
    """200 while the gateway's process runs."""
    return Response("ok\n", media_type="text/plain")


@router.get("/readyz")
async def readiness(request: Request) -> Response:
    """200 when the model answers, else 503; at most a second old."""
    gateway: Gateway = request.app.state.gateway
    await gateway.model.check_ready()
    return Response("ready\n", media_type="text/plain")


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    gateway: Gateway = request.app.state.gateway
    return Response(gateway.metrics.exposition(), media_type="text/plain; version=0.0.4")


def deadline_of(request: Request) -> float:
    """The time.monotonic() by which a request must be answered. Raises InvalidRequestError."""
    gateway: Gateway = request.app.state.gateway
    asked = request.headers.get(TIMEOUT_HEADER)
    return time.monotonic() + timeout_s(asked, gateway.settings.deadline_s)


async def read_request_body(request: Request, deadline_s: float) -> bytes:
    """The body within the gateway's limits, measured as the stage "read". Raises as read_body does."""
    gateway: Gateway = request.app.state.gateway
    with request.scope[TRACE].stage("read"):
        return await read_body(request, gateway.settings.max_body_bytes, deadline_s)


def timeout_s(header: str | None, limit_s: float) -> float:
    """The time one request may take: the client may shorten the gateway's, never extend it."""
    if header is None:
        return limit_s
    if not re.fullmatch("[1-9][0-9]{0,8}", header):
        raise InvalidRequestError(
            "X-Request-Timeout-Ms must be a whole number of milliseconds above 0: "
            "correct it or leave it out"
        )
    return min(int(header) / 1000, limit_s)


async def read_body(request: Request, limit_bytes: int, deadline_s: float) -> bytes:
    """The body, read no further than `limit_bytes`.

    The server discards what a refused client still sends, so that it gets to read the refusal.
    Raises BodyTooLargeError, or BodyTooSlowError past the time.monotonic() `deadline_s`.
    """
    too_large = BodyTooLargeError(
        f"the body is over {limit_bytes} bytes: send fewer texts per request"
    )
    if int(request.headers.get("content-length", 0)) > limit_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(deadline_s - time.monotonic()):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit_bytes:
                    raise too_large
    except TimeoutError:
        raise BodyTooSlowError(
            "the body did not arrive within the deadline: send it faster or in smaller requests"
        ) from None
    return bytes(body)
