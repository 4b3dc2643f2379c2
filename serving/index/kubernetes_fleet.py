"""What runs of an index on Kubernetes, before it is written down: groups of shards, pods, sizes, names.

shards ─► groups that fit a pod ─► a StatefulSet per group, a pod per replica ─► placement.json
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from models.manifest import Record
from serving.errors import DoesNotFitError, PlacementError, SettingsError
from serving.index.footprint import mib
from serving.index.generation import Generation
from serving.index.place_command import LABEL, pods
from serving.index.placement import Placement, place
from serving.index.plan import ShardNeed, Size, node_need, shard_need

GRPC_PORT = 8001
HEADROOM = 0.1  # of a pod's memory stays free, as in `plan`
MAX_NAME = (
    52  # of a StatefulSet: a label has 63 characters, and Kubernetes puts a hash behind the name
)
MIB, GIB = 2**20, 2**30


class Cluster(Record):
    """What an operator says."""

    name: str
    """What the objects are named after."""
    namespace: str = "farshore"
    replicas: int = 2
    """Pods of each StatefulSet, on different machines."""
    memory_bytes: int
    """What a pod of shards may take at most."""
    cpus: int = 2
    """Whole CPUs of such a pod."""
    gateways: int = 2
    """Pods of the gateway."""
    writable: bool = False
    """Whether the gateways take writes; each pod of shards then keeps them on a volume of its own."""
    index_claim: str = "farshore-index"
    """PersistentVolumeClaim with the directory of the index, which many machines may read."""
    models_claim: str = "farshore-models"
    """PersistentVolumeClaim with the packaged repository of the encoder of queries."""
    node_image: str = "farshore-index:local"
    gateway_image: str = "farshore-gateway:local"
    triton_image: str = "farshore-triton:cpu"


@dataclass(frozen=True)
class Group:
    """The shards of one StatefulSet, and what each of its pods takes."""

    number: int
    shards: tuple[int, ...]
    memory_mib: int
    disk_gib: int


@dataclass(frozen=True)
class Fleet:
    """All pods of one generation of an index."""

    generation: Generation
    cluster: Cluster
    groups: tuple[Group, ...]

    @property
    def service(self) -> str:
        """The headless service that gives the pods their names: each generation has its own."""
        return f"{self.cluster.name}-{self.generation.name}"

    def stateful_set(self, group: Group) -> str:
        """Its name."""
        return f"{self.service}-{group.number}"

    @property
    def placement(self) -> Placement:
        """Where each shard answers. Raises SettingsError for names that Kubernetes does not take."""
        replicas: list[list[str]] = [[] for _ in range(self.generation.shards)]
        for group in self.groups:
            urls = pods(
                self.stateful_set(group),
                self.cluster.replicas,
                service=self.service,
                namespace=self.cluster.namespace,
                port=GRPC_PORT,
            )
            for shard in group.shards:
                replicas[shard] = urls
        return place(self.generation, replicas)


def fleet_of(generation: Generation, rows: Sequence[int], cluster: Cluster) -> Fleet:
    """The pods of a generation whose shards have so many rows.

    Raises SettingsError for what cannot be, DoesNotFitError when a shard needs a larger pod.
    """
    check_cluster(cluster)
    if len(rows) != generation.shards:
        raise PlacementError(f"{generation.name} has {generation.shards} shards, not {len(rows)}")
    size = Size(
        rows=max(rows),
        dim=generation.dim,
        metric=generation.metric,
        usable_bytes=cluster.memory_bytes,
        read_only=not cluster.writable,
    )
    need = shard_need(generation.layout, size, size.rows)
    fleet = Fleet(generation, cluster, groups_of(generation, need, cluster.memory_bytes))
    check_name(fleet.stateful_set(fleet.groups[-1]), MAX_NAME)
    return fleet


def groups_of(generation: Generation, need: ShardNeed, memory_bytes: int) -> tuple[Group, ...]:
    """The fewest groups, equally many shards in each, of shards with this need. Raises DoesNotFitError."""
    shards = range(generation.shards)
    count = next((n for n in range(1, len(shards) + 1) if fits(need, shards[::n], memory_bytes)), 0)
    if not count:
        needed = math.ceil(taken_bytes(need, 1) / (1 - HEADROOM))
        raise DoesNotFitError(
            f"a pod with one shard of {generation.name} needs {mib(needed)} MiB and may take "
            f"{mib(memory_bytes)}: it is {mib(needed - memory_bytes)} MiB over; raise --memory, or build "
            "with more shards or a smaller layout (`python -m serving.index plan` compares them)"
        )
    return tuple(
        Group(
            number=number,
            shards=tuple(shards[number::count]),
            memory_mib=pod_mib(need, len(shards[number::count]), generation, memory_bytes),
            disk_gib=math.ceil(node_need(need, len(shards[number::count])).disk_bytes / GIB),
        )
        for number in range(count)
    )


def taken_bytes(need: ShardNeed, shards: int) -> int:
    """What a pod takes at most: two generations never share one, so it never switches."""
    node = node_need(need, shards)
    return max(node.serving_bytes, node.compacting_bytes)


def fits(need: ShardNeed, shards: Sequence[int], memory_bytes: int) -> bool:
    """Whether a pod has room for these shards and the headroom."""
    return taken_bytes(need, len(shards)) <= memory_bytes * (1 - HEADROOM)


def pod_mib(need: ShardNeed, shards: int, generation: Generation, memory_bytes: int) -> int:
    """The memory limit of a pod, in MiB.

    A limit counts the page cache too: what each search reads of the disk gets room as far as there is any.
    """
    rows_bytes = need.rows_bytes if generation.layout.rescore else 0
    cached_bytes = shards * (need.codes_on_disk_bytes + rows_bytes)
    wanted = math.ceil((taken_bytes(need, shards) + cached_bytes) / (1 - HEADROOM) / MIB)
    return min(wanted, memory_bytes // MIB)


def check_cluster(cluster: Cluster) -> None:
    """Raise SettingsError for what Kubernetes would refuse, or what would run nothing."""
    counts = {
        "--replicas": cluster.replicas,
        "--cpus": cluster.cpus,
        "--gateways": cluster.gateways,
    }
    for option, value in counts.items():
        if value < 1:
            raise SettingsError(f"{option} is {value}: give 1 or more")
    check_name(cluster.namespace, 63)
    check_name(f"{cluster.name}-placement", 63)


def check_name(name: str, longest: int) -> None:
    """Raise SettingsError for what is no name in Kubernetes."""
    if len(name) > longest or not LABEL.fullmatch(name):
        raise SettingsError(
            f"{name!r} is no name in Kubernetes, which takes up to {longest} lower-case letters, digits and "
            "hyphens: give another --name, or build the generation with another one"
        )
