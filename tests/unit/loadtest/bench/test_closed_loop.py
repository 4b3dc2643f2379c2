import asyncio
import json
import struct

import pytest
from tritonclient.grpc import service_pb2

from loadtest.bench.client import Target
from loadtest.bench.closed_loop import Call, gateway_request, read_reply, summarise, triton_request
from loadtest.errors import GeneratorError

TARGET = Target(kind="triton", model="search-encoder", where="127.0.0.1:1")
TEXT = "où est la gare"


def read(reply: bytes) -> bytes:
    """Let read_reply read a reply; returns what it left."""

    async def run() -> bytes:
        reader = asyncio.StreamReader()
        reader.feed_data(reply)
        reader.feed_eof()
        await read_reply(reader)
        return await reader.read()

    return asyncio.run(run())


def test_only_calls_answered_within_the_window_count():
    early, first, last, late = (Call(s, s + 1.0, 1) for s in (8.5, 9.5, 11.0, 11.5))
    window = summarise([early, first, last, late], begin_s=10.0, end_s=12.0, cpu_share=0.25)
    assert window.texts == 2
    assert window.texts_per_s == 1.0
    assert window.p50_ms == 1000.0
    assert window.cpu_share == 0.25


def test_a_call_of_several_texts_counts_each_text():
    window = summarise([Call(0.0, 0.5, 32), Call(0.5, 1.0, 32)], 0.0, 1.0, 1.0)
    assert window.texts_per_s == 64.0
    assert window.p50_ms == 500.0


def test_a_window_without_an_answer_is_refused():
    with pytest.raises(GeneratorError, match="measure for longer"):
        summarise([Call(0.0, 5.0, 1)], 0.0, 2.0, 0.0)


def test_a_triton_request_holds_the_text_with_its_length_in_bytes():
    request = service_pb2.ModelInferRequest.FromString(triton_request(TARGET, TEXT))
    (tensor,) = request.inputs
    (raw,) = request.raw_input_contents
    assert request.model_name == "search-encoder"
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("text", "BYTES", [1, 1])
    assert struct.unpack("<I", raw[:4]) == (len(TEXT.encode()),)
    assert raw[4:].decode() == TEXT


def test_a_gateway_request_announces_the_length_of_its_body():
    head, _, body = gateway_request(TARGET, TEXT).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
    assert json.loads(body)["input"] == TEXT


def test_a_reply_is_read_to_its_last_byte_and_no_further():
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Request-Id: 1\r\n\r\nbody"
    assert read(reply + b"HTTP/1.1 next") == b"HTTP/1.1 next"


def test_a_refusal_is_an_error_with_its_reason():
    reply = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 7\r\n\r\nno luck"
    with pytest.raises(GeneratorError, match="503: no luck"):
        read(reply)
