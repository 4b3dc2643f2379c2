"""Another generation in place of the one that is served, without an error and without a mixed answer:

    load beside -> freeze writes -> nothing written since? -> replace placement.json -> drain -> unload

It can be stopped anywhere: until the placement is replaced the old generation is served, then the new one.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.errors import SwitchError
from serving.index.client import ShardClient
from serving.index.generation import Generation
from serving.index.placement import PLACEMENT_NAME, Placement, read_placement, write_placement
from serving.index.repository import model_name

LOAD_TIMEOUT_S = 600.0
ASK_TIMEOUT_S = 10.0
FREEZE_S = 30
DRAIN_S = 12.0  # longer than a gateway's deadline: what began with the old generation ends with it

Announce = Callable[[str], None]


async def switch(
    index: Path,
    following: Placement,
    generation: Generation,
    announce: Announce,
    *,
    lose_writes: bool = False,
    drain_s: float = DRAIN_S,
) -> None:
    """Serve `following` in place of what index/placement.json says; the nodes have its models already.

    Raises SwitchError, with the old generation served as before, when a shard cannot be loaded or when writes
    would be lost that `lose_writes` does not give up.
    """
    path = index / PLACEMENT_NAME
    current = read_placement(path)
    if current.generation == following.generation:
        raise SwitchError(f"{following.generation} is served already: name another generation")
    loaded: list[tuple[str, str]] = []
    try:
        for url, model in models_of(following):
            announce(f"loading {model} at {url}")
            await control(url, model, "RepositoryModelLoad")
            loaded.append((url, model))
        await freeze(current, FREEZE_S)
        if not lose_writes:
            refuse_lost_writes(current, generation, await sequences(current))
        write_placement(path, following)
    except BaseException:
        await freeze(current, 0)
        for url, model in loaded:
            await control(url, model, "RepositoryModelUnload")
        raise
    announce(f"{following.generation} is served; unloading {current.generation} in {drain_s:g} s")
    await asyncio.sleep(drain_s)
    for url, model in models_of(current):
        await control(url, model, "RepositoryModelUnload")


def models_of(placement: Placement) -> list[tuple[str, str]]:
    """Address and model of every replica."""
    return [
        (url, model_name(placement.index, placement.generation, shard))
        for shard, urls in enumerate(placement.replicas)
        for url in urls
    ]


def refuse_lost_writes(current: Placement, following: Generation, written: Sequence[int]) -> None:
    """Raise SwitchError when the old generation holds changes that the new one does not.

    `written` counts the changes of each shard of the old one.
    """
    follows = following.follows == current.generation
    included = following.includes if follows else (0,) * len(written)
    lost = sum(max(0, w - i) for w, i in zip(written, included, strict=True))
    if lost:
        raise SwitchError(
            f"{lost:,} changes were written to {current.generation} that {following.name} does not hold: "
            f"build it with --from-generation {current.generation}, while nothing is written, or give them "
            "up with --lose-writes"
        )


async def sequences(placement: Placement) -> list[int]:
    """The changes that each shard took, the most that a replica of it knows."""
    statuses = await ask_all(placement, 0, "status")
    return [max((s["sequence"] for s in of_shard), default=0) for of_shard in statuses]


async def freeze(placement: Placement, seconds: int) -> None:
    """Have every replica refuse writes for so long; 0: take them again."""
    await ask_all(placement, seconds, "freeze")


async def ask_all(placement: Placement, seconds: int, operation: Any) -> list[list[dict[str, Any]]]:
    """What every replica answers, by shard. Raises ShardUnavailableError when one does not."""
    answers = []
    for shard, urls in enumerate(placement.replicas):
        model = model_name(placement.index, placement.generation, shard)
        of_shard = []
        for url in urls:
            async with grpc.aio.insecure_channel(url) as channel:
                client = ShardClient(service_pb2_grpc.GRPCInferenceServiceStub(channel), url, model)
                deadline_s = time.monotonic() + ASK_TIMEOUT_S
                of_shard.append(await client.status(deadline_s, operation, seconds))
        answers.append(of_shard)
    return answers


async def control(url: str, model: str, call: str) -> None:
    """Load or unload a model through Triton's repository API. Raises SwitchError with Triton's words."""
    kinds = {
        "RepositoryModelLoad": service_pb2.RepositoryModelLoadRequest,
        "RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest,
    }
    async with grpc.aio.insecure_channel(url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            await getattr(stub, call)(kinds[call](model_name=model), timeout=LOAD_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise SwitchError(
                f"{model} at {url}: {call} failed: {error.details()}; the generation before is served on"
            ) from error
