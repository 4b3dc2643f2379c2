"""The index behind the gateway: real encoder, real shards, asked over real HTTP."""

import asyncio
import gc
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import uvicorn
from tritonclient.grpc import service_pb2_grpc

from models.manifest import Manifest, read_manifest
from optimize.recipe import Recipe
from optimize.sections import FolderData
from serving.gateway.app import create_app
from serving.gateway.settings import Settings
from serving.index.build import BuildPlan, build
from serving.index.encoding import Encoder
from serving.index.generation import read_ids, read_rows, shard_directory
from serving.index.layout import Layout
from serving.index.local import RunningIndex, run_local
from serving.index.placement import PLACEMENT_NAME, Placement, write_placement
from serving.index.sharding import shard_of
from serving.index.sources import TextSource
from serving.stack import reserve_port, uvicorn_config
from serving.triton.launch import RunningTriton, run_triton
from tests.conftest import read_lines
from tests.triton.malformed import Sent, mutated

pytestmark = pytest.mark.triton

SHARDS = 4
REQUESTS = 10_000
OPEN_CONNECTIONS = 8

Rows = dict[int, np.ndarray]


@dataclass(frozen=True)
class Index:
    """An index that is served, and what is in it."""

    directory: Path
    running: RunningIndex
    texts: dict[int, str]
    rows: Rows

    @property
    def placement(self) -> Placement:
        return self.running.placement


@pytest.fixture(scope="module")
def manifest(packaged_repository: Path) -> Manifest:
    return read_manifest(packaged_repository)


@pytest.fixture(scope="module")
def encoder(
    packaged_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningTriton]:
    log_path = tmp_path_factory.mktemp("encoder") / "triton.log"
    with run_triton(packaged_repository, log_path=log_path) as triton:
        yield triton


@pytest.fixture(scope="module")
def index(
    small_recipe: Recipe,
    manifest: Manifest,
    encoder: RunningTriton,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Index]:
    """The passages of the small recipe through the encoder, in four shards on one Triton."""
    directory = tmp_path_factory.mktemp("indexes") / "passages"
    assert isinstance(small_recipe.evaluation.data, FolderData)
    passages = read_lines(small_recipe.evaluation.data.folder / "passages.jsonl.gz")
    texts = {10 + 3 * number: passage["text"] for number, passage in enumerate(passages)}
    source = directory.parent / "passages.jsonl"
    source.write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in texts.items()))
    plan = BuildPlan(
        directory=directory,
        index="passages",
        name="g1",
        metric="inner_product",
        layout=Layout(kind="flat"),
        shards=SHARDS,
        space=manifest.space,
    )
    with grpc.insecure_channel(encoder.grpc_url) as channel:
        encode = Encoder(manifest, service_pb2_grpc.GRPCInferenceServiceStub(channel)).encode
        build(plan, TextSource(source, encode, manifest.output_dim, "test"), lambda *_: None)
    with run_local(directory, None, 2**30) as running:
        yield Index(directory, running, texts, built_rows(plan.destination))


def built_rows(generation: Path) -> Rows:
    """What was built, by id."""
    folders = [shard_directory(generation, shard) for shard in range(SHARDS)]
    return {
        int(row_id): np.array(row)
        for folder in folders
        for row_id, row in zip(read_ids(folder), read_rows(folder), strict=True)
    }


Serve = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture(scope="module")
def serve(manifest: Manifest, encoder: RunningTriton) -> Serve:
    """Starts a gateway in a thread of this process; gives a client of it."""

    @contextmanager
    def serve(placement: Path | None, **options: Any) -> Iterator[httpx.Client]:
        settings = Settings(**options)
        with reserve_port("127.0.0.1", 0) as listener:
            app = create_app(manifest, settings, encoder.grpc_url, "see its log", placement)
            listener.listen()
            server = uvicorn.Server(uvicorn_config(app, settings))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            try:
                with httpx.Client(base_url=url, timeout=30) as client:
                    yield client
            finally:
                server.should_exit = True
                thread.join()

    return serve


@pytest.fixture(scope="module")
def http(serve: Serve, index: Index) -> Iterator[httpx.Client]:
    """A gateway that takes no writes."""
    with serve(index.directory / PLACEMENT_NAME) as client:
        yield client


