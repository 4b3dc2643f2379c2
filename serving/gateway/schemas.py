"""The JSON that clients send. Replies are built in reply.py, errors in errors.py."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from models.manifest import Record

EncodingFormat = Literal["float", "base64"]

TEXT_OR_TEXTS = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "one text, or a list of texts",
}


class EmbeddingsRequest(Record):
    """The body of `POST /v1/embeddings`: OpenAI's fields, and `truncate`.

    `input` is left to validation.check_texts, which names the offending text instead of listing
    one union error per item. Types are strict: `"true"` is not a bool.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    input: Annotated[object, WithJsonSchema(TEXT_OR_TEXTS)]
    model: str
    encoding_format: EncodingFormat = "float"
    dimensions: int | None = Field(None, description="only the model's own dimension is accepted")
    user: str | None = Field(None, description="accepted and ignored")
    truncate: bool = Field(False, description="cut an over-long text instead of refusing it")
