"""One tritonserver process: started, observed and ended by its keeper."""

import ctypes
import http.client
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from serving.triton.log import failure_reason, last_messages, read_log
from serving.triton.ports import Ports

PR_SET_PDEATHSIG = 1  # prctl(2)
PROBE_TIMEOUT_S = 1.0
POLL_S = 0.1

_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Server:
    """A tritonserver that leads a process group of its own, which its model processes join."""

    process: subprocess.Popen[bytes]
    log: int
    log_start_byte: int

    @property
    def pid(self) -> int:
        return self.process.pid


def start_server(command: Sequence[str], environment: Mapping[str, str], log: int) -> Server:
    """Start a server that writes to the file descriptor `log` and dies with this process."""
    log_start_byte = os.fstat(log).st_size
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    return Server(process, log, log_start_byte)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends, however it ends."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def how_it_ended(server: Server) -> str | None:
    """How the process ended, in words; None while it runs.

    It stays unreaped until `end_server`, so that its pid still names its process group.
    """
    ended = os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        return None
    if ended.si_code == os.CLD_EXITED:
        return f"it exited with status {ended.si_status}"
    hint = " (out of memory?)" if ended.si_status == signal.SIGKILL else ""
    return f"it was killed by {signal.Signals(ended.si_status).name}{hint}"


def is_ready(host: str, ports: Ports) -> bool:
    """Whether the server and every model are ready, and the metrics answer."""
    return _answers(host, ports.http, "/v2/health/ready") and _answers(
        host, ports.metrics, "/metrics"
    )


def dead_model_processes(server: Server) -> set[int]:
    """The pids of model processes that died and that the server has not noticed.

    Triton never reaps nor restarts them: a model whose process was killed stays "ready" and fails
    every request, and a process that dies while loading is waited for without end.
    """
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(server.pid).children()
        return {child.pid for child in children if _is_zombie(child)}
    return set()


def end_server(server: Server, grace_s: float) -> None:
    """Ask the server to stop, kill what is left after `grace_s` seconds, and reap it."""
    if grace_s > 0:
        with suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGTERM)
        deadline_s = time.monotonic() + grace_s
        while how_it_ended(server) is None and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
    kill_group(server.pid)
    server.process.wait()


def kill_group(group: int) -> None:
    """Kill a server's process group: the server itself and its model processes."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def describe_failure(server: Server, what_happened: str) -> str:
    """Why the server failed: its own words if it said, else what happened and its last lines."""
    text = read_log(server.log, server.log_start_byte)
    reason = failure_reason(text)
    if reason:
        return reason
    return "\n  ".join([f"{what_happened}; its last messages:", *last_messages(text, 5)])


def _answers(host: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
