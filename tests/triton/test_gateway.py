"""The gateway in front of a real Triton, asked over real HTTP."""

import base64
import importlib.util
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import numpy as np
import openai
import pytest
import uvicorn

from models.manifest import Manifest, read_manifest
from serving.gateway.app import create_app
from serving.gateway.settings import Settings
from serving.stack import reserve_port, uvicorn_config
from serving.triton.launch import run_triton

pytestmark = pytest.mark.triton

TEXTS = [
    "how do I reset my password?",
    "The ferry to Farsund leaves at noon.",
    "Größe, größer, am größten: 東京タワー 🚢",
]


@pytest.fixture(scope="module")
def manifest(packaged_repository: Path) -> Manifest:
    return read_manifest(packaged_repository)


@pytest.fixture(scope="module")
def url(
    packaged_repository: Path, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A gateway in a thread of this process, and its Triton."""
    log_path = tmp_path_factory.mktemp("gateway") / "triton.log"
    with (
        run_triton(packaged_repository, log_path=log_path) as triton,
        reserve_port("127.0.0.1", 0) as listener,
    ):
        app = create_app(manifest, Settings(), triton.grpc_url, f"see {log_path}")
        listener.listen()
        server = uvicorn.Server(uvicorn_config(app, Settings()))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture
def openai_client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def encoded(packaged_repository: Path, manifest: Manifest) -> np.ndarray:
    """TEXTS as the packaged encoder embeds them, without Triton or gateway."""
    directory = packaged_repository / manifest.name / str(manifest.version)
    encoder = load_package("packaged_encoder", directory / "encoder.py")
    return encoder.TextEncoder.from_directory(directory).encode(TEXTS).outputs


def load_package(name: str, path: Path) -> ModuleType:
    """The module at `path`, its neighbours importable from it as `.neighbour`."""
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=[str(path.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cosines(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Row by row; both are L2-normalised."""
    return np.einsum("ij,ij->i", some, others)


def body(manifest: Manifest, **fields: object) -> dict[str, object]:
    return {"model": manifest.name, "input": "hello"} | fields


def test_openai_s_client_gets_the_vectors_of_the_packaged_encoder(
    openai_client: openai.OpenAI, manifest: Manifest, encoded: np.ndarray
):
    # This client asks for base64 by itself and decodes it.
    reply = openai_client.embeddings.create(model=manifest.name, input=TEXTS)
    assert cosines(np.array([row.embedding for row in reply.data]), encoded).min() >= 0.999
    assert [row.index for row in reply.data] == [0, 1, 2]
    assert reply.usage.prompt_tokens == reply.usage.total_tokens > len(TEXTS)


def test_float_and_base64_are_the_same_numbers(http: httpx.Client, manifest: Manifest):
    numbers = http.post("/v1/embeddings", json=body(manifest)).json()
    text = http.post("/v1/embeddings", json=body(manifest, encoding_format="base64")).json()
    decoded = np.frombuffer(base64.b64decode(text["data"][0]["embedding"]), "<f4")
    assert decoded.tolist() == np.array(numbers["data"][0]["embedding"], np.float32).tolist()
    assert len(decoded) == manifest.output_dim


def test_openai_s_client_takes_float_and_one_string_and_ignores_the_extra_field(
    openai_client: openai.OpenAI, manifest: Manifest
):
    reply = openai_client.embeddings.create(
        model=manifest.name, input="hello", encoding_format="float", user="me"
    )
    assert len(reply.data[0].embedding) == manifest.output_dim
    assert reply.model_extra == {
        "farshore": {
            "source": "model",
            "degraded": False,
            "model_version": manifest.version,
            "variant": manifest.variant,
            "digest": manifest.digest,
        }
    }


def test_openai_s_client_lists_the_served_model(openai_client: openai.OpenAI, manifest: Manifest):
    assert [model.id for model in openai_client.models.list()] == [manifest.name]


def test_openai_s_client_raises_its_own_errors_with_our_words(
    openai_client: openai.OpenAI, manifest: Manifest
):
    with pytest.raises(openai.NotFoundError, match=manifest.name):
        openai_client.embeddings.create(model="text-embedding-3-small", input="hello")
    with pytest.raises(openai.BadRequestError, match="token ids are not accepted"):
        openai_client.embeddings.create(model=manifest.name, input=[1, 2, 3])


def test_more_texts_than_one_batch_come_back_in_order(http: httpx.Client, manifest: Manifest):
    texts = [f"{TEXTS[index % 3]} ({index})" for index in range(200)]
    assert len(texts) > 2 * manifest.max_batch_size
    many = http.post("/v1/embeddings", json=body(manifest, input=texts)).json()["data"]
    assert [row["index"] for row in many] == list(range(200))
    vectors = np.array([row["embedding"] for row in many])
    for index in (0, 63, 64, 128, 199):
        one = http.post("/v1/embeddings", json=body(manifest, input=texts[index])).json()
        nearest = vectors @ np.array(one["data"][0]["embedding"])
        assert nearest.argmax() == index


def test_an_over_long_text_is_refused_by_index_or_truncated_on_demand(
    http: httpx.Client, manifest: Manifest
):
    long = ["short", "word " * (manifest.max_tokens + 10)]
    refused = http.post("/v1/embeddings", json=body(manifest, input=long))
    message = refused.json()["error"]["message"]
    assert refused.status_code == 400
    assert f"input[1] has {manifest.max_tokens + 12} tokens" in message
    assert f"reads {manifest.max_tokens}" in message
    accepted = http.post("/v1/embeddings", json=body(manifest, input=long, truncate=True))
    assert accepted.status_code == 200
    assert accepted.json()["usage"]["prompt_tokens"] > manifest.max_tokens


@pytest.mark.parametrize(
    ("raw", "status", "words"),
    [
        (b"", 400, "not valid JSON"),
        (b'{"model": ', 400, "not valid JSON"),
        (b'{"model": "\xff"}', 400, "not UTF-8"),
        (b'{"model": "NAME", "input": "\\ud800"}', 400, "not valid JSON"),
        (b'{"model": "NAME", "input": ""}', 400, "is empty"),
        (b'{"model": "NAME", "input": []}', 400, "empty list"),
        (b'{"model": "NAME", "input": "a\\u0000b"}', 400, "NUL"),
        (b'{"model": "NAME", "input": [["a"]]}', 400, "not a string"),
        (b'{"model": "NAME", "input": "a", "inputs": "b"}', 400, "unknown field 'inputs'"),
        (b'{"model": "NAME", "input": ["a"' + 9999 * b',"a"' + b"]}", 400, "holds 10000 texts"),
        (b'{"model": "NAME", "input": "' + 40_000 * b"a" + b'"}', 400, "40000 bytes"),
        (b'{"model": "NAME", "input": "' + (9 << 20) * b"a" + b'"}', 413, "8388608 bytes"),
        (b'{"model": "other", "input": "a"}', 404, "set model to"),
    ],
)
def test_bad_input_gets_one_shape_of_error_that_says_what_to_change(
    http: httpx.Client, manifest: Manifest, raw: bytes, status: int, words: str
):
    raw = raw.replace(b"NAME", manifest.name.encode())
    reply = http.post("/v1/embeddings", content=raw)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert words in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/v1/embeddings", 405)]
)
def test_unknown_routes_and_methods_get_the_same_shape(
    http: httpx.Client, method: str, path: str, status: int
):
    reply = http.request(method, path)
    assert reply.status_code == status
    assert "POST /v1/embeddings" in reply.json()["error"]["message"]


