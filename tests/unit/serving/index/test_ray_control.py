"""What becomes of placement.json, decided from what nodes report."""

import pytest

from serving.index.placement import Placement
from serving.index.ray_control import next_step, placement_of
from serving.index.ray_node import NodeReport
from serving.index.ray_plan import Slot
from tests.unit.serving.index.generations import described


def at(address: str) -> NodeReport:
    return NodeReport(address=address, reason="", machine=address.partition(":")[0])


def placed(name: str, *replicas: tuple[str, ...]) -> Placement:
    slots = {
        Slot(group=shard, replica=replica, shards=(shard,)): at(url) if url else None
        for shard, urls in enumerate(replicas)
        for replica, url in enumerate(urls)
    }
    return placement_of(described(name=name), slots)


def test_a_shard_of_which_a_replica_is_away_is_asked_but_not_written_to():
    placement = placed("g1", ("a:1", "b:1"), ("a:2", ""))
    assert placement.replicas == (("a:1", "b:1"), ("a:2",))
    assert placement.closed == (1,)


WHOLE, BROKEN = placed("g2", ("a:1",), ("b:1",)), placed("g2", ("a:1",), ("",))
OLD = placed("g1", ("c:1",), ("c:1",))


@pytest.mark.parametrize(
    ("current", "mine", "published", "step"),
    [
        (WHOLE, WHOLE, True, "keep"),
        (WHOLE, BROKEN, True, "write"),
        (BROKEN, WHOLE, False, "write"),
        (None, WHOLE, False, "write"),
        (None, BROKEN, False, "keep"),
        (None, BROKEN, True, "write"),
        (OLD, BROKEN, False, "keep"),
        (OLD, WHOLE, False, "take over"),
        (OLD, WHOLE, True, "leave"),
    ],
)
def test_another_generation_is_replaced_once_and_only_when_this_one_is_whole(
    current: Placement | None, mine: Placement, published: bool, step: str
):
    assert next_step(current, mine, published) == step
