"""A Ray cluster on one machine: raylets with an address and memory of their own, which can be killed."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from serving.triton.shared_memory import remove_stale_regions

MACHINE = Path(__file__).with_name("ray_machine.py")
# 127.0.0.1 Ray takes for an address that nobody else reaches.
HEAD, *OTHERS = HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
CPUS = 4
OBJECT_STORE_BYTES = 80 * 2**20  # a little above the least that Ray takes
DEADLINE_S = 90.0

# Nothing is sent to anybody, Ray ends no process for the memory that others take, and it asks each machine
# every second, not every three: the fifth time without an answer it counts as dead.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "OMP_NUM_THREADS": "1",
}


@dataclass
class Machines:
    """The machines of a cluster, by address. `port` is that of the head."""

    port: int
    memory_bytes: int
    temporary: Path
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """What `--address` takes."""
        return f"{HEAD}:{self.port}"

    def start(self, host: str) -> None:
        """Have a machine join, the head first; back when it did."""
        log = self.temporary / f"{host}.log"
        words = [Path(sys.executable).with_name("ray"), "start", "--block", *self.options(host)]
        with log.open("wb") as output:
            self.running[host] = subprocess.Popen(
                [sys.executable, str(MACHINE), *map(str, words)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment() | {"RAY_TMPDIR": str(self.temporary)},
                start_new_session=True,  # a Ctrl-C reaches the tests alone, which end it then
            )
        wait_for(lambda: "runtime started" in log.read_text(), f"Ray on {host}", log)

    def options(self, host: str) -> list[str]:
        """What `ray start` is told."""
        common = [f"--node-ip-address={host}", f"--num-cpus={CPUS}", "--num-gpus=0"]
        common += [f"--memory={self.memory_bytes}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        common += ["--min-worker-port=0", "--max-worker-port=0"]  # free ones
        if host != HEAD:
            return [*common, f"--address={self.address}"]
        head = ["--head", f"--port={self.port}", "--include-dashboard=false"]
        return [*common, *head, f"--ray-client-server-port={free_port(host)}"]

    def kill(self, host: str) -> None:
        """End a machine as a cut of its power would: all of its processes, nothing said to anybody."""
        machine = self.running.pop(host)
        assert machine.stdin is not None
        machine.stdin.close()
        machine.wait(DEADLINE_S)
        remove_stale_regions()  # the memory of a machine would be gone too


@contextmanager
def running_machines(memory_bytes: int) -> Iterator[Machines]:
    """A cluster whose machines offer so much memory each; nothing of it is left afterwards."""
    temporary = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: sockets lie below
    machines = Machines(free_port(HEAD), memory_bytes, temporary)
    try:
        for host in HOSTS:
            machines.start(host)
        yield machines
    finally:
        for host in list(machines.running):
            machines.kill(host)
        shutil.rmtree(temporary, ignore_errors=True)


def servers_of(index: Path) -> list[psutil.Process]:
    """The tritonservers that serve an index."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "tritonserver"
        and str(index) in " ".join(process.info["cmdline"] or ())
    ]


def environment() -> dict[str, str]:
    return {**os.environ, **ENVIRONMENT}


def free_port(host: str) -> int:
    with socket.socket() as listener:
        listener.bind((host, 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(happens: Callable[[], bool], what: str, log: Path | None = None) -> None:
    """Wait until something happens; if it does not, the log says more."""
    end_s = time.monotonic() + DEADLINE_S
    while not happens():
        said = log.read_text() if log else ""
        assert time.monotonic() < end_s, f"waited {DEADLINE_S:g} s for {what}\n{said}"
        time.sleep(0.1)
