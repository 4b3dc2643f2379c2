"""A shard against a dictionary, through random writes, compactions and restarts."""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.index.metric import Vectors
from serving.index.shard import Shard
from tests.unit.serving.index.shards import (
    DIM,
    NOTHING,
    MakeGeneration,
    MakeSegment,
    RandomVectors,
    check_searches,
)


@dataclass
class Model:
    """What a shard should hold: rows, and the version of the last write of each id."""

    rows: dict[int, Vectors]
    versions: dict[int, int] = field(default_factory=dict)

    def write(self, row_id: int, version_ns: int, row: Vectors | None) -> None:
        if version_ns < self.versions.get(row_id, version_ns):
            return
        self.versions[row_id] = version_ns
        self.rows.pop(row_id, None)
        if row is not None:
            self.rows[row_id] = row


WRITTEN = st.lists(st.integers(0, 40), min_size=1, max_size=6)
STEPS = st.one_of(
    st.tuples(st.just("upsert"), WRITTEN, st.integers(0, 9)),
    st.tuples(st.just("delete"), WRITTEN, st.integers(0, 9)),
    st.tuples(st.sampled_from(["begin", "adopt", "abandon", "reopen"])),
)


@given(steps=st.lists(STEPS, max_size=25), seed=st.integers(0, 2**32 - 1))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_it_holds_what_was_written_through_any_compactions_and_restarts(
    small: Path, make_segment: MakeSegment, steps: list[tuple[object, ...]], seed: int
) -> None:
    chosen = np.random.default_rng(seed)
    with ExitStack() as opened:
        state = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        shard = Shard(small, 0, state)
        opened.callback(lambda: shard.close())
        rows, _ = shard.lookup(np.arange(0, 40, 2))
        model = Model(dict(zip(range(0, 40, 2), rows, strict=True)))
        compaction = None
        for step, *values in steps:
            match step:
                case "upsert" | "delete":
                    ids, version_ns = values
                    assert isinstance(ids, list)
                    assert isinstance(version_ns, int)
                    vectors = chosen.normal(size=(len(ids), DIM)).astype(np.float32)
                    for row_id, row in zip(ids, vectors, strict=True):
                        model.write(row_id, version_ns, row if step == "upsert" else None)
                    given = vectors if step == "upsert" else NOTHING
                    shard.write([(step, version_ns, np.array(ids), given)])
                case "begin" if compaction is None:
                    compaction = shard.begin_compaction()
                case "adopt" if compaction is not None:
                    make_segment(shard, *compaction)
                    shard.adopt(compaction[1])
                    compaction = None
                case "abandon" if compaction is not None:
                    shard.abandon_compaction()
                    compaction = None
                case "reopen":
                    shard.close()
                    shard = Shard(small, 0, state)
                    compaction = None
            check_holds_exactly(shard, model)
        shard.close()
        shard = Shard(small, 0, state)
        check_holds_exactly(shard, model)


def check_holds_exactly(shard: Shard, model: Model) -> None:
    rows, found = shard.lookup(np.arange(41))
    assert set(np.flatnonzero(found).tolist()) == model.rows.keys()
    for row_id, row in model.rows.items():
        np.testing.assert_array_equal(rows[row_id], row)
    assert shard.counts().rows == len(model.rows)
    if model.rows:
        check_searches(shard, model.rows)


@pytest.fixture(scope="module")
def small(make_generation: MakeGeneration, random_vectors: RandomVectors) -> Path:
    """A flat generation of the even ids below 40."""
    return make_generation(random_vectors(20, seed=7), np.arange(0, 40, 2), metric="l2")
