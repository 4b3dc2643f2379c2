"""Runs compactions of one shard in the background and has it adopt what they made."""

import fcntl
import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import psutil

from serving.errors import ServingError
from serving.index.shard import Shard

log = logging.getLogger(__name__)

# A delta is searched row by row and held in memory: past these it pays to take it in.
MIN_CHANGES = 10_000
MAX_SHARE = 0.05  # of the shard's rows
RETRY_S = 60.0  # after one that failed
TURN_POLL_S = 0.2


class Compactor:
    """At most one compaction at a time, also of all shards that share `turn`; `last_error` says why the last
    one failed.
    """

    def __init__(self, shard: Shard, *, automatic: bool = True, turn: Path | None = None) -> None:
        """`turn` is a file that the shards of a node lock in turn: so memory for one compaction is enough."""
        self._shard = shard
        self._automatic = automatic
        self._turn_path = turn
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._not_before_s = 0.0
        self.last_error = ""

    @property
    def running(self) -> bool:
        """Whether one is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start_if_due(self) -> None:
        """Start one when enough has changed."""
        counts = self._shard.counts()
        if time.monotonic() < self._not_before_s:
            return
        if self._automatic and counts.changes > max(MIN_CHANGES, MAX_SHARE * counts.rows):
            self.start()

    def start(self) -> None:
        """Start one unless one is under way."""
        if self.running:
            return
        try:
            logs, destination = self._shard.begin_compaction()
        except OSError as error:  # no space for another log
            self._failed(error)
            return
        self._thread = threading.Thread(target=self._run, args=(logs, destination), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when none is under way."""
        if self._thread is not None:
            self._thread.join()

    def stop(self) -> None:
        """End the one under way; what it made so far is removed when the shard is opened again."""
        self._stopping.set()
        if self._process is not None:
            self._process.kill()
        self.wait()

    def _run(self, logs: list[Path], destination: Path) -> None:
        try:
            with self._turn():
                self._make(logs, destination)
                self._shard.adopt(destination)
            self.last_error = ""
        except (ServingError, OSError, subprocess.SubprocessError) as error:
            self._failed(error)
            self._shard.abandon_compaction()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until no other shard of the node compacts. Raises SubprocessError when this one is stopped."""
        if self._turn_path is None:
            yield
            return
        with self._turn_path.open("wb") as held:
            while not taken(held):
                if self._stopping.wait(TURN_POLL_S):
                    raise subprocess.SubprocessError("the shard was stopped before its turn came")
            yield

    def _failed(self, error: Exception) -> None:
        self.last_error = str(error)
        self._not_before_s = time.monotonic() + RETRY_S
        log.error("compaction of %s failed: %s", self._shard.base, error)

    def _make(self, logs: list[Path], destination: Path) -> None:
        shard = self._shard
        segment = shard.directory / shard.state.segment if shard.state.segment else shard.base
        # Inside Triton sys.executable is not this environment's; its python3 comes first on PATH.
        python = shutil.which("python3") or "python3"
        places = (shard.base.parent, segment, destination, os.getpid(), *logs)
        command = [python, "-m", "serving.index.compact", *map(str, places)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE)
        # From here: by itself it could do so only after half a second of imports.
        yield_to_others(self._process.pid)
        _, said = self._process.communicate()
        if self._process.returncode:
            last = said.decode(errors="replace").strip().splitlines()[-1:]
            raise subprocess.SubprocessError(
                f"the process ended with status {self._process.returncode}: {' '.join(last)}"
            )


def yield_to_others(pid: int) -> None:
    """Let a process run where no other would, and on half of the cores at most.

    A core that always has something to run never looks for work that waits on another (Linux: newidle
    balance), until the next tick. Measured with one core of two left free: searches' p99 stays as it is; with
    none, it doubles.
    """
    cores = sorted(os.sched_getaffinity(pid))
    os.sched_setaffinity(pid, cores[len(cores) // 2 :])
    os.setpriority(os.PRIO_PROCESS, pid, 19)
    os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    psutil.Process(pid).ionice(psutil.IOPRIO_CLASS_IDLE)


def taken(file: BinaryIO) -> bool:
    """Whether the lock of a file could be taken; it is held until the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
