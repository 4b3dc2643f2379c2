"""An index on a Ray cluster of three machines: three raylets, each with its own address and memory."""

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2_grpc

from serving.errors import IndexUnavailableError
from serving.index.client import ShardClient
from serving.index.footprint import SERVER_BYTES
from serving.index.generation import (
    SEGMENT_NAME,
    SegmentRecord,
    read_generation,
    shard_directory,
    write_generation,
)
from serving.index.node import needs_of
from serving.index.placement import Placement, read_placement
from serving.index.repository import model_name
from serving.index.router import Router
from serving.index.sealed import write_sealed
from serving.index.sharding import shard_of
from tests.triton.ray_machines import (
    DEADLINE_S,
    OTHERS,
    Machines,
    environment,
    running_machines,
    servers_of,
    wait_for,
)

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(240)]

ROWS, DIM, SHARDS = 1500, 16, 3
NEW_IDS = np.arange(5000, 5040)
RECOVERY_S = 30.0  # promised, hence asserted
WHOLE_IN_A_ROW = 10

Question = Callable[[ShardClient, int], Awaitable[bool]]


@dataclass(frozen=True)
class Cluster:
    """Three machines and the index that is served on them; the most memory that a shard takes."""

    machines: Machines
    index: Path
    vectors: np.ndarray
    shard_bytes: int

    def run(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """One command of `python -m serving.index`, to its end."""
        return subprocess.run(command(arguments), env=environment(), capture_output=True, text=True)

    @contextmanager
    def serving(self, log: Path, replicas: int, shards: int) -> Iterator["subprocess.Popen[bytes]"]:
        """`ray-serve` in nodes of so many shards, while the context lasts; it is killed if it still runs."""
        words = ["ray-serve", self.index, "--address", self.machines.address]
        words += ["--replicas", replicas, "--memory-per-node", node_bytes(self.shard_bytes, shards)]
        with log.open("wb") as output:
            process = subprocess.Popen(command(words), env=environment(), stdout=output)
        try:
            wait_for(lambda: "3 of 3 shards answer" in log.read_text() or ended(process), "shards")
            assert not ended(process), log.read_text()
            wait_for(lambda: is_complete(self.placement(), replicas), "all of their replicas")
            yield process
        finally:
            process.kill()
            process.wait()

    def placement(self) -> Placement:
        return read_placement(self.index / "placement.json")


def command(words: Iterable[object]) -> list[str]:
    return [sys.executable, "-m", "serving.index", *map(str, words)]


def node_bytes(shard_bytes: int, shards: int) -> int:
    """Room for so many shards and not for another one."""
    return SERVER_BYTES + int((shards + 0.5) * shard_bytes)


def ended(process: "subprocess.Popen[bytes]") -> bool:
    return process.poll() is not None


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Machines with room for two nodes each, and an index of three shards that was built without them."""
    index = tmp_path_factory.mktemp("ray") / "words"
    index.mkdir()
    vectors = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
    np.save(index / "vectors.npy", vectors)
    words = ["build", index, "--name", "g1", *source(index)]
    subprocess.run(command(words), env=environment(), check=True)
    generation = index / "generations/g1"
    needs = needs_of(generation, read_generation(generation), range(SHARDS))
    shard_bytes = max(need.total_bytes for need in needs)
    with running_machines(2 * node_bytes(shard_bytes, 2)) as machines:
        yield Cluster(machines, index, vectors, shard_bytes)
    assert not servers_of(index)


def source(index: Path) -> list[object]:
    return ["--vectors", index / "vectors.npy", "--shards", SHARDS, "--layout", "ivf-sq8"]


def is_complete(placement: Placement, replicas: int) -> bool:
    """Whether every shard has all of its replicas."""
    return all(len(urls) == replicas for urls in placement.replicas) and not placement.closed


@dataclass(frozen=True)
class Moment:
    """What a search saw, some time after a machine was killed."""

    after_s: float
    coverage: float
    closed: bool


def lose_a_machine(cluster: Cluster, replicas: int) -> list[Moment]:
    """Kill a machine with nodes and search until all of it is whole elsewhere; what was seen."""
    placed = str(cluster.placement().replicas)
    # Not the head: it knows what is to be repaired.
    victim = next(host for host in OTHERS if host in placed)

    def is_whole(placement: Placement) -> bool:
        return is_complete(placement, replicas) and victim not in str(placement.replicas)

    async def watch() -> list[Moment]:
        router = Router(cluster.index / "placement.json")
        moments: list[Moment] = []
        whole = 0
        try:
            await router.upsert(NEW_IDS, new_rows(NEW_IDS), soon())
            assert await coverage_of(router, cluster.vectors[:1]) == 1.0
            killed_s = time.monotonic()
            await asyncio.to_thread(cluster.machines.kill, victim)
            while whole < WHOLE_IN_A_ROW:
                coverage = await coverage_of(router, cluster.vectors[:1])
                after_s = time.monotonic() - killed_s
                moments.append(Moment(after_s, coverage, bool(router.placement.closed)))
                whole = whole + 1 if coverage == 1.0 and is_whole(router.placement) else 0
                assert after_s < DEADLINE_S, (router.placement, moments[-1])
                await asyncio.sleep(0.05)
        finally:
            await router.close()
        return moments

    moments = asyncio.run(watch())
    cluster.machines.start(victim)
    return moments


def back_s(moments: list[Moment]) -> float:
    """How long after the kill all was whole again: the first answer of the row that ended the watch."""
    return moments[-WHOLE_IN_A_ROW].after_s


def say(capsys: pytest.CaptureFixture[str], moments: list[Moment], what: str) -> None:
    """What was measured, also when the test passes."""
    least = min(moment.coverage for moment in moments)
    with capsys.disabled():
        print(f"\n{what}: coverage {least:.2f} or more, all back in {back_s(moments):.1f} s")


async def coverage_of(router: Router, query: np.ndarray) -> float:
    try:
        return (await router.search(query, 5, soon())).coverage
    except IndexUnavailableError:
        return 0.0


def soon() -> float:
    return time.monotonic() + DEADLINE_S


def every_replica(cluster: Cluster, question: Question) -> bool:
    """Put a question to every replica of every shard; whether the answer of all is yes."""

    async def ask() -> bool:
        answers = []
        for shard, urls in enumerate(cluster.placement().replicas):
            for url in urls:
                async with grpc.aio.insecure_channel(url) as channel:
                    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                    client = ShardClient(stub, url, model_name("words", "g1", shard))
                    answers.append(await question(client, shard))
        return all(answers) and len(answers) >= SHARDS

    return asyncio.run(ask())


def holds_all(vectors: np.ndarray) -> Question:
    """Asks a replica for all rows of its shard: those that were built and those that were written."""
    ids = np.concatenate([np.arange(ROWS), NEW_IDS])
    rows = np.concatenate([vectors, new_rows(NEW_IDS)])

    async def holds(client: ShardClient, shard: int) -> bool:
        here = shard_of(ids, SHARDS) == shard
        found_rows, found = await client.lookup(ids[here], soon())
        return bool(found.all()) and np.array_equal(found_rows, rows[here])

    return holds


def new_rows(ids: np.ndarray) -> np.ndarray:
    return np.repeat(ids[:, None], DIM, axis=1).astype(np.float32)


def stop(process: "subprocess.Popen[bytes]", cluster: Cluster) -> None:
    """What Ctrl-C does: no node stays."""
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 130
    assert not any(cluster.placement().replicas)
    wait_for(lambda: not servers_of(cluster.index), "Triton to end")


def test_a_build_on_a_cluster_is_byte_for_byte_that_of_one_machine(cluster: Cluster):
    words = [*source(cluster.index), "--ray", cluster.machines.address]
    done = cluster.run("build", cluster.index, "--name", "g2", *words)
    assert done.returncode == 0, done.stderr
    here, there = (cluster.index / "generations" / name for name in ("g1", "g2"))
    files = {path.relative_to(here) for path in here.rglob("*") if path.is_file()}
    assert files == {path.relative_to(there) for path in there.rglob("*") if path.is_file()}
    for file in files - {Path("generation.json")}:
        assert (here / file).read_bytes() == (there / file).read_bytes(), file
    shutil.rmtree(there)


def test_what_a_task_refuses_is_said_in_its_words(cluster: Cluster):
    np.save(cluster.index / "ids.npy", np.zeros(ROWS, dtype=np.int64))
    words = [*source(cluster.index), "--ids", cluster.index / "ids.npy"]
    words += ["--ray", cluster.machines.address]
    done = cluster.run("build", cluster.index, "--name", "g3", *words)
    assert done.returncode == 1
    assert "error: id 0 stands twice in the source" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_shard_that_fits_no_machine_is_refused_before_anything_starts(cluster: Cluster):
    index = cluster.index.with_name("huge")
    directory = index / "generations/g1"
    for shard in range(SHARDS):
        shard_directory(directory, shard).mkdir(parents=True)
        record = SegmentRecord(rows=10**9, files={})
        write_sealed(shard_directory(directory, shard) / SEGMENT_NAME, record)
    write_generation(directory, read_generation(cluster.index / "generations/g1"))
    words = ["--address", cluster.machines.address, "--memory-per-node", "64GB"]
    done = cluster.run("ray-serve", index, *words)
    assert done.returncode == 1
    assert "shard 0 with its server needs" in done.stderr
    assert "MiB over" in done.stderr
    assert {path.name for path in index.iterdir()} == {"generations"}


def test_shards_of_one_replica_are_whole_elsewhere_within_30_s_of_their_machines_death(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
):
    with cluster.serving(cluster.index / "serve.log", replicas=1, shards=1) as process:
        moments = lose_a_machine(cluster, replicas=1)
        assert min(moment.coverage for moment in moments) < 1.0
        say(capsys, moments, "1 replica")
        assert back_s(moments) < RECOVERY_S
        assert every_replica(cluster, holds_all(cluster.vectors))
        stop(process, cluster)


def test_an_index_outlives_a_machine_and_the_command_that_placed_it(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
):
    with cluster.serving(cluster.index / "first.log", replicas=2, shards=2):
        for urls in cluster.placement().replicas:
            assert len({url.partition(":")[0] for url in urls}) == 2
        moments = lose_a_machine(cluster, replicas=2)
        assert any(moment.closed for moment in moments)
        say(capsys, moments, "2 replicas")
        assert back_s(moments) < RECOVERY_S
    after = cluster.placement()
    assert every_replica(cluster, holds_all(cluster.vectors))  # though the command was killed
    with cluster.serving(cluster.index / "second.log", replicas=2, shards=2) as process:
        assert cluster.placement() == after
        stop(process, cluster)
