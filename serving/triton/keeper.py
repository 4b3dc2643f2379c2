"""The process that holds tritonserver for whoever launched it: `python -m serving.triton.keeper`.

It reads an Order (one JSON document) from stdin and writes Reports (JSON lines) to stdout; its
stderr is the server's log. It ends the server when it gets SIGTERM or when the launcher is gone,
however that came about, and starts it again when it dies. Killed itself, it takes the server along
(PR_SET_PDEATHSIG). It lives in a session of its own, so a Ctrl-C in the terminal reaches only the
launcher, which may drain before it stops Triton.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from models.manifest import ManifestError, Record
from models.signature import discard_bytecode, verify_signature
from serving.triton.command import EXIT_TIMEOUT_S, server_command, server_environment
from serving.triton.installation import Installation, backend_directory
from serving.triton.ports import Ports
from serving.triton.restart import restart_delay_s
from serving.triton.server import (
    POLL_S,
    Server,
    dead_model_processes,
    describe_failure,
    end_server,
    how_it_ended,
    is_ready,
    start_server,
)
from serving.triton.shared_memory import claimed_prefix, remove_regions

STOP_GRACE_S = EXIT_TIMEOUT_S + 2.0
MODEL_PROCESS_CHECK_S = 2.0


class Order(Record):
    """What to serve, where, and for which process; without `trusted_key` nothing is verified.

    `explicit` servers let their clients load and unload models.
    """

    installation: Installation
    repository: Path
    trusted_key: Path | None
    host: str
    probe_host: str
    ports: Ports
    ready_timeout_s: float
    launcher_pid: int
    explicit: bool = False


class Report(Record):
    """What became of the server. `failed` and `stopped` are final."""

    state: Literal["starting", "ready", "restarting", "failed", "stopped"]
    server_pid: int | None = None
    reason: str | None = None


class Failure(Record):
    """Why a server was ended although nobody asked for it."""

    reason: str
    was_ready: bool


def main() -> None:
    """Carry out the order on stdin."""
    order = Order.model_validate_json(sys.stdin.buffer.read())
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    files = order.installation.backend_files
    with claimed_prefix() as prefix, backend_directory(files) as backends:
        command = server_command(
            order.installation.binary,
            order.repository,
            order.host,
            order.ports,
            backends,
            prefix,
            explicit=order.explicit,
        )
        environment = server_environment(order.installation, os.environ)

        def start() -> Server:
            remove_regions(prefix)  # those of the server before
            return start_server(command, environment, sys.stderr.fileno())

        def should_stop() -> bool:
            return bool(asked) or os.getppid() != order.launcher_pid

        keep(order, start, should_stop)


def keep(order: Order, start: Callable[[], Server], should_stop: Callable[[], bool]) -> None:
    """Keep a server running until told to stop, or until it fails too often.

    A server that never became ready is not started again: the same start would fail again.
    """
    died_at_s: list[float] = []
    was_ready = False
    while not should_stop():
        failure = follow(start(), order, should_stop)
        if failure is None:
            break
        died_at_s.append(time.monotonic())
        was_ready = was_ready or failure.was_ready
        delay_s = restart_delay_s(died_at_s, died_at_s[-1])
        if delay_s is None or not was_ready:
            report(Report(state="failed", reason=failure.reason))
            return
        report(Report(state="restarting", reason=failure.reason))
        wait(delay_s, should_stop)
        tampering = find_tampering(order)
        if tampering is not None:
            report(Report(state="failed", reason=tampering))
            return
    report(Report(state="stopped"))


def find_tampering(order: Order) -> str | None:
    """What is no longer as it was signed, in words; the launcher looked before the first start."""
    if order.trusted_key is None:
        return None
    try:
        discard_bytecode(order.repository)
        verify_signature(order.repository, order.trusted_key)
    except ManifestError as error:
        return str(error)
    return None


def follow(server: Server, order: Order, should_stop: Callable[[], bool]) -> Failure | None:
    """Follow one server until it is over, and end it; None when `should_stop` said so."""
    report(Report(state="starting", server_pid=server.pid))
    health = Health(server)
    deadline_s = time.monotonic() + order.ready_timeout_s
    ready = False
    while not should_stop():
        problem = health.problem()
        if problem is None and not ready:
            if is_ready(order.probe_host, order.ports):
                ready = True
                report(Report(state="ready", server_pid=server.pid))
            elif time.monotonic() > deadline_s:
                problem = f"it was not ready within {order.ready_timeout_s:g} s"
        if problem is not None:
            end_server(server, grace_s=0)
            return Failure(reason=describe_failure(server, problem), was_ready=ready)
        time.sleep(POLL_S)
    end_server(server, STOP_GRACE_S)
    return None


class Health:
    """What is wrong with a server, asked again and again."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._dead: set[int] = set()
        self._check_at_s = time.monotonic() + MODEL_PROCESS_CHECK_S

    def problem(self) -> str | None:
        """Why the server must be ended, in words; None while it is well."""
        ended = how_it_ended(self._server)
        if ended is not None or time.monotonic() < self._check_at_s:
            return ended
        self._check_at_s = time.monotonic() + MODEL_PROCESS_CHECK_S
        dead_before, self._dead = self._dead, dead_model_processes(self._server)
        # Dead at two checks: one that ends in good order is dead only until the server reaps it.
        return "a model's process died (out of memory?)" if dead_before & self._dead else None


def wait(seconds: float, should_stop: Callable[[], bool]) -> None:
    """Wait, or until told to stop."""
    end_s = time.monotonic() + seconds
    while not should_stop() and time.monotonic() < end_s:
        time.sleep(POLL_S)


def report(news: Report) -> None:
    """Tell the launcher, if it is still there."""
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), news.model_dump_json().encode() + b"\n")


if __name__ == "__main__":
    main()