@pytest.fixture(scope="module")
def writable(serve: Serve, index: Index) -> Iterator[httpx.Client]:
    with serve(index.directory / PLACEMENT_NAME, writable_index=True) as client:
        yield client


@pytest.fixture
def replaced(index: Index, tmp_path: Path) -> Callable[..., Path]:
    """Writes the placement of the index with other values, elsewhere."""

    def replaced(**values: object) -> Path:
        path = tmp_path / PLACEMENT_NAME
        write_placement(path, index.placement.model_copy(update=values))
        return path

    return replaced


def post(http: httpx.Client, path: str, **fields: object) -> dict[str, Any]:
    reply = http.post(path, json=fields)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def refusal(http: httpx.Client, path: str, **fields: object) -> tuple[int, str]:
    reply = http.post(path, json=fields)
    return reply.status_code, reply.json()["error"]["message"]


def found_ids(answer: dict[str, Any]) -> list[list[int]]:
    return [[result["id"] for result in of_query["results"]] for of_query in answer["data"]]


def exact(rows: Rows, query: np.ndarray, k: int) -> list[int]:
    return sorted(rows, key=lambda row_id: -float(rows[row_id] @ query))[:k]


def test_a_text_finds_its_passage(http: httpx.Client, index: Index, manifest: Manifest):
    ids = list(index.texts)[::10]
    texts = [index.texts[row_id] for row_id in ids]
    answer = post(http, "/v1/search", input=texts, k=3, truncate=True, model=manifest.name)
    assert [found[0] for found in found_ids(answer)] == ids
    assert all(of_query["results"][0]["score"] > 0.98 for of_query in answer["data"])
    assert answer["usage"]["prompt_tokens"] > len(ids)
    assert answer["farshore"] == {
        "source": "index",
        "degraded": False,
        "coverage": 1.0,
        "missing_shards": [],
        "index": "passages",
        "generation": "g1",
        "metric": "inner_product",
    }


def test_a_question_finds_the_passage_that_answers_it(http: httpx.Client, index: Index):
    row_id = next(i for i, text in index.texts.items() if text.startswith("Home Run Derby"))
    question = "who set the record for home runs in the derby"
    assert row_id in found_ids(post(http, "/v1/search", input=question, k=3))[0]


def test_a_text_that_is_too_long_is_refused_unless_it_may_be_cut(http: httpx.Client):
    status, message = refusal(http, "/v1/search", input="word " * 400)
    assert (status, "input[0] has 402 tokens" in message) == (400, True)


def test_vectors_find_what_one_exact_search_finds(http: httpx.Client, index: Index):
    queries = np.random.default_rng(1).normal(size=(20, len(next(iter(index.rows.values())))))
    for k in (1, 10, 200):
        answer = post(http, "/v1/search", vectors=queries.tolist(), k=k)
        assert found_ids(answer) == [exact(index.rows, query, k) for query in queries]
        assert answer["usage"]["total_tokens"] == 0
    assert len(found_ids(post(http, "/v1/search", vectors=queries[0].tolist()))[0]) == 10


def test_a_filter_leaves_the_others_out(http: httpx.Client, index: Index):
    some = {row_id: index.rows[row_id] for row_id in list(index.rows)[::7]}
    query = index.rows[10]
    answer = post(http, "/v1/search", vectors=query.tolist(), k=100, ids=[*some, 5, 2**63 - 1])
    assert found_ids(answer) == [exact(some, query, 100)]
    assert found_ids(post(http, "/v1/search", vectors=query.tolist(), ids=[1, 2])) == [[]]


def test_vectors_of_results_are_sent_along(http: httpx.Client, index: Index):
    queries = [index.rows[10].tolist(), index.rows[13].tolist()]
    answer = post(http, "/v1/search", vectors=queries, k=5, include_vectors=True)
    for of_query in answer["data"]:
        for result in of_query["results"]:
            assert np.array_equal(np.float32(result["vector"]), index.rows[result["id"]])
    answer = post(http, "/v1/search", vectors=queries[0], k=1000, include_vectors=True)
    assert len(found_ids(answer)[0]) == len(index.rows)


