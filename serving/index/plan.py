"""Which layout needs how many nodes: pure functions of rows, components and memory.

A node must have room, one after the other, for
    serving      its shards, each with the changes that no compaction has taken in yet
    compacting   the same, and the new index of one shard: the shards of a node take turns
    switching    its shards of two generations side by side
Bytes are those that a memory limit charges and the kernel cannot drop (memory.py). Rows and codes on disk are
the page cache's: they need no room, but what does not find any is read from the disk by each search.
"""

import math
from collections.abc import Iterator

from models.manifest import Record
from serving.index.compactor import MAX_SHARE, MIN_CHANGES
from serving.index.faiss_index import PART_ROWS
from serving.index.footprint import SERVER_BYTES, footprint, mib
from serving.index.layout import (
    FLOAT_BYTES,
    ID_BYTES,
    Kind,
    Layout,
    suggested_code_bytes,
    suggested_effort,
    suggested_lists,
)
from serving.index.metric import Metric

RESCORE = 10
MAX_NODES = 1_000
MAX_SHARDS_PER_NODE = 8

# Measured: a compaction's process once its index is written and freed.
COMPACTION_BYTES = 50 * 2**20
# Of a change in the delta, beside its row: two dictionaries' entries and the whole numbers in them.
CHANGE_BYTES = 200
PAGE_BYTES = 4096
VERSION_BYTES = 16  # of each row that was ever written
LOG_BYTES = 80  # of a change in the log, beside its row, when changes come one by one
# A delta doubles its arrays; glibc keeps freed ones that it did not map, of up to 32 MiB each.
OUTGROWN_BYTES = 64 * 2**20


class Size(Record):
    """What is to be indexed, and on which nodes."""

    rows: int
    dim: int
    metric: Metric
    usable_bytes: int
    """Memory of a node, less what is kept free."""
    k: int = 10
    """Results of a search."""
    read_only: bool = False
    """Whether nothing is written between two builds."""


class ShardNeed(Record):
    """What one shard takes."""

    loaded_bytes: int
    """Its process as it was loaded: footprint.py."""
    changes_bytes: int
    """Changes before a compaction begins, and when rows were written."""
    compaction_bytes: int
    """The process that compacts it, or the new index beside the old one: whichever is more."""
    disk_bytes: int
    """Rows, ids and index; three times while it compacts: as it was built, as it is served, and the next."""
    codes_on_disk_bytes: int
    """Of that, codes that searches read through the page cache."""
    rows_bytes: int
    """Of that, rows that rescoring and lookups read so."""


class NodeNeed(Record):
    """What a node takes with all its shards."""

    serving_bytes: int
    compacting_bytes: int
    switching_bytes: int
    disk_bytes: int
    cached_bytes: int
    """What searches and lookups read through the page cache."""

    @property
    def most(self) -> tuple[str, int]:
        """When it takes most, and how much."""
        needs = {
            "serving": self.serving_bytes,
            "compacting": self.compacting_bytes,
            "switching": self.switching_bytes,
        }
        when = max(needs, key=lambda name: needs[name])
        return when, needs[when]


class LayoutPlan(Record):
    """A layout on so many nodes."""

    layout: Layout
    nodes: int
    shards: int
    rows_per_shard: int
    shard: ShardNeed
    node: NodeNeed
    over_bytes: int
    """What a node has too little; 0: it fits."""
    read_bytes: int
    """What a search reads from the disk of a node: what it looks at and memory has no room for."""

    @property
    def fits(self) -> bool:
        """Whether every node has room at all times."""
        return self.over_bytes == 0

    @property
    def refusal(self) -> str:
        """Why it does not fit, in words; empty when it does."""
        when, needed = self.node.most
        if self.fits:
            return ""
        return (
            f"needs {mib(needed)} MiB per node while {when} and may take {mib(needed - self.over_bytes)}: "
            f"{mib(self.over_bytes)} MiB over"
        )


def candidates(dim: int) -> tuple[Layout, ...]:
    """The layouts that are compared, from exact to small; lists and efforts follow from the rows."""
    code_bytes = suggested_code_bytes(dim)
    kinds: tuple[tuple[Kind, int], ...] = (
        *(("flat", 0), ("hnsw", 0), ("hnsw-sq8", 0), ("ivf-flat", 0)),
        *(("ivf-sq8", 0), ("ivf-pq", RESCORE), ("ivf-rabitq", RESCORE)),
    )
    in_memory = [
        Layout(kind=kind, rescore=rescore, code_bytes=code_bytes) for kind, rescore in kinds
    ]
    on_disk = [one.model_copy(update={"on_disk": True}) for one in in_memory if one.is_ivf]
    return (*in_memory, *on_disk)


def sized(layout: Layout, rows: int) -> Layout:
    """A layout for shards of so many rows, with the effort that a build has by default."""
    if layout.is_ivf:
        layout = layout.model_copy(update={"lists": suggested_lists(rows)})
    return layout.model_copy(update={"effort": suggested_effort(layout)})


def plan_layout(
    layout: Layout, size: Size, *, nodes: int | None = None, shards: int | None = None
) -> LayoutPlan:
    """The fewest nodes, and on them the fewest shards, that a layout fits; given numbers are kept.

    Where it fits none, the plan with the least that is over.
    """
    most = min(nodes or MAX_NODES, shards or MAX_NODES)
    last = [plan_on(layout, size, most, count) for count in splits(most, shards)]
    if not any(plan.fits for plan in last):
        return min(last, key=lambda plan: plan.over_bytes)
    for number in range(nodes or least_nodes(layout, size), most):
        for count in splits(number, shards):
            plan = plan_on(layout, size, number, count)
            if plan.fits:
                return plan
    return next(plan for plan in last if plan.fits)


