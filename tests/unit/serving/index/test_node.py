import re
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.errors import DoesNotFitError, PlacementError
from serving.index.footprint import SERVER_BYTES, footprint
from serving.index.generation import read_segment_record, shard_directory
from serving.index.layout import Layout
from serving.index.metric import Vectors
from serving.index.node import NodeOrder, forget_generation, mounts_of, run_node
from serving.index.repository import write_model

RandomVectors = Callable[..., Vectors]
MakeGeneration = Callable[..., Path]

MIB = 2**20


@pytest.fixture(scope="module")
def generation(make_generation: MakeGeneration, random_vectors: RandomVectors) -> Path:
    """Three flat shards."""
    return make_generation(random_vectors(900), shards=3)


@pytest.fixture
def order(generation: Path, tmp_path: Path) -> NodeOrder:
    """Two of them on a node that has room."""
    return NodeOrder(
        generation=generation, shards=(0, 2), directory=tmp_path / "node-a", memory_bytes=2**30
    )


def needed_bytes(order: NodeOrder) -> int:
    rows = [read_segment_record(shard_directory(order.generation, s)).rows for s in order.shards]
    flat = Layout(kind="flat")
    return SERVER_BYTES + sum(footprint(flat, 8, count).total_bytes for count in rows)


def test_every_shard_gets_what_it_needs_and_a_share_of_what_is_spare(order: NodeOrder) -> None:
    mounts = mounts_of(order)
    assert [mount.shard for mount in mounts] == [0, 2]
    assert len({mount.state for mount in mounts}) == 2
    total = SERVER_BYTES + sum(mount.budget_bytes for mount in mounts)
    assert order.memory_bytes - len(mounts) < total <= order.memory_bytes
    exact = order.model_copy(update={"memory_bytes": needed_bytes(order)})
    budgets = [mount.budget_bytes for mount in mounts_of(exact)]
    assert SERVER_BYTES + sum(budgets) == exact.memory_bytes


def test_a_node_that_is_too_small_is_refused_with_how_much_before_anything_is_loaded(
    order: NodeOrder,
) -> None:
    small = order.model_copy(update={"memory_bytes": needed_bytes(order) - 5 * MIB})
    words = (
        r"node-a has \d+ MiB and its 2 shards need \d+ MiB: it is 5 MiB over; give it fewer shards"
    )
    with pytest.raises(DoesNotFitError, match=words), run_node(small):
        pass
    assert not order.directory.exists()


@pytest.mark.parametrize("shards", [(3,), (-1, 0), ()])
def test_shards_that_there_are_not_are_refused(order: NodeOrder, shards: tuple[int, ...]) -> None:
    with pytest.raises(PlacementError, match="g1 has the shards 0 to 2, not"):
        mounts_of(order.model_copy(update={"shards": shards}))


def test_a_generation_that_is_forgotten_leaves_the_others(order: NodeOrder) -> None:
    models = order.directory / "models"
    for mount in mounts_of(order):
        write_model(models, mount)
        mount.state.mkdir(parents=True)
    for other in ("demo-g10-0000", "g1", "demo-g1-0000x"):
        (models / other).mkdir()
    (order.directory / "state/g10").mkdir()
    forget_generation(order.directory, "g1")
    assert sorted(p.name for p in models.iterdir()) == ["demo-g1-0000x", "demo-g10-0000", "g1"]
    assert [p.name for p in (order.directory / "state").iterdir()] == ["g10"]
    forget_generation(order.directory, "g2")  # of which there is nothing


def test_a_model_is_named_after_its_index_generation_and_shard(order: NodeOrder) -> None:
    names = [write_model(order.directory / "models", mount) for mount in mounts_of(order)]
    assert names == ["demo-g1-0000", "demo-g1-0002"]
    config = (order.directory / "models/demo-g1-0002/config.pbtxt").read_text()
    assert re.search(r'key: "shard"\s+value {\s+string_value: "2"', config)
