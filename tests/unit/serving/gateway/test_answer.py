import asyncio
import json
import time
from collections.abc import Sequence

import numpy as np
import pytest

from serving.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ModelUnavailableError,
    ServingError,
)
from serving.gateway.answer import Answer, EmbedTexts, answer
from serving.gateway.metrics import Trace
from serving.gateway.model_client import Embedded
from serving.gateway.validation import Rules

RULES = Rules(model="search", output_dim=2, max_tokens=8, max_texts=4, max_text_bytes=100)


async def words_as_tokens(texts: Sequence[str], deadline_s: float) -> Embedded:
    """A model of two dimensions whose tokens are words."""
    assert deadline_s > time.monotonic()
    return Embedded(
        np.array([[len(text), 0.0] for text in texts], np.float32),
        np.array([len(text.split()) for text in texts], np.int32),
    )


def failing(error: ServingError) -> EmbedTexts:
    async def embed(_texts: Sequence[str], _deadline_s: float) -> Embedded:
        raise error

    return embed


def ask(embed: EmbedTexts, trace: Trace | None = None, **fields: object) -> Answer:
    body = json.dumps({"model": "search", "input": "hello there"} | fields).encode()
    deadline_s = time.monotonic() + 60
    return asyncio.run(answer(body, RULES, embed, deadline_s, trace or Trace("an-id")))


def test_an_answer_holds_the_model_s_vectors_and_how_it_was_made():
    answered = ask(words_as_tokens, input=["a b", "c"], encoding_format="base64")
    assert answered.embedded.embeddings.tolist() == [[3, 0], [1, 0]]
    assert (answered.source, answered.degraded) == ("model", False)
    assert answered.encoding_format == "base64"


def test_a_refused_request_never_reaches_the_model():
    with pytest.raises(InvalidRequestError):
        ask(failing(ModelUnavailableError("the model was asked")), input="")


@pytest.mark.parametrize("error", [ModelUnavailableError("down"), DeadlineExceededError("late")])
def test_a_model_s_failure_is_passed_on_as_it_is(error: ServingError):
    with pytest.raises(type(error), match=str(error)):
        ask(failing(error))


def test_an_over_long_text_is_refused_unless_truncation_is_accepted():
    long = "word " * 9
    with pytest.raises(InvalidRequestError, match=r"input\[1\] has 9 tokens"):
        ask(words_as_tokens, input=["short", long])
    assert len(ask(words_as_tokens, input=["short", long], truncate=True).embedded.embeddings) == 2


def test_a_trace_holds_the_stages_and_the_work_done():
    trace = Trace("an-id")
    ask(words_as_tokens, trace, input=["a b", "c"])
    assert list(trace.stages_s) == ["validate", "model"]
    assert (trace.texts, trace.tokens) == (2, 3)


def test_a_failed_stage_is_measured_too():
    trace = Trace("an-id")
    with pytest.raises(ModelUnavailableError):
        ask(failing(ModelUnavailableError("down")), trace)
    assert list(trace.stages_s) == ["validate", "model"]
    assert trace.texts == 0