def test_a_lookup_gives_rows_in_the_order_of_the_ids(http: httpx.Client, index: Index):
    ids = [13, 11, 10, 13, 2**63 - 1]
    answer = post(http, "/v1/lookup", ids=ids)
    assert [row["id"] for row in answer["data"]] == ids
    assert [row["found"] for row in answer["data"]] == [True, False, True, True, False]
    assert [row["vector"] is None for row in answer["data"]] == [False, True, False, False, True]
    assert np.array_equal(np.float32(answer["data"][0]["vector"]), index.rows[13])
    assert answer["farshore"]["coverage"] == 1.0


@pytest.mark.parametrize("path", ["/v1/upsert", "/v1/delete"])
def test_writes_are_refused_unless_they_are_allowed(http: httpx.Client, path: str):
    status, message = refusal(http, path, ids=[10])
    assert (status, "--writable-index" in message) == (403, True)


def test_what_is_written_is_found_at_once_and_what_is_deleted_is_not(
    writable: httpx.Client, http: httpx.Client, index: Index
):
    new = np.random.default_rng(2).normal(size=(3, len(index.rows[10]))).astype(np.float32)
    written = post(writable, "/v1/upsert", ids=[1, 2, 10], vectors=new.tolist())
    assert written == {"upserted": 3, "farshore": {"index": "passages"}}
    for client in (writable, http):
        answer = post(client, "/v1/search", vectors=new.tolist(), k=1)
        assert found_ids(answer) == [[1], [2], [10]]
    rows = post(http, "/v1/lookup", ids=[1, 10])["data"]
    assert np.array_equal(np.float32(rows[1]["vector"]), new[2])
    assert post(writable, "/v1/delete", ids=[1, 2, 10])["deleted"] == 3
    assert not any(row["found"] for row in post(http, "/v1/lookup", ids=[1, 2, 10])["data"])
    post(writable, "/v1/upsert", ids=[10], vectors=[index.rows[10].tolist()])
    answer = post(http, "/v1/search", vectors=index.rows[10].tolist(), k=200)
    assert found_ids(answer) == [exact(index.rows, index.rows[10], 200)]


def test_texts_for_an_index_of_another_encoder_are_refused_and_vectors_are_not(
    serve: Serve, replaced: Callable[..., Path], index: Index
):
    with serve(replaced(space="another encoder's")) as http:
        status, message = refusal(http, "/v1/search", input="hello")
        assert (status, "search with `vectors`" in message) == (409, True)
        post(http, "/v1/search", vectors=index.rows[10].tolist())


@pytest.mark.parametrize("path", ["/v1/search", "/v1/lookup", "/v1/upsert", "/v1/delete"])
def test_a_gateway_without_an_index_says_so(serve: Serve, path: str):
    with serve(None) as http:
        status, message = refusal(http, path, ids=[1])
        assert (status, "start the gateway with --index" in message) == (404, True)


def test_a_shard_that_runs_nowhere_is_missing_and_counted(
    serve: Serve, replaced: Callable[..., Path], index: Index
):
    url = index.running.triton.grpc_url
    here = {i: row for i, row in index.rows.items() if shard_of(np.array([i]), SHARDS)[0] != 2}
    with serve(replaced(replicas=((url,), (url,), (), (url,)))) as http:
        answer = post(http, "/v1/search", vectors=index.rows[10].tolist(), k=200)
        about = answer["farshore"]
        assert (about["coverage"], about["degraded"], about["missing_shards"]) == (0.75, True, [2])
        assert found_ids(answer) == [exact(here, index.rows[10], 200)]
        rows = post(http, "/v1/lookup", ids=list(index.rows))
        assert [row["found"] for row in rows["data"]] == [
            True if row_id in here else None for row_id in index.rows
        ]
        metrics = http.get("/metrics").text
        assert "farshore_index_partial_answers_total 2.0" in metrics
        assert 'farshore_index_shard_seconds_count{shard="3"} 2.0' in metrics
        assert 'shard="2"' not in metrics


def test_no_shard_at_all_is_an_outage_that_says_when_to_come_back(
    serve: Serve, replaced: Callable[..., Path], index: Index
):
    with serve(replaced(replicas=((), (), (), ()))) as http:
        reply = http.post("/v1/search", json={"vectors": index.rows[10].tolist()})
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")


