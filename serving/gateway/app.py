"""The gateway as an ASGI application: routes, what surrounds them, and the answers to errors."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from models.manifest import Manifest
from serving.errors import ServingError
from serving.gateway.errors import error_body, error_reply
from serving.gateway.index_answer import IndexService
from serving.gateway.index_routes import router as index_router
from serving.gateway.metrics import Metrics
from serving.gateway.middleware import TRACE, RecordRequests
from serving.gateway.model_client import ModelClient
from serving.gateway.routes import router
from serving.gateway.settings import Settings
from serving.gateway.state import Gateway, rules_of
from serving.index.router import Router, RouterSettings

log = logging.getLogger(__name__)


def create_app(
    manifest: Manifest,
    settings: Settings,
    grpc_url: str,
    where_to_look: str,
    placement: Path | None = None,
) -> FastAPI:
    """A gateway to the model of `manifest` at the Triton that listens on `grpc_url`.

    `where_to_look` tells an operator what to read when Triton does not answer; `placement` says where the
    shards of an index run, if one is served.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        model = ModelClient(grpc_url, manifest, where_to_look)
        index = open_index(placement, manifest, settings, metrics) if placement else None
        app.state.gateway = Gateway(
            manifest, settings, model, metrics, rules_of(manifest, settings), index
        )
        yield
        await model.close()
        if index is not None:
            await index.router.close()

    app = FastAPI(
        title="Farshore gateway",
        summary=f"Embeddings by {manifest.name}",
        lifespan=lifespan,
        middleware=[Middleware(RecordRequests, metrics=metrics)],
    )
    app.include_router(router)
    app.include_router(index_router)
    app.add_exception_handler(ServingError, answer_serving_error)
    app.add_exception_handler(HTTPException, answer_http_exception)
    return app


def open_index(
    placement: Path, manifest: Manifest, settings: Settings, metrics: Metrics
) -> IndexService:
    """The index whose shards run where `placement` says. Call it in the event loop that asks it."""
    treated = RouterSettings(hedge_share=settings.hedge_share)
    router = Router(placement, treated, observe=metrics.record_shard)
    return IndexService(router, manifest.space, settings.writable_index)


async def answer_serving_error(request: Request, error: Exception) -> Response:
    """An error of ours; a model's failure is logged with the cause that clients do not get."""
    assert isinstance(error, ServingError)
    status, headers, body = error_reply(error)
    if status == HTTPStatus.BAD_GATEWAY:
        request_id = request.scope[TRACE].request_id
        log.warning("request %s: %s", request_id, error, exc_info=error.__cause__)
    return Response(body, status, headers, media_type="application/json")


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """An unknown route or a wrong method, in the shape of every other error."""
    assert isinstance(error, HTTPException)
    message = (
        f"{error.detail}: {request.method} {request.url.path} is not served; "
        "try POST /v1/embeddings, or read /docs"
    )
    body = error_body(error.status_code, message)
    return Response(body, error.status_code, error.headers, media_type="application/json")
