"""What a shard will take in memory, computed before it is loaded."""

from pathlib import Path

from models.manifest import Record
from serving.errors import DoesNotFitError
from serving.index.generation import read_generation, read_segment_record, shard_directory
from serving.index.layout import ID_BYTES, Layout

# What a node takes before it holds a single row: tritonserver, and for each shard a process with Python,
# NumPy and FAISS. Measured with `make bench-index`, which also says how far a prediction is off.
SERVER_BYTES = 60 * 2**20
PROCESS_BYTES = 75 * 2**20


class Footprint(Record):
    """Resident bytes of one shard's process, by what they are for."""

    process_bytes: int
    """Python, NumPy, FAISS."""
    index_bytes: int
    """Codes, ids or links beside them, centroids."""
    ids_bytes: int
    """The ids in order, and which of them are live."""

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.process_bytes + self.index_bytes + self.ids_bytes


def footprint(layout: Layout, dim: int, rows: int) -> Footprint:
    """Of a shard with so many rows. Rows themselves and codes on disk are read through the page cache,
    which the kernel takes back when memory is short, and do not count."""
    mapped = layout.on_disk and layout.is_ivf  # FAISS maps inverted lists and nothing else
    codes = 0.0 if mapped else layout.row_bytes(dim) * rows
    return Footprint(
        process_bytes=PROCESS_BYTES,
        index_bytes=int(codes) + layout.fixed_bytes(dim),
        ids_bytes=(ID_BYTES + 1) * rows,
    )


def check_fits(generation_directory: Path, shard: int, budget_bytes: int) -> None:
    """Raise DoesNotFitError when a shard needs more than its budget, before anything of it is read."""
    generation = read_generation(generation_directory)
    rows = read_segment_record(shard_directory(generation_directory, shard)).rows
    needed = footprint(generation.layout, generation.dim, rows).total_bytes
    if needed > budget_bytes:
        raise DoesNotFitError(
            f"shard {shard} of {generation.name} needs {mib(needed)} MiB and may take {mib(budget_bytes)}: "
            f"it is {mib(needed - budget_bytes)} MiB over; build with more shards or a smaller layout "
            "(`python -m serving.index plan` compares them)"
        )


def mib(size_bytes: float) -> str:
    """Bytes as MiB, in words."""
    return f"{size_bytes / 2**20:,.0f}"
