import itertools

import pytest

from serving.index.footprint import SERVER_BYTES, footprint
from serving.index.layout import Layout, suggested_lists
from serving.index.plan import (
    LayoutPlan,
    Size,
    candidates,
    changes_bytes,
    node_need,
    plan_layout,
    plan_on,
    shard_need,
    sized,
    with_search,
)

GB = 10**9
FLAT, SQ8 = Layout(kind="flat"), Layout(kind="ivf-sq8")
# 45 GB of vectors on nodes of 16 GB, a tenth of which stays free.
CASE = Size(rows=29_300_000, dim=384, metric="inner_product", usable_bytes=int(14.4 * GB))


def test_45_gb_of_vectors_fit_no_node_of_16_gb_whole() -> None:
    whole = plan_layout(FLAT, CASE, nodes=1)
    assert not whole.fits
    assert whole.node.cached_bytes == pytest.approx(45 * GB, rel=0.01)
    assert whole.over_bytes == whole.node.switching_bytes - CASE.usable_bytes > 76 * GB
    assert whole.refusal.endswith(f"{whole.over_bytes / 2**20:,.0f} MiB over")


def test_45_gb_of_vectors_fit_a_handful_of_nodes_of_16_gb() -> None:
    plan = plan_layout(FLAT, CASE)
    assert plan.fits
    assert plan.refusal == ""
    assert (plan.nodes, plan.shards) == (7, 7)
    assert not plan_layout(FLAT, CASE, nodes=6).fits


@pytest.mark.parametrize("layout", candidates(384), ids=lambda layout: layout.words)
def test_every_layout_of_the_case_fits_some_nodes_at_all_times(layout: Layout) -> None:
    plan = plan_layout(layout, CASE)
    node = plan.node
    assert plan.fits
    needs = (node.serving_bytes, node.compacting_bytes, node.switching_bytes)
    assert max(needs) <= CASE.usable_bytes
    assert plan.nodes <= 8
    if plan.nodes > 1:
        assert not plan_layout(layout, CASE, nodes=plan.nodes - 1).fits


def test_candidates_are_the_layouts_with_and_without_a_disk() -> None:
    found = [(layout.kind, layout.on_disk, layout.rescore) for layout in candidates(384)]
    assert len(set(found)) == len(found) == 11
    assert {kind for kind, on_disk, _ in found if on_disk} == {
        *("ivf-flat", "ivf-sq8", "ivf-pq", "ivf-rabitq")
    }
    assert {kind for kind, _, rescore in found if rescore} == {"ivf-pq", "ivf-rabitq"}
    assert all(dim % candidates(dim)[5].code_bytes == 0 for dim in (7, 100, 384, 768))


@pytest.mark.parametrize("layout", candidates(96), ids=lambda layout: layout.words)
def test_more_rows_never_need_fewer_nodes_or_bytes(layout: Layout) -> None:
    small = Size(rows=1, dim=96, metric="l2", usable_bytes=GB)
    sizes = [small.model_copy(update={"rows": 10**power}) for power in range(1, 9)]
    for fewer, more in itertools.pairwise(sizes):
        assert plan_layout(layout, fewer).nodes <= plan_layout(layout, more).nodes
        one, other = (plan_on(layout, size, 1, 1) for size in (fewer, more))
        assert one.node.serving_bytes < other.node.serving_bytes
        assert one.node.compacting_bytes < other.node.compacting_bytes
        assert one.node.switching_bytes < other.node.switching_bytes
        assert one.node.disk_bytes < other.node.disk_bytes


def test_given_shards_are_kept_and_put_on_as_few_nodes_as_hold_them() -> None:
    plan = plan_layout(SQ8, CASE, shards=10)
    assert plan.fits
    assert plan.shards == 10
    assert plan.rows_per_shard == 2_930_000
    assert plan.nodes == 3
    assert not plan_on(SQ8, CASE, 2, 10).fits


def test_a_shard_that_fits_no_node_is_refused_with_what_is_over() -> None:
    plan = plan_layout(FLAT, CASE, shards=2)
    assert (plan.nodes, plan.shards) == (2, 2)
    assert plan.over_bytes == plan.node.most[1] - CASE.usable_bytes > 0
    assert "MiB over" in plan.refusal