def test_a_shortened_deadline_is_kept_and_named(http: httpx.Client, index: Index):
    reply = http.post(
        "/v1/search",
        json={"vectors": [row.tolist() for row in index.rows.values()]},
        headers={"X-Request-Timeout-Ms": "1"},
    )
    assert reply.status_code in (408, 504)  # too late for the body already, or for the answer
    assert "deadline" in reply.json()["error"]["message"]
    assert post(http, "/v1/search", vectors=index.rows[10].tolist())["farshore"]["coverage"] == 1.0


def test_the_api_s_page_describes_the_requests(http: httpx.Client):
    paths = http.get("/openapi.json").json()["paths"]
    for path, field in {"search": "vectors", "lookup": "ids", "upsert": "vectors"}.items():
        body = paths[f"/v1/{path}"]["post"]["requestBody"]["content"]["application/json"]
        assert field in body["schema"]["properties"]


@dataclass
class Oracle:
    """What the index must hold and answer; a request that was accepted changes it."""

    rows: Rows
    embed: Callable[[str], np.ndarray]

    def check(self, sent: Sent, status: int, reply: bytes) -> None:
        """A refusal is a client's and says what to change; an answer is the right one."""
        answer = json.loads(reply)
        if status != 200:
            assert 400 <= status < 500, (sent, reply)
            assert answer["error"]["message"]
            return
        said = json.loads(sent.body)
        {
            "/v1/search": self.check_search,
            "/v1/lookup": self.check_lookup,
            "/v1/upsert": self.upsert,
            "/v1/delete": self.delete,
        }[sent.path](said, answer)

    def check_search(self, said: dict[str, Any], answer: dict[str, Any]) -> None:
        assert answer["farshore"]["coverage"] == 1.0
        tolerance = 1e-5
        if said.get("vectors") is not None:
            queries = np.array(said["vectors"], np.float32).reshape(-1, self.dim)
        else:  # a text embedded among others is not quite the same in INT8
            texts = [said["input"]] if isinstance(said["input"], str) else said["input"]
            queries, tolerance = np.stack([self.embed(text) for text in texts]), 0.05
        among = self.rows.keys() & set(said["ids"]) if said.get("ids") else self.rows.keys()
        assert len(answer["data"]) == len(queries)
        for query, of_query in zip(queries, answer["data"], strict=True):
            self.check_results(query, among, said.get("k", 10), of_query["results"], tolerance)
            if said.get("include_vectors"):
                for result in of_query["results"]:
                    row = self.rows[result["id"]]
                    assert np.array_equal(np.float32(result["vector"]), row)

    def check_results(
        self, query: np.ndarray, among: Any, k: int, results: Any, tolerance: float
    ) -> None:
        """Each result's score is its own, and together they are the best."""
        ids = [result["id"] for result in results]
        assert len(set(ids)) == len(ids) == min(k, len(among))
        assert set(ids) <= set(among)
        if not ids:
            return
        scores = {row_id: float(self.rows[row_id].astype("f8") @ query) for row_id in among}
        best = sorted(scores.values(), reverse=True)[: len(ids)]
        given = [result["score"] for result in results]
        allowed = tolerance * (1 + float(np.linalg.norm(query)) * self.longest)
        assert np.allclose(given, [scores[row_id] for row_id in ids], rtol=1e-4, atol=allowed)
        assert np.allclose(given, best, rtol=1e-4, atol=allowed)

    def check_lookup(self, said: dict[str, Any], answer: dict[str, Any]) -> None:
        assert [row["id"] for row in answer["data"]] == said["ids"]
        for row in answer["data"]:
            known = self.rows.get(row["id"])
            assert row["found"] == (known is not None)
            assert known is None or np.array_equal(np.float32(row["vector"]), known)

    def upsert(self, said: dict[str, Any], answer: dict[str, Any]) -> None:
        assert answer["upserted"] == len(said["ids"])
        vectors = np.array(said["vectors"], np.float32).reshape(-1, self.dim)
        self.rows.update(zip(said["ids"], vectors, strict=True))

    def delete(self, said: dict[str, Any], answer: dict[str, Any]) -> None:
        assert answer["deleted"] == len(said["ids"])
        for row_id in said["ids"]:
            self.rows.pop(row_id, None)

    @property
    def dim(self) -> int:
        return len(next(iter(self.rows.values())))

    @property
    def longest(self) -> float:
        return max(float(np.linalg.norm(row.astype("f8"))) for row in self.rows.values())


