"""What a shard will take in memory, computed before it is loaded."""

from pathlib import Path

from models.manifest import Record
from serving.errors import DoesNotFitError
from serving.index.generation import read_generation, read_segment_record, shard_directory
from serving.index.layout import ID_BYTES, Layout
from serving.index.metric import Metric

# Measured on a node of 1, 2 and 4 shards that held next to nothing and were searched, as what a memory limit
# charges and the kernel cannot drop (memory.node_bytes); tests/triton/test_index_footprint.py repeats it.
# SERVER_BYTES: 39 MiB of the process that starts the node, 19 of the keeper, 5 of tritonserver, and 71 of
# the code of all of them, which is there once. PROCESS_BYTES: 38 of each shard's process, with Python, NumPy
# and FAISS, and 2 of its shared memory and of what tritonserver keeps for it.
SERVER_BYTES = 136 * 2**20
PROCESS_BYTES = 40 * 2**20


class Footprint(Record):
    """Bytes that one shard's process holds, by what they are for."""

    process_bytes: int
    """Python, NumPy, FAISS."""
    index_bytes: int
    """Codes, ids or links beside them, centroids, tables."""
    ids_bytes: int
    """The ids in order, and which of them are live."""

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.process_bytes + self.index_bytes + self.ids_bytes


def footprint(layout: Layout, dim: int, rows: int, metric: Metric = "inner_product") -> Footprint:
    """Of a shard with so many rows, as it was loaded and searched: without what is written to it later.

    Rows themselves and codes on disk are read through the page cache, which the kernel takes back when memory
    is short, and do not count.
    """
    mapped = layout.on_disk and layout.is_ivf  # FAISS maps inverted lists and nothing else
    codes = 0.0 if mapped else layout.row_bytes(dim) * rows
    return Footprint(
        process_bytes=PROCESS_BYTES,
        index_bytes=int(codes) + layout.fixed_bytes(dim) + layout.table_bytes(metric),
        ids_bytes=(ID_BYTES + 1) * rows,
    )


def check_fits(generation_directory: Path, shard: int, budget_bytes: int) -> None:
    """Raise DoesNotFitError when a shard needs more than its budget, before anything of it is read."""
    generation = read_generation(generation_directory)
    rows = read_segment_record(shard_directory(generation_directory, shard)).rows
    needed = footprint(generation.layout, generation.dim, rows, generation.metric).total_bytes
    if needed > budget_bytes:
        raise DoesNotFitError(
            f"shard {shard} of {generation.name} needs {mib(needed)} MiB and may take {mib(budget_bytes)}: "
            f"it is {mib(needed - budget_bytes)} MiB over; build with more shards or a smaller layout "
            "(`python -m serving.index plan` compares them)"
        )


def mib(size_bytes: float) -> str:
    """Bytes as MiB, in words."""
    return f"{size_bytes / 2**20:,.0f}"
