"""What is computed before a node loads its shards is what it takes, as a memory limit counts it."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from tritonclient.grpc import service_pb2_grpc

from serving.index.build import BuildPlan, build
from serving.index.client import ShardClient
from serving.index.footprint import SERVER_BYTES
from serving.index.generation import Generation, read_generation
from serving.index.layout import Layout
from serving.index.memory import memory_of, node_bytes
from serving.index.metric import Vectors
from serving.index.node import needs_of
from serving.index.repository import model_name
from serving.index.sources import NpySource

ROWS, DIM = 100_000, 128
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vectors") / "vectors.npy"
    np.save(path, np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32))
    return path


@pytest.mark.triton
@pytest.mark.parametrize(
    ("layout", "shards"),
    [
        (Layout(kind="flat"), 1),
        (Layout(kind="ivf-sq8", lists=128, effort=8), 2),
    ],
    ids=lambda value: value.kind if isinstance(value, Layout) else None,
)
def test_a_node_takes_what_was_predicted_within_a_tenth(
    layout: Layout, shards: int, vectors: Path, tmp_path: Path
) -> None:
    plan = BuildPlan(tmp_path / "index", "demo", "g1", "inner_product", layout, shards)
    build(plan, NpySource(vectors), lambda *_: None)
    generation = read_generation(plan.destination)
    needs = needs_of(plan.destination, generation, range(shards))
    predicted = SERVER_BYTES + sum(need.total_bytes for need in needs)
    with running_node(plan.destination, shards, tmp_path) as (url, process):
        asyncio.run(ask(url, generation, np.load(vectors, mmap_mode="r")[:200]))
        processes = [process, *process.children(recursive=True)]
        memories = {one.pid: memory_of(one.pid) for one in processes}
        shard_pids = [one.pid for one in processes if "python_backend_stub" in one.exe()]
    assert predicted == pytest.approx(node_bytes(memories.values(), dropped=tmp_path), rel=0.1)
    assert len(shard_pids) == shards
    for pid, need in zip(shard_pids, needs, strict=True):  # the shards are equally large
        # What glibc keeps of freed memory differs by some MiB from run to run, which in so small a shard
        # may be more than a tenth.
        held = pytest.approx(memories[pid].held_bytes, rel=0.1, abs=8 * 2**20)
        assert need.total_bytes == held


@contextmanager
def running_node(
    generation: Path, shards: int, directory: Path
) -> Iterator[tuple[str, psutil.Process]]:
    """A node as a machine runs it: its address, and the process that started the others."""
    ready = directory / "ready.json"
    command = [sys.executable, "-m", "serving.index", "node", "--generation", str(generation)]
    command += ["--shards", f"0-{shards - 1}", "--directory", str(directory / "node")]
    with subprocess.Popen([*command, "--ready-file", str(ready)]) as started:
        try:
            deadline_s = time.monotonic() + DEADLINE_S
            while not ready.is_file() and started.poll() is None and time.monotonic() < deadline_s:
                time.sleep(0.05)
            yield json.loads(ready.read_bytes())["grpc"], psutil.Process(started.pid)
        finally:
            started.send_signal(signal.SIGINT)


async def ask(url: str, generation: Generation, queries: Vectors) -> None:
    """Searches one by one and all at once, in every shard."""
    async with grpc.aio.insecure_channel(url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for shard in range(generation.shards):
            name = model_name(generation.index, generation.name, shard)
            client = ShardClient(stub, url, name)
            for query in queries:
                await client.search(query[None], 10, 0, None, time.monotonic() + DEADLINE_S)
            await client.search(queries, 100, 0, None, time.monotonic() + DEADLINE_S)
