"""The nodes of an index on a Ray cluster: placed, found again, stopped.

Each group of shards has a placement group of Ray's with one bundle per replica, spread strictly: replicas
stand on different machines, and when a machine dies Ray finds another place for its bundle and starts the
actor there. Nodes and groups are detached: they outlive the process that placed them, and the next one finds
them by their names.
"""

import hashlib
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.util import get_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from serving.errors import ClusterError
from serving.index.generation import Generation
from serving.index.gpu import NO_GPU, GpuSettings
from serving.index.node import NodeOrder
from serving.index.ray_cluster import ray
from serving.index.ray_node import ShardNode
from serving.index.ray_plan import Ask, Slot
from serving.index.replica_states import replica_states

NODES_NAME = "nodes"
PLACE_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0  # longer than Triton takes to finish what it accepted
CALLS_AT_ONCE = 4  # of an actor: a report is given while it is being stopped


@dataclass(frozen=True)
class FleetPlan:
    """What is to be placed. `index` and `directory` (of the generation) are absolute."""

    index: Path
    directory: Path
    generation: Generation
    slots: tuple[Slot, ...]
    ask: Ask
    threads: int
    gpu: GpuSettings = NO_GPU

    @property
    def groups(self) -> list[int]:
        """The groups of shards, by number."""
        return sorted({slot.group for slot in self.slots})

    @property
    def digest(self) -> str:
        """What the nodes' names end with: nodes of another plan are not taken for those of this one."""
        described = "\n".join(
            [self.ask.model_dump_json(), *(self.order(s).model_dump_json() for s in self.slots)]
        )
        return hashlib.sha256(described.encode()).hexdigest()[:8]

    def order(self, slot: Slot) -> NodeOrder:
        """What the node of a slot is told."""
        name = f"{self.generation.name}-{slot.group}-{slot.replica}"
        return NodeOrder(
            generation=self.directory,
            shards=slot.shards,
            directory=self.index / NODES_NAME / name,
            state=replica_states(self.index, slot.replica),
            memory_bytes=self.ask.memory_bytes,
            threads=self.threads,
            gpu=self.gpu,
        )

    def name(self, slot: Slot) -> str:
        """The name of a node among those of its index."""
        return f"{self.generation.name}-{slot.group}-{slot.replica}-{self.digest}"

    def group_name(self, group: int) -> str:
        """The name of a placement group, in the whole cluster."""
        return f"{namespace(self.index)}-{self.generation.name}-{group}-{self.digest}"


def namespace(index: Path) -> str:
    """Ray's namespace of an index, which stands for its directory."""
    return f"farshore-{index.name}-{hashlib.sha256(str(index).encode()).hexdigest()[:8]}"


def is_placed(plan: FleetPlan) -> bool:
    """Whether all of its nodes are with Ray already."""
    return {plan.name(slot) for slot in plan.slots} <= {*ray.util.list_named_actors()}


def retire_others(plan: FleetPlan) -> None:
    """End the nodes of this generation that were placed by another plan."""
    generation = plan.generation.name
    for name in ray.util.list_named_actors():
        if name.startswith(f"{generation}-") and not name.endswith(plan.digest):
            with suppress(ValueError):  # it ended meanwhile
                ray.kill(ray.get_actor(name))
    prefix = f"{namespace(plan.index)}-{generation}-"
    for known in ray.util.placement_group_table().values():
        name = known["name"]
        if name.startswith(prefix) and not name.endswith(plan.digest):
            remove_group(name)


def place_fleet(plan: FleetPlan) -> dict[Slot, Any]:
    """Place the nodes, or find those that are placed. Raises ClusterError when Ray has no place in time."""
    placed = {number: place_group(plan, number) for number in plan.groups}
    if not is_placed(plan):
        wait_for_places(placed.values(), time.monotonic() + PLACE_TIMEOUT_S)
    node = ray.remote(ShardNode)
    return {
        slot: node.options(
            name=plan.name(slot),
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_concurrency=CALLS_AT_ONCE,
            num_cpus=plan.ask.cpus,
            num_gpus=plan.ask.gpus,
            memory=plan.ask.memory_bytes,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placed[slot.group], placement_group_bundle_index=slot.replica
            ),
        ).remote(plan.order(slot).model_dump_json())
        for slot in plan.slots
    }


def place_group(plan: FleetPlan, number: int) -> Any:
    """The placement group of the replicas of a group of shards."""
    name = plan.group_name(number)
    with suppress(ValueError):
        return get_placement_group(name)
    bundle = {"CPU": plan.ask.cpus, "GPU": plan.ask.gpus, "memory": plan.ask.memory_bytes}
    asked = {resource: amount for resource, amount in bundle.items() if amount}
    replicas = sum(slot.group == number for slot in plan.slots)
    return placement_group(
        [asked] * replicas, strategy="STRICT_SPREAD", name=name, lifetime="detached"
    )


def wait_for_places(placed: Iterable[Any], until_s: float) -> None:
    """Wait until every bundle has a machine, by a time.monotonic(). Raises ClusterError."""
    for group in placed:
        if not group.wait(max(until_s - time.monotonic(), 0.1)):
            raise ClusterError(
                f"Ray found no places within {PLACE_TIMEOUT_S:g} s, though the machines are large enough: "
                "`ray status` shows what takes them; free it, or add machines"
            )


def stop_fleet(plan: FleetPlan) -> None:
    """End what there is of the nodes, after the requests that they accepted, and give their places back."""
    actors = []
    for slot in plan.slots:
        with suppress(ValueError):
            actors.append(ray.get_actor(plan.name(slot)))
    if actors:
        stopping = [actor.stop.remote() for actor in actors]
        ray.wait(stopping, num_returns=len(stopping), timeout=STOP_TIMEOUT_S)
    for actor in actors:
        ray.kill(actor)
    for number in plan.groups:
        remove_group(plan.group_name(number))


def remove_group(name: str) -> None:
    """Give the places of a group back, if there is one of this name."""
    with suppress(ValueError):
        remove_placement_group(get_placement_group(name))
