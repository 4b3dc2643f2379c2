"""The JSON of the routes that ask or change the index."""

from typing import Annotated

from pydantic import ConfigDict, Field, WithJsonSchema

from models.manifest import Record
from serving.gateway.schemas import TEXT_OR_TEXTS
from serving.index.operations import MAX_BATCH, MAX_K

_NUMBERS = {"type": "array", "items": {"type": "number"}}
_VECTORS = {
    "anyOf": [_NUMBERS, {"type": "array", "items": _NUMBERS}],
    "description": "one vector, or a list of vectors, as long as the index's",
}
_IDS = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
}


class IndexRequest(Record):
    """What all of them have in common: types are strict, unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SearchRequest(IndexRequest):
    """The body of `POST /v1/search`: `input` or `vectors`, not both."""

    input: Annotated[object, WithJsonSchema(TEXT_OR_TEXTS)] = None
    vectors: Annotated[object, WithJsonSchema(_VECTORS)] = None
    model: str | None = Field(None, description="the encoder of `input`; left out: the one served")
    k: int = Field(10, ge=1, le=MAX_K, description="results per query")
    effort: int = Field(
        0, ge=0, le=65_536, description="lists visited or candidates kept; 0: the index's own"
    )
    ids: Annotated[object, WithJsonSchema({**_IDS, "description": "search only these"})] = None
    include_vectors: bool = Field(False, description="send each result's vector as well")
    truncate: bool = Field(False, description="cut an over-long text instead of refusing it")


class LookupRequest(IndexRequest):
    """The body of `POST /v1/lookup`."""

    ids: Annotated[object, WithJsonSchema({**_IDS, "maxItems": MAX_BATCH})]


class UpsertRequest(IndexRequest):
    """The body of `POST /v1/upsert`: one vector per id."""

    ids: Annotated[object, WithJsonSchema({**_IDS, "maxItems": MAX_BATCH})]
    vectors: Annotated[object, WithJsonSchema(_VECTORS)]


class DeleteRequest(IndexRequest):
    """The body of `POST /v1/delete`."""

    ids: Annotated[object, WithJsonSchema({**_IDS, "maxItems": MAX_BATCH})]