def asks(index: Index, chance: random.Random) -> Iterator[Sent]:
    """Searches and lookups, most of them broken."""
    ids, rows = list(index.rows), [row.tolist() for row in index.rows.values()]
    while True:
        some = chance.sample(ids, 5)
        yield mutated(
            *chance.choice(
                (
                    ("/v1/search", {"vectors": chance.choice(rows), "k": 5}),
                    ("/v1/search", {"vectors": [chance.choice(rows)], "ids": some}),
                    ("/v1/search", {"vectors": chance.sample(rows, 2), "include_vectors": True}),
                    ("/v1/search", {"input": index.texts[some[0]][:80], "k": 3, "effort": 1}),
                    ("/v1/lookup", {"ids": some}),
                    ("/v1/lookup", {"ids": [*some, 1]}),
                )
            ),
            chance,
        )


def writes(index: Index, chance: random.Random) -> Iterator[Sent]:
    """Upserts and deletes, most of them broken."""
    ids, rows = list(index.rows), [row.tolist() for row in index.rows.values()]
    while True:
        some = [*chance.sample(ids, 2), chance.randrange(10**6, 10**12)]
        yield mutated(
            *chance.choice(
                (
                    ("/v1/upsert", {"ids": some, "vectors": chance.sample(rows, 3)}),
                    ("/v1/upsert", {"ids": some[-1:], "vectors": [chance.choice(rows)]}),
                    ("/v1/delete", {"ids": some}),
                )
            ),
            chance,
        )


class Connection:
    """HTTP/1.1 by hand: a client library would mend what is broken, and take most of the time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.opened = 0

    async def post(self, sent: Sent) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            self.opened += 1
        reader, writer = self._streams
        head = (
            f"POST {sent.path} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(sent.body)}\r\n\r\n"
        )
        writer.write(head.encode() + sent.body)
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        headers = dict(line.split(": ", 1) for line in lines if line)
        reply = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            await self.close()
        return int(status.split()[1]), reply

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            await self._streams[1].wait_closed()
            self._streams = None


async def send(
    port: int, requests: Iterator[Sent], count: int, connections: int, oracle: Oracle
) -> Counter[int]:
    """Send so many requests over so many connections and check each reply; replies by status."""
    statuses: Counter[int] = Counter()
    numbers = iter(range(count))

    async def client() -> None:
        connection = Connection(port)
        for _ in numbers:
            sent = next(requests)
            status, reply = await asyncio.wait_for(connection.post(sent), 30)
            oracle.check(sent, status, reply)
            statuses[status] += 1
        await connection.close()
        assert connection.opened == 1  # whatever was sent, the connection was kept

    await asyncio.gather(*(client() for _ in range(connections)))
    return statuses


@pytest.mark.slow
def test_ten_thousand_malformed_requests_are_refused_or_answered_right(
    writable: httpx.Client, index: Index, manifest: Manifest, caplog: pytest.LogCaptureFixture
):
    embedded: dict[str, np.ndarray] = {}

    def embed(text: str) -> np.ndarray:
        if text not in embedded:
            body = {"model": manifest.name, "input": text, "truncate": True}
            reply = writable.post("/v1/embeddings", json=body).json()
            embedded[text] = np.array(reply["data"][0]["embedding"], np.float32)
        return embedded[text]

    oracle = Oracle(dict(index.rows), embed)
    port, chance = writable.base_url.port, random.Random(7)
    assert port is not None
    server = index.running.triton.server_pid
    read = asyncio.run(
        send(port, asks(index, chance), REQUESTS * 7 // 10, OPEN_CONNECTIONS, oracle)
    )
    written = asyncio.run(send(port, writes(index, chance), REQUESTS * 3 // 10, 1, oracle))
    statuses = read + written
    assert statuses.total() == REQUESTS
    assert statuses[200] > 500  # some mutations change nothing that matters
    assert statuses[400] > 5000
    assert statuses.keys() <= {200, 400, 404, 413}

    for ids in np.array_split([*oracle.rows], 1 + len(oracle.rows) // 1000):
        said = {"ids": ids.tolist()}
        oracle.check_lookup(said, post(writable, "/v1/lookup", **said))
    said = {"vectors": [row.tolist() for row in index.rows.values()], "k": 50}
    oracle.check_search(said, post(writable, "/v1/search", **said))
    assert index.running.triton.server_pid == server
    assert index.running.triton.state == "ready"
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]
