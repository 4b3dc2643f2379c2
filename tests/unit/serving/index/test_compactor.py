"""Compactions in a process of their own."""

import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.index import compactor as compactor_module
from serving.index.compactor import Compactor, yield_to_others
from serving.index.generation import TRAINED_NAME
from serving.index.metric import Vectors
from serving.index.shard import Shard

RandomVectors = Callable[..., Vectors]
MakeGeneration = Callable[..., Path]
OpenShard = Callable[..., Shard]


@pytest.fixture(autouse=True)
def python3_of_this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As inside Triton."""
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(paths))


@pytest.fixture
def shard(
    make_generation: MakeGeneration, random_vectors: RandomVectors, open_shard: OpenShard
) -> Shard:
    """Twenty rows, of which one changed."""
    shard = open_shard(make_generation(random_vectors(20)))
    shard.write([("upsert", 1, np.array([7]), np.ones((1, 8), np.float32))])
    return shard


def test_it_has_the_shard_serve_what_its_process_made(shard: Shard) -> None:
    compactor = Compactor(shard)
    compactor.start()
    compactor.start()  # one at a time
    compactor.wait()
    assert not compactor.running
    assert compactor.last_error == ""
    assert shard.counts().segment == "segment-000002"
    assert shard.counts().changes == 0
    assert shard.lookup(np.array([7]))[0].tolist() == [[1.0] * 8]


def test_one_that_fails_says_why_and_changes_nothing(
    shard: Shard, caplog: pytest.LogCaptureFixture
) -> None:
    trained = shard.base.parent / TRAINED_NAME
    trained.rename(trained.with_name("away"))
    compactor = Compactor(shard)
    with caplog.at_level(logging.CRITICAL):
        compactor.start()
        compactor.wait()
    assert str(trained) in compactor.last_error
    assert shard.counts().changes == 1
    trained.with_name("away").rename(trained)
    compactor.start()
    compactor.wait()
    assert compactor.last_error == ""
    assert shard.counts().changes == 0


def test_one_that_is_stopped_leaves_the_shard_as_it_was(shard: Shard, tmp_path: Path) -> None:
    compactor = Compactor(shard)
    compactor.start()
    while compactor._process is None and compactor.running:
        pass
    compactor.stop()
    assert not compactor.running
    assert shard.counts().changes == 1
    assert shard.lookup(np.array([7]))[0].tolist() == [[1.0] * 8]
    assert not [*(tmp_path / "state").glob(".segment-*")]


def test_a_disk_without_room_for_another_log_is_told_and_writes_go_on(
    shard: Shard, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "state/.log-000002.tmp"
    in_the_way.mkdir()
    compactor = Compactor(shard)
    compactor.start()
    assert not compactor.running
    assert "log-000002" in compactor.last_error
    in_the_way.rmdir()
    assert shard.write([("delete", 1, np.array([7]), np.empty((0, 0), np.float32))]) == 2
    compactor.start()
    compactor.wait()
    assert compactor.last_error == ""
    assert shard.counts().segment == "segment-000002"


def test_it_begins_by_itself_when_enough_has_changed_and_not_before(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compactor_module, "MIN_CHANGES", 1)
    compactor = Compactor(shard)
    compactor.start_if_due()
    assert not compactor.running
    Compactor(shard, automatic=False).start_if_due()
    shard.write([("upsert", 1, np.array([8]), np.ones((1, 8), np.float32))])
    compactor.start_if_due()
    assert compactor.running
    compactor.wait()
    assert shard.counts().changes == 0


def test_one_waits_until_no_other_shard_of_the_node_compacts(shard: Shard, tmp_path: Path) -> None:
    compactor = Compactor(shard, turn=tmp_path / "compacting")
    with (tmp_path / "compacting").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        compactor.start()
        compactor._thread.join(0.5)  # type: ignore[union-attr]
        assert compactor.running
        assert compactor._process is None
    compactor.wait()
    assert compactor.last_error == ""
    assert shard.counts().segment == "segment-000002"


def test_one_that_waits_for_its_turn_can_be_stopped(shard: Shard, tmp_path: Path) -> None:
    compactor = Compactor(shard, turn=tmp_path / "compacting")
    with (tmp_path / "compacting").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        compactor.start()
        compactor.stop()
    assert "before its turn came" in compactor.last_error
    assert shard.counts().changes == 1


def test_its_process_runs_where_no_other_would_and_leaves_cores_alone() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            yield_to_others(process.pid)
            assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
            assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
            mine = os.sched_getaffinity(0)
            taken = os.sched_getaffinity(process.pid)
            assert taken <= mine
            assert len(taken) == max(1, (len(mine) + 1) // 2)
        finally:
            process.kill()