def test_a_node_that_holds_not_even_a_server_is_refused() -> None:
    tiny = CASE.model_copy(update={"usable_bytes": SERVER_BYTES})
    plan = plan_layout(SQ8, tiny)
    assert not plan.fits


def test_the_shards_of_a_node_compact_one_after_the_other() -> None:
    need = shard_need(SQ8, CASE, 1_000_000)
    node = node_need(need, 4)
    assert node.serving_bytes == SERVER_BYTES + 4 * (need.loaded_bytes + need.changes_bytes)
    assert node.compacting_bytes == node.serving_bytes + need.compaction_bytes
    assert node.switching_bytes == node.serving_bytes + 4 * need.loaded_bytes


def test_a_compaction_holds_its_index_whole_also_where_codes_are_served_from_disk() -> None:
    on_disk = SQ8.model_copy(update={"on_disk": True})
    needs = [shard_need(sized(layout, 10_000_000), CASE, 10_000_000) for layout in (SQ8, on_disk)]
    assert needs[0].compaction_bytes == needs[1].compaction_bytes > 3.9 * GB
    assert needs[1].loaded_bytes < 0.2 * GB
    assert needs[1].codes_on_disk_bytes > 3.9 * GB


def test_what_is_never_written_to_needs_no_room_for_changes() -> None:
    read_only = CASE.model_copy(update={"read_only": True})
    need = shard_need(FLAT, read_only, 1_000_000)
    assert (need.changes_bytes, need.compaction_bytes) == (0, 0)
    assert need.disk_bytes == 1_000_000 * (4 * 384 + 8 + 4 * 384)
    node = plan_on(FLAT, read_only, 7, 7).node
    assert node.compacting_bytes == node.serving_bytes
    assert node.serving_bytes < plan_on(FLAT, CASE, 7, 7).node.serving_bytes


def test_changes_take_at_least_what_was_measured() -> None:
    # 10,000 changes of 384 components in a shard of 200,000 rows: 22 to 44 MiB.
    assert 44 * 2**20 < changes_bytes(384, 200_000) < 2 * 44 * 2**20


def test_a_compaction_takes_what_was_measured_within_a_tenth() -> None:
    # Peaks of the process for 200,000 rows of 384 components: flat 343 MiB, ivf-sq8 with 1,788 lists 131.
    for layout, measured in ((FLAT, 343), (SQ8, 131)):
        need = shard_need(sized(layout, 200_000), CASE, 200_000)
        assert need.compaction_bytes / 2**20 == pytest.approx(measured, rel=0.1)


def test_what_is_loaded_is_what_the_node_computes() -> None:
    layout = sized(SQ8, 1_000_000)
    assert layout.lists == suggested_lists(1_000_000)
    need = shard_need(layout, CASE, 1_000_000)
    assert need.loaded_bytes == footprint(layout, 384, 1_000_000).total_bytes


def planned(kind: str, usable_bytes: int, *, on_disk: bool = False, rescore: int = 0) -> LayoutPlan:
    size = CASE.model_copy(update={"usable_bytes": usable_bytes})
    layout = Layout.model_validate({"kind": kind, "on_disk": on_disk, "rescore": rescore})
    return plan_on(layout, size, 1, 1)


def test_searches_read_from_a_disk_what_memory_has_no_room_for() -> None:
    assert planned("ivf-sq8", 10**12).read_bytes == 0
    assert planned("ivf-sq8", 10**12, on_disk=True).read_bytes == 0
    without_room = planned("ivf-sq8", GB, on_disk=True)
    lists, effort = without_room.layout.lists, without_room.layout.effort
    codes = without_room.shard.codes_on_disk_bytes
    assert without_room.read_bytes == pytest.approx(codes * effort / lists, rel=0.01)


def test_rescoring_reads_a_row_of_each_candidate() -> None:
    plan = planned("ivf-rabitq", GB, rescore=10)
    assert plan.read_bytes == 10 * 10 * (4 * 384 + 4096)
    size = CASE.model_copy(update={"usable_bytes": GB})
    fewer = with_search(plan, size, effort=3, rescore=4)
    assert fewer.read_bytes == 4 * 10 * (4 * 384 + 4096)
    assert (fewer.layout.effort, fewer.layout.rescore) == (3, 4)
    assert fewer.node == plan.node
