"""The stack under test: one that runs already, or one started for this test and then stopped."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
from rich.console import Console

from loadtest.errors import StackError
from models.manifest import Manifest

READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.1
LOG_TAIL_LINES = 20


@contextlib.contextmanager
def running_stack(port: int, repository: Path, log: Path, console: Console) -> Iterator[str]:
    """The gateway's URL on this machine; starts `python -m serving` when nothing answers there.

    A stack that was started here is stopped on the way out, whatever happens inside. Raises
    StackError when it does not become ready, with the last lines of its log.
    """
    url = f"http://127.0.0.1:{port}"
    if is_ready(url):
        console.print(f"using the stack that runs on port {port}")
        yield url
        return
    with contextlib.ExitStack() as exits:
        with console.status(f"starting the stack on port {port} (log: {log})"):
            command = serve_command(repository, port)
            exits.enter_context(started(command, log, lambda: is_ready(url)))
        yield url


@contextlib.contextmanager
def started(command: Sequence[str], log: Path, ready: Callable[[], bool]) -> Iterator[None]:
    """A process from the moment it is ready; it is stopped on the way out, whatever happens.

    It leads a session of its own, so that Ctrl-C in the terminal reaches it only through us. Raises
    StackError when it does not become ready, with the last lines of its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_ready(ready, process, log)
        yield
    finally:
        stop(process)


def serve_command(repository: Path, port: int) -> list[str]:
    """The command that serves a repository: Triton and the gateway."""
    options = ["--repository", str(repository), "--host", "127.0.0.1", "--port", str(port)]
    return [sys.executable, "-m", "serving", *options]


def is_ready(url: str) -> bool:
    """Whether a gateway answers there and its model does too."""
    try:
        return httpx.get(f"{url}/readyz", timeout=5.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def check_model(url: str, manifest: Manifest) -> None:
    """Embed one text and compare the digest in the answer with the manifest's.

    Raises StackError when the stack serves other bytes than those that the report would name.
    """
    request = {"model": manifest.name, "input": "is this the model we measure"}
    try:
        response = httpx.post(f"{url}/v1/embeddings", json=request, timeout=30.0, trust_env=False)
    except httpx.HTTPError as error:
        raise StackError(f"{url} does not answer ({error}): start it with `make serve`") from error
    if response.status_code != 200:
        raise StackError(
            f"{url} refused a test request for {manifest.name!r} with {response.status_code} "
            f"({response.text[:200]}): stop it, or name the repository that it serves"
        )
    served = response.json().get("farshore", {}).get("digest")
    if served != manifest.digest:
        raise StackError(
            f"{url} serves another model (digest {str(served)[:12]}) than the repository holds "
            f"({manifest.digest[:12]}): restart it, or name the repository that it serves"
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGINT, so that it can stop its own Triton; after a deadline SIGKILL to its whole session."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_ready(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while not ready():
        status = process.poll()
        if status is not None:
            raise StackError(f"the {log.stem} process ended with status {status}; {_log_tail(log)}")
        if time.monotonic() > deadline_s:
            raise StackError(
                f"the {log.stem} process is not ready after {READY_TIMEOUT_S:.0f} s; {_log_tail(log)}"
            )
        time.sleep(POLL_S)


def _log_tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return f"the end of {log}:\n" + "\n".join(lines)
