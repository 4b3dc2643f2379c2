"""A node without Triton: KServe's ModelInfer over real shards, on a real gRPC server, with faults."""

import asyncio
import gc
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.index.client import TYPES
from serving.index.generation import read_generation
from serving.index.merge import Hits
from serving.index.metric import Ids, Metric, Vectors
from serving.index.operations import (
    FILTER,
    FOUND,
    IDS,
    MAX_BATCH,
    OP,
    SCORES,
    SEQUENCE,
    STATUS,
    VECTORS,
    Asked,
    MalformedRequestError,
    read_request,
)
from serving.index.placement import PLACEMENT_NAME, place, write_placement
from serving.index.replicas import Replica
from serving.index.repository import model_name
from serving.index.router import Router, RouterSettings
from serving.index.shard import Shard


class FakeNode(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers for the shards that it was given; what is set on it goes wrong.

    `slow_every` n delays every nth request by `delay_s`; `abort` is answered with; `silent` never answers;
    `wrong` answers with tensors of another request.
    """

    def __init__(self) -> None:
        self.shards: dict[str, Shard] = {}
        self.asked: Counter[str] = Counter()
        self.asked_at_s: list[float] = []
        self.delayed = self.given_up = 0
        self.heal()

    def heal(self) -> None:
        """Nothing goes wrong any longer."""
        self.slow_every, self.delay_s = 0, 0.0
        self.abort: grpc.StatusCode | None = None
        self.silent = self.wrong = False

    async def start(self, port: int = 0) -> None:
        """Listen, on the same port as before when it is given."""
        self.server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        await self.server.start()

    async def kill(self) -> None:
        """Be gone, with what is in flight."""
        await self.server.stop(0)

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802  # KServe's name
        self.asked[request.parameters[OP].string_param] += 1
        self.asked_at_s.append(time.monotonic())
        await self.suffer(context)
        shard = self.shards.get(request.model_name)
        if shard is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "Request for unknown model")
        try:
            asked = read_request(*values_of(request), shard.generation.dim)
            if len(asked.vectors) > MAX_BATCH or len(asked.ids) > MAX_BATCH:
                raise MalformedRequestError(f"batch-size must be <= {MAX_BATCH}")
        except MalformedRequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        answer = answer_of(shard, asked)
        return response({n: a[:-1] for n, a in answer.items()} if self.wrong else answer)

    async def suffer(self, context: Any) -> None:
        """What goes wrong before an answer."""
        number = self.asked.total()
        if self.silent:
            await asyncio.Event().wait()
        if self.abort is not None:
            await context.abort(self.abort, "it was told to fail, at model.py line 7")
        if self.slow_every and number % self.slow_every == 0:
            self.delayed += 1
            try:
                await asyncio.sleep(self.delay_s)
            except asyncio.CancelledError:
                self.given_up += 1
                raise


def values_of(request: Any) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """Parameters and tensors of a request, as Triton's python backend gives them."""
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in request.parameters.items()
    }
    tensors = {}
    for described, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        shape = tuple(described.shape)
        if described.name == FILTER:
            tensors[FILTER] = np.array(list(unpacked(raw)), dtype=object).reshape(shape)
        else:
            tensors[described.name] = np.frombuffer(raw, TYPES[described.name][1]).reshape(shape)
    return parameters, tensors


def unpacked(raw: bytes) -> list[bytes]:
    values, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        values.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    return values


def answer_of(shard: Shard, asked: Asked) -> Mapping[str, np.ndarray]:
    """What the shard's Triton model would answer."""
    match asked.operation:
        case "search":
            hits = [search_one(shard, asked, row) for row in range(len(asked.vectors))]
            return {
                IDS: np.concatenate([part.ids for part in hits]),
                SCORES: np.concatenate([part.scores for part in hits]),
            }
        case "lookup":
            rows, found = shard.lookup(asked.ids)
            return {VECTORS: rows, FOUND: found.reshape(-1, 1)}
        case "upsert" | "delete":
            change = (asked.operation, asked.version_ns, asked.ids, asked.vectors)
            return {SEQUENCE: np.full((len(asked.ids), 1), shard.write([change]))}
        case _:
            return {STATUS: np.frombuffer(b'{"rows": %d}' % shard.counts().rows, "S1")}


