"""Groups of shards and places for them, without a cluster."""

from collections.abc import Iterator
from itertools import product

import pytest

from serving.errors import ClusterError, DoesNotFitError
from serving.index.footprint import SERVER_BYTES
from serving.index.ray_cluster import Machine
from serving.index.ray_plan import Ask, check_fits, check_room, groups_of, places_on, slots_of

GIB = 2**30
NODE_BYTES = SERVER_BYTES + 2 * GIB


def machines(*gib: float, cpus: float = 8, gpus: float = 0) -> list[Machine]:
    return [
        Machine(address=f"10.0.0.{n}", memory_bytes=int(one * GIB), cpus=cpus, gpus=gpus)
        for n, one in enumerate(gib)
    ]


def test_shards_go_into_the_fewest_groups_that_fit_equally_many_in_each():
    assert groups_of([GIB] * 4, SERVER_BYTES + 4 * GIB) == [(0, 1, 2, 3)]
    assert groups_of([GIB] * 4, NODE_BYTES) == [(0, 2), (1, 3)]
    assert groups_of([GIB] * 5, NODE_BYTES) == [(0, 3), (1, 4), (2,)]
    assert groups_of([2 * GIB, GIB, GIB], NODE_BYTES) == [(0,), (1,), (2,)]


def test_each_replica_of_each_group_is_a_node():
    slots = slots_of([GIB] * 4, 2, NODE_BYTES)
    assert [(s.group, s.replica, s.shards) for s in slots] == [
        (0, 0, (0, 2)),
        (0, 1, (0, 2)),
        (1, 0, (1, 3)),
        (1, 1, (1, 3)),
    ]
    assert slots[0].words == "replica 0 of the shards 0, 2"


@pytest.mark.parametrize(
    ("ask", "places"),
    [
        (Ask(memory_bytes=3 * GIB), 3),
        (Ask(memory_bytes=GIB, cpus=3), 2),
        (Ask(memory_bytes=GIB, gpus=1), 1),
        (Ask(memory_bytes=GIB, cpus=0.5, gpus=0.5), 2),
        (Ask(memory_bytes=11 * GIB), 0),
    ],
)
def test_a_machine_has_room_until_one_of_its_resources_is_spent(ask: Ask, places: int):
    [machine] = machines(10, gpus=1)
    assert places_on(machine, ask) == places


def placeable(groups: int, replicas: int, places: tuple[int, ...]) -> bool:
    """Whether the replicas of each group find different machines, by trying everything."""

    def placed(left: tuple[int, ...], group: int) -> bool:
        if group == groups:
            return True
        return any(placed(after, group + 1) for after in after_group(left))

    def after_group(left: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        for taken in product((0, 1), repeat=len(left)):
            if sum(taken) == replicas and all(t <= p for t, p in zip(taken, left, strict=True)):
                yield tuple(p - t for t, p in zip(taken, left, strict=True))

    return placed(places, 0)


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_room_is_refused_exactly_when_no_placement_exists(groups: int, replicas: int):
    ask = Ask(memory_bytes=GIB, cpus=0)
    for places in product(range(4), repeat=3):
        offered = machines(*places)
        try:
            check_room(groups, replicas, ask, offered)
            found = True
        except ClusterError:
            found = False
        assert found == placeable(groups, replicas, places), places


def test_what_fits_nowhere_is_refused_with_the_number_that_is_over():
    ask = Ask(memory_bytes=NODE_BYTES)
    check_fits([GIB] * 4, 2, ask, machines(5, 5))
    with pytest.raises(DoesNotFitError, match=r"shard 1 with its server needs .* 1,160 MiB over"):
        check_fits([GIB, 4 * GIB], 1, ask, machines(3, 3))
    with pytest.raises(DoesNotFitError, match=r"a node may take .* 512 MiB over; raise --memory"):
        check_fits([GIB, 5 * GIB // 2], 1, ask, machines(8))
    with pytest.raises(DoesNotFitError, match=r"a node is to take .*; lower --memory-per-node"):
        check_fits([GIB], 1, ask, machines(2))
    with pytest.raises(ClusterError, match="have places for 2"):
        check_fits([GIB] * 4, 2, ask, machines(3, 3, cpus=1))
    with pytest.raises(ClusterError, match="0 replicas"):
        check_fits([GIB], 0, ask, machines(3))
