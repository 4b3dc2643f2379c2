"""Which shards go together on a node, and whether a cluster has room for all of them: functions of values."""

from collections.abc import Sequence

from models.manifest import Record
from serving.errors import ClusterError, DoesNotFitError
from serving.index.footprint import SERVER_BYTES, mib
from serving.index.ray_cluster import Machine, largest, over

ADVICE = (
    "build with more --shards or a smaller layout (`python -m serving.index plan` compares them)"
)


class Ask(Record):
    """What one node, a Triton with a group of shards, asks of its machine."""

    memory_bytes: int
    cpus: float = 1.0
    gpus: float = 0.0


class Slot(Record):
    """One node: a replica of a group of shards."""

    group: int
    replica: int
    shards: tuple[int, ...]

    @property
    def words(self) -> str:
        """The node as people read it."""
        return f"replica {self.replica} of the shards {', '.join(map(str, self.shards))}"


def slots_of(needs_bytes: Sequence[int], replicas: int, memory_bytes: int) -> list[Slot]:
    """The nodes of an index whose shards need so much memory each, in nodes of so much memory."""
    return [
        Slot(group=number, replica=replica, shards=shards)
        for number, shards in enumerate(groups_of(needs_bytes, memory_bytes))
        for replica in range(replicas)
    ]


def check_fits(
    needs_bytes: Sequence[int], replicas: int, ask: Ask, offered: Sequence[Machine]
) -> None:
    """Refuse what cannot be placed, before anything starts.

    Raises DoesNotFitError when a shard or a node fits nowhere, ClusterError when there is no room for all.
    """
    if replicas < 1:
        raise ClusterError(f"{replicas} replicas cannot be placed: ask for 1 or more")
    check_shards_fit(needs_bytes, ask.memory_bytes, offered)
    check_room(len(groups_of(needs_bytes, ask.memory_bytes)), replicas, ask, offered)


def check_shards_fit(
    needs_bytes: Sequence[int], memory_bytes: int, offered: Sequence[Machine]
) -> None:
    """Raise DoesNotFitError when a shard, with its server, fits no node or no machine; then for the node."""
    for shard, need in enumerate(needs_bytes):
        needed = SERVER_BYTES + need
        too_much = over(f"shard {shard} with its server needs", needed, offered)
        if too_much:
            raise DoesNotFitError(f"{too_much}; {ADVICE}, or add a larger machine")
        if needed > memory_bytes:
            raise DoesNotFitError(
                f"shard {shard} with its server needs {mib(needed)} MiB and a node may take "
                f"{mib(memory_bytes)} MiB: it is {mib(needed - memory_bytes)} MiB over; raise "
                f"--memory-per-node, or {ADVICE}"
            )
    too_much = over("a node is to take", memory_bytes, offered)
    if too_much:
        raise DoesNotFitError(
            f"{too_much}; lower --memory-per-node, or start Ray with more --memory"
        )


def groups_of(needs_bytes: Sequence[int], memory_bytes: int) -> list[tuple[int, ...]]:
    """The fewest groups, equally many shards in each, that fit nodes with so much memory.

    Every shard fits a node of its own.
    """
    shards = range(len(needs_bytes))
    for count in shards:
        groups = [tuple(shards[first :: count + 1]) for first in range(count + 1)]
        needed = [SERVER_BYTES + sum(needs_bytes[shard] for shard in group) for group in groups]
        if max(needed) <= memory_bytes:
            return groups
    return [(shard,) for shard in shards]


def check_room(groups: int, replicas: int, ask: Ask, offered: Sequence[Machine]) -> None:
    """Raise ClusterError unless every replica of every group finds a place, those of a group apart.

    With places p of each machine, it is enough that the sum of min(p, groups) reaches groups x replicas.
    """
    places = sum(min(places_on(machine, ask), groups) for machine in offered)
    if places < groups * replicas:
        raise ClusterError(
            f"{groups * replicas} nodes ({groups} groups of shards, {replicas} replicas of each on machines "
            f"of their own) do not fit: the {len(offered)} machines, of which the largest offers "
            f"{mib(largest(offered).memory_bytes)} MiB, have places for {places}, with {ask.cpus:g} CPUs, "
            f"{ask.gpus:g} GPUs and {mib(ask.memory_bytes)} MiB each; add machines, or ask for less"
        )


def places_on(machine: Machine, ask: Ask) -> int:
    """How many nodes a machine has room for."""
    pairs = (
        (machine.memory_bytes, ask.memory_bytes),
        (machine.cpus, ask.cpus),
        (machine.gpus, ask.gpus),
    )
    return min(int(offers // asks) for offers, asks in pairs if asks)
