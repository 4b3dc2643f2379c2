"""What a build came to."""

from pathlib import Path

import numpy as np

from serving.index.generation import (
    read_generation,
    read_ids,
    read_rows,
    read_segment_record,
    shard_directory,
    verify_segment,
)
from serving.index.sharding import shard_of


def rows_by_id(generation: Path) -> dict[int, list[float]]:
    """All rows of all shards, each on the shard of its id and in the order of ids."""
    described = read_generation(generation)
    rows: dict[int, list[float]] = {}
    for number in range(described.shards):
        shard = shard_directory(generation, number)
        verify_segment(shard, read_segment_record(shard))
        ids = read_ids(shard)
        assert (np.diff(ids) > 0).all()
        assert (shard_of(ids, described.shards) == number).all()
        rows |= dict(zip(ids.tolist(), read_rows(shard).tolist(), strict=True))
    assert described.rows == len(rows)
    return rows


def files_of(generation: Path) -> dict[str, bytes]:
    return {
        path.relative_to(generation).as_posix(): path.read_bytes()
        for path in sorted(generation.rglob("*"))
        if path.is_file() and path.name != "generation.json"
    }