def splits(nodes: int, shards: int | None) -> Iterator[int]:
    """How many shards there may be on so many nodes, ascending."""
    if shards is not None:
        yield shards
        return
    yield from range(nodes, nodes * MAX_SHARDS_PER_NODE + 1, nodes)


def least_nodes(layout: Layout, size: Size) -> int:
    """No fewer nodes can hold its codes."""
    codes = 0.0 if layout.on_disk else layout.row_bytes(size.dim) * size.rows
    return max(1, int(codes // size.usable_bytes))


def plan_on(layout: Layout, size: Size, nodes: int, shards: int) -> LayoutPlan:
    """A layout on so many nodes in so many shards, whether it fits or not."""
    rows = math.ceil(size.rows / shards)
    layout = sized(layout, rows)
    need = shard_need(layout, size, rows)
    node = node_need(need, math.ceil(shards / nodes))
    return LayoutPlan(
        layout=layout,
        nodes=nodes,
        shards=shards,
        rows_per_shard=rows,
        shard=need,
        node=node,
        over_bytes=max(0, node.most[1] - size.usable_bytes),
        read_bytes=read_bytes(layout, size, need, math.ceil(shards / nodes)),
    )


def with_search(plan: LayoutPlan, size: Size, *, effort: int, rescore: int) -> LayoutPlan:
    """The same plan for searches that look as hard as this."""
    layout = plan.layout.model_copy(update={"effort": effort, "rescore": rescore})
    per_node = math.ceil(plan.shards / plan.nodes)
    reads = read_bytes(layout, size, plan.shard, per_node)
    return plan.model_copy(update={"layout": layout, "read_bytes": reads})


def read_bytes(layout: Layout, size: Size, need: ShardNeed, shards: int) -> int:
    """Bytes that a search reads from the disk of a node, once the page cache is as full as it gets.

    Codes of the lists that it visits, and a row with the page around it for each candidate that is rescored.
    Codes are used more often, byte for byte, and are in memory first.
    """
    free = max(0, size.usable_bytes - node_need(need, shards).serving_bytes)
    codes, rows = shards * need.codes_on_disk_bytes, shards * need.rows_bytes
    visited = codes * layout.effort / max(1, layout.lists)
    rescored = shards * size.k * layout.rescore * (FLOAT_BYTES * size.dim + PAGE_BYTES)
    missing_codes = max(0.0, 1 - free / max(1, codes))
    missing_rows = max(0.0, 1 - max(0, free - codes) / max(1, rows))
    return int(visited * missing_codes + rescored * missing_rows)


def shard_need(layout: Layout, size: Size, rows: int) -> ShardNeed:
    """What a shard of so many rows takes."""
    loaded = footprint(layout, size.dim, rows, size.metric)
    row = FLOAT_BYTES * size.dim
    whole = index_bytes(layout, size, rows)
    stored = (row + ID_BYTES) * rows + whole
    changes = 0 if size.read_only else changed_rows(rows)
    codes_on_disk = whole if layout.on_disk and layout.is_ivf else 0
    return ShardNeed(
        loaded_bytes=loaded.total_bytes,
        changes_bytes=0 if size.read_only else changes_bytes(size.dim, rows),
        compaction_bytes=0 if size.read_only else compaction_bytes(layout, size, rows),
        disk_bytes=stored if size.read_only else 3 * stored + changes * (row + LOG_BYTES),
        codes_on_disk_bytes=codes_on_disk,
        rows_bytes=row * rows,
    )


def index_bytes(layout: Layout, size: Size, rows: int) -> int:
    """Bytes of an index that is all in memory, as it is while it is made."""
    made = layout.model_copy(update={"on_disk": False})
    return footprint(made, size.dim, rows, size.metric).index_bytes


def changed_rows(rows: int) -> int:
    """Changes that a shard holds before a compaction begins."""
    return max(MIN_CHANGES, int(MAX_SHARE * rows))


def changes_bytes(dim: int, rows: int) -> int:
    """What they take: up to twice their rows while the arrays double, and what these outgrew."""
    vectors = 2 * FLOAT_BYTES * dim * changed_rows(rows)
    others = CHANGE_BYTES * changed_rows(rows) + VERSION_BYTES * rows
    return vectors + others + min(vectors, OUTGROWN_BYTES)


def compaction_bytes(layout: Layout, size: Size, rows: int) -> int:
    """Room that a compaction takes: first its process, which merges and then indexes; then the new index."""
    merging = changes_bytes(size.dim, rows) + 6 * ID_BYTES * rows
    # The index beside its ids and the list of each row; product codes are made of a part's residuals.
    residuals = PART_ROWS * FLOAT_BYTES * size.dim if layout.kind == "ivf-pq" else 0
    indexing = index_bytes(layout, size, rows) + 2 * ID_BYTES * rows + residuals
    loaded = footprint(layout, size.dim, rows, size.metric)
    return max(COMPACTION_BYTES + max(merging, indexing), loaded.index_bytes + loaded.ids_bytes)


def node_need(need: ShardNeed, shards: int) -> NodeNeed:
    """What a node of so many shards takes."""
    serving = SERVER_BYTES + shards * (need.loaded_bytes + need.changes_bytes)
    return NodeNeed(
        serving_bytes=serving,
        compacting_bytes=serving + need.compaction_bytes,
        switching_bytes=serving + shards * need.loaded_bytes,
        disk_bytes=shards * need.disk_bytes,
        cached_bytes=shards * (need.codes_on_disk_bytes + need.rows_bytes),
    )
