"""Generations switched under load, and a compaction under load: no error, no mixed answer, no stall."""

import asyncio
import contextlib
import itertools
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import orjson
import tritonclient.grpc as triton_grpc

from loadtest.bench.index.client import Load, load, post, search_request
from loadtest.bench.index.stack import Bench, build, gateway, write_placement
from loadtest.bench.index.vectors import Vectors, queries_near
from loadtest.bench.ratios import Spread, ratios, spread
from loadtest.errors import StackError
from models.manifest import Record

SHARDS = 2
GENERATIONS = 4  # three switches between them
APART = 10_000_000  # ids of generation n begin at n times this
K = 10
CALLERS = 4
LEAST_QUERIES = 10_000
WINDOW_S = 4.0
ROUNDS = 5
UPSERT_ROWS = 1000


class SwapPart(Record):
    """What happened while three generations replaced one another."""

    switches: int
    queries: int
    errors: int
    mixed: int
    generations_seen: list[str]


class CompactionPart(Record):
    """Searches while a shard's changes are taken into a new segment, and without."""

    idle: list[Load]
    compacting: list[Load]
    p99_ratio: Spread


def measure_swap(bench: Bench, vectors: Path, real: Vectors) -> SwapPart:
    """Ask all the time, switch three times, look at every single answer."""
    index = bench.indexes / "swap"
    shutil.rmtree(index, ignore_errors=True)
    for number in range(1, GENERATIONS + 1):
        ids = bench.work / f"swap-ids-{number}.npy"
        np.save(ids, np.arange(len(real)) + number * APART)
        options = ("--ids", str(ids), "--layout", "ivf-sq8", "--shards", str(SHARDS))
        build(index, f"g{number}", "--vectors", str(vectors), *options)
    queries = queries_near(real, 1000, seed=6)
    # The generation that is served first is the one that a placement names.
    write_placement(index / "placement.json", index / "generations/g1", [[]] * SHARDS)
    with gateway(bench, index) as address, asked(address, queries) as seen:
        for number in range(2, GENERATIONS + 1):
            switch(index, f"g{number}")
        while seen.count < LEAST_QUERIES:
            time.sleep(0.1)
    return SwapPart(
        switches=GENERATIONS - 1,
        queries=seen.count,
        errors=seen.errors,
        mixed=seen.mixed,
        generations_seen=sorted(seen.generations),
    )


def switch(index: Path, name: str) -> None:
    """`python -m serving.index switch`. Raises StackError."""
    command = [sys.executable, "-m", "serving.index", "switch", str(index), "--generation", name]
    done = subprocess.run([*command, "--drain-s", "2"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"switching to {name} failed: {done.stderr.strip()[-300:]}")


class Seen:
    """What a stream of answers held."""

    def __init__(self) -> None:
        self.count = 0
        self.errors = 0
        self.mixed = 0
        self.generations: set[str] = set()

    def look(self, status: int, body: bytes) -> None:
        """Every id of an answer must belong to the generation that it names, and no shard may be missing."""
        self.count += 1
        answer = orjson.loads(body)
        if status != 200 or answer["farshore"]["coverage"] < 1:
            self.errors += 1
            return
        name = answer["farshore"]["generation"]
        self.generations.add(name)
        ids = [result["id"] for data in answer["data"] for result in data["results"]]
        if len(ids) != K or any(f"g{one // APART}" != name for one in ids):
            self.mixed += 1


@contextlib.contextmanager
def asked(address: str, queries: Vectors) -> Iterator[Seen]:
    """Callers in a thread, all the time until the context ends."""
    seen = Seen()
    stop = threading.Event()
    requests = itertools.cycle([search_request(address, query, K, 0) for query in queries])

    async def caller() -> None:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        while not stop.is_set():
            writer.write(next(requests))
            seen.look(*await read_answer(reader))
        writer.close()

    async def all_callers() -> None:
        await asyncio.gather(*(caller() for _ in range(CALLERS)))

    thread = threading.Thread(target=lambda: asyncio.run(all_callers()))
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status and the body of one HTTP/1.1 reply."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
    return int(head.split(b" ", 2)[1]), await reader.readexactly(int(length))


def measure_compaction(bench: Bench, vectors: Path, real: Vectors) -> CompactionPart:
    """Windows in turn: idle, then while both shards compact what was written before."""
    index = bench.indexes / "compaction"
    shutil.rmtree(index, ignore_errors=True)
    options = ("--layout", "ivf-sq8", "--shards", str(SHARDS))
    build(index, "g1", "--vectors", str(vectors), *options)
    queries = queries_near(real, 1000, seed=7)
    idle, compacting = [], []
    with gateway(bench, index) as address:
        replicas = shards_of(index)
        for number in range(ROUNDS):
            idle.append(load(address, queries, K, 0, 1, WINDOW_S))
            upsert_some(address, real, number)
            compacting.append(load_while_compacting(address, queries, replicas))
            wait_for(lambda: not any_compacting(replicas))
    p99 = [[one.p99_ms for one in loads] for loads in (compacting, idle)]
    return CompactionPart(idle=idle, compacting=compacting, p99_ratio=spread(ratios(*p99)))


def upsert_some(address: str, real: Vectors, number: int) -> None:
    """Rows of their own in each round."""
    start = number * UPSERT_ROWS
    ids = list(range(APART + start, APART + start + UPSERT_ROWS))
    rows = np.asarray(real[start : start + UPSERT_ROWS])
    post(address, "/v1/upsert", {"ids": ids, "vectors": rows})


def load_while_compacting(address: str, queries: Vectors, replicas: list[tuple[str, str]]) -> Load:
    """A window in which the shards compact; they are asked again when one is done before the end."""
    for url, model in replicas:
        status(url, model, "compact")
    return load(address, queries, K, 0, 1, WINDOW_S)


def any_compacting(replicas: list[tuple[str, str]]) -> bool:
    """Whether a shard is at it."""
    return any(status(url, model, "status")["compacting"] for url, model in replicas)


def shards_of(index: Path) -> list[tuple[str, str]]:
    """Address and Triton model of each shard, from the index's placement."""
    placement = orjson.loads((index / "placement.json").read_bytes())
    name = f"{placement['index']}-{placement['generation']}"
    return [(urls[0], f"{name}-{shard:04d}") for shard, urls in enumerate(placement["replicas"])]


def status(url: str, model: str, operation: str) -> dict[str, object]:
    """What a shard says of itself, after the operation."""
    ids = triton_grpc.InferInput("ids", [1, 1], "INT64")
    ids.set_data_from_numpy(np.zeros((1, 1), np.int64))
    wanted = [triton_grpc.InferRequestedOutput("status")]
    with triton_grpc.InferenceServerClient(url) as client:
        answer = client.infer(model, [ids], outputs=wanted, parameters={"op": operation})
    said: dict[str, object] = orjson.loads(answer.as_numpy("status")[0, 0])
    return said


def wait_for(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    """Return when it holds. Raises StackError after the timeout."""
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up_s:
            raise StackError("the index did not come to rest in time: see the logs of its node")
        time.sleep(0.05)
