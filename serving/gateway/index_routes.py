"""The HTTP routes of the index, beside those of the model."""

from fastapi import APIRouter, Request, Response

from serving.errors import NoIndexError
from serving.gateway import index_answer
from serving.gateway.index_answer import IndexService
from serving.gateway.index_reply import lookup_reply, search_reply, write_reply
from serving.gateway.index_schemas import (
    DeleteRequest,
    LookupRequest,
    SearchRequest,
    UpsertRequest,
)
from serving.gateway.middleware import TRACE
from serving.gateway.routes import deadline_of, json_body, read_request_body
from serving.gateway.state import Gateway

router = APIRouter()


@router.post("/v1/search", openapi_extra=json_body(SearchRequest))
async def search(request: Request) -> Response:
    """The rows of the index that are nearest to texts or vectors."""
    gateway, index = served(request)
    trace, deadline_s = request.scope[TRACE], deadline_of(request)
    body = await read_request_body(request, deadline_s)
    searched = await index_answer.search(
        body, gateway.rules, index, gateway.model.embed, deadline_s, trace
    )
    gateway.metrics.record_coverage(searched.found.coverage)
    with trace.stage("reply"):
        return reply(search_reply(searched))


@router.post("/v1/lookup", openapi_extra=json_body(LookupRequest))
async def lookup(request: Request) -> Response:
    """Rows of the index by their ids."""
    gateway, index = served(request)
    trace, deadline_s = request.scope[TRACE], deadline_of(request)
    body = await read_request_body(request, deadline_s)
    ids, rows = await index_answer.lookup(body, index, deadline_s, trace)
    gateway.metrics.record_coverage(rows.coverage)
    with trace.stage("reply"):
        return reply(lookup_reply(ids, rows, index.router.placement))


@router.post("/v1/upsert", openapi_extra=json_body(UpsertRequest))
async def upsert(request: Request) -> Response:
    """Put rows into the index; 200 when they are on the disk of every replica."""
    _, index = served(request)
    trace, deadline_s = request.scope[TRACE], deadline_of(request)
    body = await read_request_body(request, deadline_s)
    count = await index_answer.upsert(body, index, deadline_s, trace)
    return reply(write_reply("upserted", count, index.router.placement))


@router.post("/v1/delete", openapi_extra=json_body(DeleteRequest))
async def delete(request: Request) -> Response:
    """Take rows out of the index; 200 when they are gone from every replica."""
    _, index = served(request)
    trace, deadline_s = request.scope[TRACE], deadline_of(request)
    body = await read_request_body(request, deadline_s)
    count = await index_answer.delete(body, index, deadline_s, trace)
    return reply(write_reply("deleted", count, index.router.placement))


def served(request: Request) -> tuple[Gateway, IndexService]:
    """The gateway and its index. Raises NoIndexError."""
    gateway: Gateway = request.app.state.gateway
    if gateway.index is None:
        raise NoIndexError(
            "no index is served here: start the gateway with --index <directory of an index>"
        )
    return gateway, gateway.index


def reply(body: bytes) -> Response:
    """JSON that is ready."""
    return Response(body, media_type="application/json")