def search_one(shard: Shard, asked: Asked, row: int) -> Hits:
    among = asked.filters[row] if asked.filters else None
    if among is None:
        return shard.search(asked.vectors[row : row + 1], asked.k, asked.effort)
    return shard.search_among(asked.vectors[row], among, asked.k, asked.effort)


def response(answer: Mapping[str, np.ndarray]) -> Any:
    made = service_pb2.ModelInferResponse()
    for name, value in answer.items():
        if name == STATUS:
            content = value.tobytes()
            made.outputs.add(name=name, datatype="BYTES", shape=[1, 1])
            made.raw_output_contents.append(struct.pack("<I", len(content)) + content)
            continue
        datatype, dtype = TYPES[name]
        made.outputs.add(name=name, datatype=datatype, shape=value.shape)
        made.raw_output_contents.append(np.ascontiguousarray(value, dtype).tobytes())
    return made


@dataclass
class Cluster:
    """Nodes by shard and replica, a placement that names them, and a router that follows it."""

    placement_path: Path
    nodes: list[list[FakeNode]]
    router: Router
    observed: list[tuple[int, float, bool]]

    @property
    def urls(self) -> list[list[str]]:
        return [[node.url for node in replicas] for replicas in self.nodes]

    def serve(self, generation: Path, urls: Sequence[Sequence[str]] | None = None) -> None:
        """Replace the placement."""
        placed = place(read_generation(generation), [list(u) for u in urls or self.urls])
        write_placement(self.placement_path, placed)

    def asked(self, operation: str = "search") -> int:
        """Requests that arrived at nodes."""
        return sum(node.asked[operation] for node in self.all_nodes)

    @property
    def all_nodes(self) -> list[FakeNode]:
        return [node for of_shard in self.nodes for node in of_shard]

    @property
    def replicas(self) -> list[Replica]:
        """What the router knows of each replica."""
        return [r for shard in self.router.topology.shards for r in shard.replicas]


@asynccontextmanager
async def cluster(
    directory: Path,
    *generations: Path,
    replicas: int = 1,
    settings: RouterSettings | None = None,
) -> AsyncIterator[Cluster]:
    """Every replica of every shard on a node of its own; the first generation is served.

    No call may end with an error that nobody looked at.
    """
    unseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    first = read_generation(generations[0])
    nodes = [[FakeNode() for _ in range(replicas)] for _ in range(first.shards)]
    for shard, of_shard in enumerate(nodes):
        for number, node in enumerate(of_shard):
            await node.start()
            for generation in generations:
                described = read_generation(generation)
                name = model_name(described.index, described.name, shard)
                node.shards[name] = Shard(generation, shard, directory / name / str(number))
    path = directory / PLACEMENT_NAME
    write_placement(path, place(first, [[node.url for node in of_shard] for of_shard in nodes]))
    observed: list[tuple[int, float, bool]] = []
    router = Router(path, settings, lambda *what: observed.append(what))
    made = Cluster(path, nodes, router, observed)
    try:
        yield made
    finally:
        await made.router.close()
        for node in made.all_nodes:
            await node.kill()
            for shard in node.shards.values():
                shard.close()
    gc.collect()
    assert not unseen


def exact(
    ids: Ids, vectors: Vectors, queries: Vectors, k: int, metric: Metric = "inner_product"
) -> Ids:
    """The ids [N, k] of one exact search over all rows."""
    if metric == "inner_product":
        worse = -(queries @ vectors.T)
    else:
        worse = ((queries[:, None, :] - vectors[None]) ** 2).sum(axis=2)
    return ids[np.argsort(worse, axis=1, kind="stable")[:, :k]]


def soon(timeout_s: float = 10.0) -> float:
    """A deadline that a test does not reach."""
    return time.monotonic() + timeout_s


async def until(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Return when something holds."""
    give_up_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up_s
        await asyncio.sleep(0.01)