def test_an_endless_body_is_refused_while_it_is_still_being_sent(url: str):
    host, port = url.removeprefix("http://").split(":")
    mebibyte = 1 << 20
    chunk = b"%x\r\n%b\r\n" % (mebibyte, b"a" * mebibyte)
    sent = 0
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        while sent < 100 and not select.select([connection], [], [], 0)[0]:
            connection.sendall(chunk)
            sent += 1
        reply = connection.recv(4096)
    assert reply.startswith(b"HTTP/1.1 413")
    assert 8 <= sent < 100


def test_a_shortened_deadline_is_kept_and_named(http: httpx.Client, manifest: Manifest):
    texts = [f"{text} {index}" for index in range(100) for text in TEXTS]
    headers = {"X-Request-Timeout-Ms": "5"}
    reply = http.post("/v1/embeddings", json=body(manifest, input=texts), headers=headers)
    assert reply.status_code == 504
    assert "deadline" in reply.json()["error"]["message"]


@pytest.mark.parametrize("timeout", ["0", "-5", "soon", "1.5", "²", "9" * 5000])
def test_a_deadline_that_is_no_number_of_milliseconds_is_refused(
    http: httpx.Client, manifest: Manifest, timeout: str
):
    headers = {"X-Request-Timeout-Ms": timeout.encode()}
    reply = http.post("/v1/embeddings", json=body(manifest), headers=headers)
    assert reply.status_code == 400
    assert "X-Request-Timeout-Ms" in reply.json()["error"]["message"]


def test_a_body_that_stops_arriving_is_given_up_at_the_deadline(url: str):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n"
            b'X-Request-Timeout-Ms: 50\r\n\r\n{"model": '
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_sane_request_id_is_echoed_and_any_other_is_replaced(http: httpx.Client):
    assert request_id(http, "order-66.a:b_c") == "order-66.a:b_c"
    for insane in ("two words", "x" * 129, '"><script>'):
        assert request_id(http, insane) != insane
    assert request_id(http, None) != request_id(http, None)


def request_id(http: httpx.Client, offered: str | None) -> str:
    headers = {} if offered is None else {"X-Request-Id": offered}
    return http.get("/healthz", headers=headers).headers["X-Request-Id"]


def test_metrics_count_requests_texts_and_tokens_by_stage_and_route(
    http: httpx.Client, manifest: Manifest
):
    before = metrics(http)
    tokens = http.post("/v1/embeddings", json=body(manifest, input=TEXTS)).json()["usage"]
    http.post("/v1/embeddings", content=b"{")
    http.get("/made/up/path")
    after = {name: value - before.get(name, 0) for name, value in metrics(http).items()}
    prefix = "farshore_gateway_"
    assert after[prefix + 'requests_total{route="/v1/embeddings",status="200"}'] == 1
    assert after[prefix + 'requests_total{route="/v1/embeddings",status="400"}'] == 1
    assert after[prefix + 'requests_total{route="other",status="404"}'] == 1
    assert after[prefix + "texts_total"] == len(TEXTS)
    assert after[prefix + "tokens_total"] == tokens["prompt_tokens"]
    for stage, count in {"read": 2, "validate": 2, "model": 1, "reply": 1}.items():
        assert after[prefix + f'stage_seconds_count{{stage="{stage}"}}'] == count


def metrics(http: httpx.Client) -> dict[str, float]:
    lines = http.get("/metrics").text.splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in samples}


def test_the_api_s_page_describes_the_request(http: httpx.Client):
    schema = http.get("/openapi.json").json()["paths"]["/v1/embeddings"]["post"]
    fields = schema["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert {"input", "model", "truncate"} <= fields.keys()


def test_readiness_answers_while_the_model_does(http: httpx.Client):
    deadline_s = time.monotonic() + 10
    while (status := http.get("/readyz").status_code) != 200 and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert status == 200
