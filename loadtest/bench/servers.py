"""The servers that a bench compares, each started as a user would and stopped afterwards."""

import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from loadtest.stack import is_ready, started


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


def free_port() -> int:
    """A TCP port of the loopback address that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
