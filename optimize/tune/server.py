"""The two other processes of a trial: Triton on a repository, and the load generator that asks it.

Both are used as anyone would use them, by command line and JSON: `python -m serving.triton` and
`python -m loadtest.probe`.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from optimize.errors import TuneError
from optimize.tune.objective import Probed

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.05
LOG_TAIL_LINES = 3
PR_SET_PDEATHSIG = 1  # prctl(2)
LIBC = ctypes.CDLL(None)

Probe = Callable[[float, int], Probed]  # rate per second, seed -> one window


@dataclass(frozen=True)
class Load:
    """What each window sends: for `seconds` after `warmup_s`, until p99 cannot hold `max_p99_ms`.

    `items` is a file of JSON lines with a text for each of `inputs`.
    """

    model: str
    inputs: tuple[str, ...]
    items: Path
    seconds: float
    max_p99_ms: float
    warmup_s: float = 0.5


@dataclass(frozen=True)
class Server:
    """A Triton that serves: its gRPC address, and its launcher's process."""

    address: str
    pid: int

    def memory_bytes(self) -> int:
        """Resident memory of tritonserver and of its model processes, without those that keep it.

        Raises TuneError when they are gone.
        """
        try:
            (keeper,) = psutil.Process(self.pid).children()
            found = [process.memory_info().rss for process in keeper.children(recursive=True)]
        except (psutil.Error, ValueError) as error:
            raise TuneError("Triton ended during the trial: see triton.log") from error
        return sum(found)


@contextlib.contextmanager
def served(repository: Path, work: Path) -> Iterator[Server]:
    """Triton on an unsigned copy of a repository, stopped on the way out; its logs lie in `work`.

    Raises TuneError, with its reason, when it does not become ready.
    """
    ready, log = work / "triton.json", work / "launcher.log"
    command = [sys.executable, "-m", "serving.triton", "--repository", str(repository)]
    command += ["--unverified", "--ready-file", str(ready), "--log-file", str(work / "triton.log")]
    with log.open("wb") as stream, ended(start(command, stream, subprocess.DEVNULL)) as process:
        wait_until_ready(process, ready, log)
        where = json.loads(ready.read_bytes())
        yield Server(f"127.0.0.1:{where['grpc']}", where["pid"])


@contextlib.contextmanager
def prober(server: Server, load: Load, work: Path) -> Iterator[Probe]:
    """A load generator for a served model; calling it with a rate and a seed gives one window.

    A call raises TuneError, with the generator's words, when it ended early.
    """
    target = {
        "address": server.address,
        "model": load.model,
        "inputs": load.inputs,
        "items": str(load.items),
    }
    command = [sys.executable, "-m", "loadtest.probe", json.dumps(target)]
    log = work / "probe.log"
    with log.open("wb") as stream, ended(start(command, stream, subprocess.PIPE)) as process:

        def probe(rate_per_s: float, seed: int) -> Probed:
            order = {
                "rate_per_s": rate_per_s,
                "seconds": load.seconds,
                "warmup_s": load.warmup_s,
                "seed": seed,
                "max_p99_ms": load.max_p99_ms,
            }
            answer = json.loads(ask(process, json.dumps(order), log))
            return Probed(**{name: answer[name] for name in Probed.model_fields})

        yield probe


def start(command: Sequence[str], log: IO[bytes], pipe: int) -> subprocess.Popen[bytes]:
    """A process in a session of its own, so that Ctrl-C in the terminal reaches it only through us.

    It gets SIGTERM when this thread is gone, even killed: no server goes on that nobody asks any more.
    """
    return subprocess.Popen(
        command, stdin=pipe, stdout=log if pipe == subprocess.DEVNULL else pipe, stderr=log,
        start_new_session=True, preexec_fn=end_with_parent,
    )  # fmt: skip


def end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process once the thread that started it is gone."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def ask(process: subprocess.Popen[bytes], order: str, log: Path) -> bytes:
    """One line to the process and the line that it answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # then there is no answer either
        process.stdin.write(order.encode() + b"\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        process.wait()
        raise TuneError(f"the load generator ended early: {last_words(log)}")
    return answer


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Stop a process on the way out, whatever happens: SIGINT first, so that it can tidy up."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def wait_until_ready(process: subprocess.Popen[bytes], ready: Path, log: Path) -> None:
    """Wait for the file that says where the server listens."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while not ready.is_file():
        if process.poll() is not None:
            raise TuneError(f"Triton did not start: {last_words(log)}")
        if time.monotonic() > deadline_s:
            raise TuneError(f"Triton was not ready after {READY_TIMEOUT_S:.0f} s: see {log.parent}")
        time.sleep(POLL_S)


def last_words(log: Path) -> str:
    """The end of a log, for a message."""
    lines = log.read_text(errors="replace").strip().splitlines()[-LOG_TAIL_LINES:]
    return " ".join(lines) or f"without a word, see {log.parent}"
