"""The order of one answer, from top to bottom. Start reading the product here."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from serving.gateway.metrics import Trace
from serving.gateway.model_client import Embedded
from serving.gateway.schemas import EncodingFormat
from serving.gateway.validation import Rules, check_token_counts, validate

# Texts and the time.monotonic() by which they must be embedded. Raises ServingError.
EmbedTexts = Callable[[Sequence[str], float], Awaitable[Embedded]]


@dataclass(frozen=True)
class Answer:
    """What a client asked for and how it was made."""

    embedded: Embedded
    encoding_format: EncodingFormat
    source: Literal["model"]
    degraded: bool


async def answer(
    body: bytes, rules: Rules, embed: EmbedTexts, deadline_s: float, trace: Trace
) -> Answer:
    """Validate a request, ask the model within the deadline, refuse what it had to truncate.

    `deadline_s` is a time.monotonic() value. Raises the ServingErrors of validation and `embed`.
    """
    with trace.stage("validate"):
        request = validate(body, rules)
    with trace.stage("model"):
        embedded = await embed(request.texts, deadline_s)
    trace.count(texts=len(request.texts), tokens=embedded.total_tokens)
    if not request.truncate:
        check_token_counts(embedded.token_counts, rules.max_tokens)
    return Answer(embedded, request.encoding_format, source="model", degraded=False)
