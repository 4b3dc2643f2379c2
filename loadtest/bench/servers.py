"""The servers that a bench compares, each started as a user would and stopped afterwards."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from loadtest.errors import StackError
from loadtest.stack import is_ready, stop

READY_TIMEOUT_S = 120.0
POLL_S = 0.1
LOG_TAIL_BYTES = 2000


@contextlib.contextmanager
def triton(repository: Path, work: Path, name: str, *, edited: bool = False) -> Iterator[str]:
    """Triton alone on a repository; yields its gRPC address (host:port).

    `edited` repositories are served although they are not what their manifest says. Logs go to
    `work`. Raises StackError when it does not become ready.
    """
    ready_file = work / f"{name}.json"
    command = [sys.executable, "-m", "serving.triton", "--repository", str(repository)]
    command += ["--ready-file", str(ready_file), "--log-file", str(work / f"{name}-server.log")]
    command += ["--unverified"] if edited else []
    with started(command, work / f"{name}.log", ready_file.is_file):
        yield f"127.0.0.1:{json.loads(ready_file.read_bytes())['grpc']}"


@contextlib.contextmanager
def gateway(repository: Path, work: Path, triton_address: str) -> Iterator[str]:
    """The gateway in front of a Triton that runs; yields its address (host:port).

    Raises StackError when it does not become ready.
    """
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "serving", "--repository", str(repository)]
    command += ["--port", address.rpartition(":")[2], "--triton-url", triton_address]
    with started(command, work / "gateway.log", lambda: is_ready(f"http://{address}")):
        yield address


@contextlib.contextmanager
def started(command: Sequence[str], log: Path, ready: Callable[[], bool]) -> Iterator[None]:
    """A process from the moment it is ready; it is stopped on the way out, whatever happens.

    It leads a session of its own, so that Ctrl-C in the terminal reaches it only through us.
    """
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until(ready, process, log)
        yield
    finally:
        stop(process)


def free_port() -> int:
    """A TCP port of the loopback address that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while not ready():
        status = process.poll()
        if status is not None or time.monotonic() > deadline_s:
            tail = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
            what = f"is not ready after {READY_TIMEOUT_S:.0f} s" if status is None else "ended"
            raise StackError(f"{log.stem} {what}: remove the cause and try again\n{tail}")
        time.sleep(POLL_S)
