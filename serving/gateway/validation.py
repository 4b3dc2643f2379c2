"""Bytes of a request in, texts worth computing out, or an error that says what to change.

Pure functions: nothing here knows of HTTP, a clock or Triton.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from models.manifest import Record
from serving.errors import InvalidRequestError, ModelNotFoundError
from serving.gateway.schemas import EmbeddingsRequest, EncodingFormat

Schema = TypeVar("Schema", bound=Record)


@dataclass(frozen=True)
class Rules:
    """What a request is held against: the served model and the limits of the gateway."""

    model: str
    output_dim: int
    max_tokens: int
    max_texts: int
    max_text_bytes: int


@dataclass(frozen=True)
class ValidRequest:
    """One to `max_texts` texts that may go to the model, and how the client wants the answer."""

    texts: list[str]
    encoding_format: EncodingFormat
    truncate: bool


def validate(body: bytes, rules: Rules) -> ValidRequest:
    """Read a request body and hold it against the rules.

    Raises InvalidRequestError or ModelNotFoundError.
    """
    request = parse(body, EmbeddingsRequest)
    check_model(request.model, rules)
    if request.dimensions not in (None, rules.output_dim):
        raise InvalidRequestError(
            f"{rules.model} gives {rules.output_dim} dimensions, not {request.dimensions}: "
            f"leave `dimensions` out or set it to {rules.output_dim}",
            param="dimensions",
        )
    texts = check_texts(request.input, rules)
    return ValidRequest(texts, request.encoding_format, request.truncate)


def check_model(model: str, rules: Rules) -> None:
    """Raises ModelNotFoundError."""
    if model != rules.model:
        raise ModelNotFoundError(
            f"model {model!r} is not served here: set model to {rules.model!r}"
        )


def parse(body: bytes, schema: type[Schema]) -> Schema:
    """Read JSON into a request; unknown fields are refused, as OpenAI's API does."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(_why_not_json(body, error), code="invalid_json") from error
    if not isinstance(fields, dict):
        raise InvalidRequestError(
            "the body must be a JSON object: send one with the fields that /docs shows"
        )
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        raise _first_problem(error, schema) from error


def check_texts(value: object, rules: Rules) -> list[str]:
    """The texts of `input`, which is a text or a list of texts.

    Raises InvalidRequestError naming the first text that is refused.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise InvalidRequestError(
            "`input` must be a string or a list of strings: send the text itself", param="input"
        )
    if not texts:
        raise InvalidRequestError("`input` is an empty list: send a text", param="input")
    if len(texts) > rules.max_texts:
        raise InvalidRequestError(
            f"`input` holds {len(texts)} texts and one request may hold {rules.max_texts}: "
            "send several requests",
            param="input",
            code="too_many_inputs",
        )
    for index, text in enumerate(texts):
        _check_text(text, index, rules)
    return texts


def check_token_counts(token_counts: NDArray[np.int32], max_tokens: int) -> None:
    """Refuse texts that the model had to truncate.

    `token_counts` [N]: tokens of each whole text before truncation, special tokens included.
    Raises InvalidRequestError naming the first one over `max_tokens`.
    """
    over = np.flatnonzero(token_counts > max_tokens)
    if over.size:
        index = int(over[0])
        raise InvalidRequestError(
            f"input[{index}] has {token_counts[index]} tokens and the model reads {max_tokens}: "
            'shorten it, or send "truncate": true to embed its beginning',
            param="input",
            code="context_length_exceeded",
        )


def _check_text(text: object, index: int, rules: Rules) -> None:
    where = f"input[{index}]"
    if not isinstance(text, str):
        what = "token ids are not accepted" if _is_token_ids(text) else "it is not a string"
        raise InvalidRequestError(f"{where}: {what}: send the text itself", param="input")
    if not text or text.isspace():
        raise InvalidRequestError(f"{where} is empty: leave it out or send a text", param="input")
    if "\0" in text:
        raise InvalidRequestError(f"{where} holds a NUL character: remove it", param="input")
    size_bytes = len(text.encode())
    if size_bytes > rules.max_text_bytes:
        raise InvalidRequestError(
            f"{where} has {size_bytes} bytes and a text may have {rules.max_text_bytes}: split it",
            param="input",
            code="text_too_large",
        )


def _is_token_ids(value: object) -> bool:
    items: Sequence[object] = value if isinstance(value, list) else [value]
    return all(isinstance(item, int) and not isinstance(item, bool) for item in items)


def _why_not_json(body: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        body.decode()
    except UnicodeDecodeError as broken:
        return f"the body is not UTF-8 (byte {broken.start}): encode it as UTF-8"
    return f"the body is not valid JSON ({error}): send a JSON object encoded as UTF-8"


def _first_problem(error: ValidationError, schema: type[Record]) -> InvalidRequestError:
    problem = error.errors(include_input=False, include_url=False)[0]
    field = str(problem["loc"][0])
    match problem["type"]:
        case "extra_forbidden":
            known = ", ".join(schema.model_fields)
            return InvalidRequestError(
                f"unknown field {field!r}: remove it; the fields are {known}",
                param=field,
                code="unknown_parameter",
            )
        case "missing":
            return InvalidRequestError(f"`{field}` is missing: add it", param=field)
        case _:
            return InvalidRequestError(f"`{field}`: {problem['msg']}", param=field)
