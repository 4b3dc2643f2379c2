"""`python -m serving`: what an operator sees when it starts, when Triton dies, when it stops."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from models.manifest import read_manifest
from serving.errors import ModelUnavailableError
from serving.stack import Backend, wait_ready
from serving.triton.launch import run_triton
from serving.triton.ports import check_port_free

pytestmark = pytest.mark.triton

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Serving:
    """A running `python -m serving`."""

    process: subprocess.Popen[bytes]
    url: str
    stdout: Path
    stderr: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def ask(self, texts: list[str] | None = None) -> httpx.Response:
        body = {"model": "search-encoder", "input": texts or ["hello"]}
        return httpx.post(f"{self.url}/v1/embeddings", json=body, timeout=30)

    def status(self, path: str) -> int:
        return httpx.get(self.url + path, timeout=30).status_code

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def descendant(self, name: str) -> psutil.Process:
        """The process below this one whose command line holds `name`."""
        return next(one for one in self.descendants() if name in " ".join(one.cmdline()))


@contextmanager
def serving(directory: Path, *arguments: object) -> Iterator[Serving]:
    """Start it in `directory` on a free port; it is up when it says so."""
    out, err = directory / "stdout", directory / "stderr"
    command = [sys.executable, "-m", "serving", "--port", "0", *map(str, arguments)]
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(command, cwd=directory, stdout=stdout, stderr=stderr)
    try:
        eventually(lambda: "Ctrl-C stops it" in out.read_text() or process.poll() is not None)
        found = re.search(r"http://127\.0\.0\.1:\d+", out.read_text())
        assert found, err.read_text()
        yield Serving(process, found[0], out, err)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def eventually(condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s, "it did not come to pass"
        time.sleep(0.05)


def test_a_killed_triton_is_503_until_it_is_back(packaged_repository: Path, tmp_path: Path):
    with serving(tmp_path, "--repository", packaged_repository) as served:
        assert served.ask().status_code == 200
        served.descendant("tritonserver").kill()
        eventually(lambda: served.ask().status_code == 503)
        refused = served.ask()
        assert refused.headers["Retry-After"] == "1"
        message = refused.json()["error"]["message"]
        assert "Triton is not answering" in message
        assert f"build/run/triton-{served.port}.log" in message
        eventually(lambda: served.ask().status_code == 200)
        eventually(lambda: served.status("/readyz") == 200)
        assert "Triton answers again" in served.stderr.read_text()


def test_a_triton_that_is_gone_for_good_is_announced_once_and_the_gateway_stays(
    packaged_repository: Path, tmp_path: Path
):
    with serving(tmp_path, "--repository", packaged_repository) as served:
        assert served.status("/readyz") == 200
        served.descendant("serving.triton.keeper").kill()  # which nobody restarts
        eventually(lambda: served.ask().status_code == 503)
        eventually(lambda: served.status("/readyz") == 503)
        eventually(lambda: "gateway answers 503" in served.stderr.read_text())
        assert served.status("/healthz") == 200
        assert served.stderr.read_text().count("Triton died") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_answers_what_is_in_flight_and_leaves_nothing_behind(
    packaged_repository: Path, tmp_path: Path, number: signal.Signals
):
    replies: list[int] = []
    with serving(tmp_path, "--repository", packaged_repository) as served:
        family = served.descendants()
        keeper_pid = served.descendant("serving.triton.keeper").pid
        texts = [f"a question to drain, number {index}" for index in range(300)]
        asking = threading.Thread(target=lambda: replies.append(served.ask(texts).status_code))
        asking.start()
        # The request that reads the metrics is in flight too.
        eventually(lambda: in_flight(served) >= 2 or bool(replies))
        served.process.send_signal(number)
        assert served.process.wait(PATIENCE_S) == 0
        asking.join()
    assert replies == [200]
    assert len(family) >= 3  # the keeper, Triton and the model's own process
    assert not [process for process in family if process.is_running()]
    assert not list(Path("/dev/shm").glob(f"farshore-{keeper_pid}-*"))
    check_port_free("127.0.0.1", served.port)
    assert served.stderr.read_text() == ""


def in_flight(served: Serving) -> float:
    metrics = httpx.get(f"{served.url}/metrics", timeout=30).text
    found = re.search(r"^farshore_gateway_in_flight (\S+)", metrics, re.MULTILINE)
    assert found
    return float(found[1])


def test_a_triton_that_someone_else_runs_is_used_and_left_running(
    packaged_repository: Path, tmp_path: Path
):
    with run_triton(packaged_repository, log_path=tmp_path / "triton.log") as triton:
        arguments = ("--repository", packaged_repository, "--triton-url", triton.grpc_url)
        with serving(tmp_path, *arguments) as served:
            assert served.ask().status_code == 200
            assert served.descendants() == []
        assert triton.is_alive()


def test_a_triton_that_never_answers_is_refused_with_its_address(packaged_repository: Path):
    with socket.socket() as silent:  # bound but not listening: connections are refused
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        manifest = read_manifest(packaged_repository)
        with pytest.raises(ModelUnavailableError, match=address):
            wait_ready(Backend(address, ""), manifest, timeout_s=0.2)


def test_a_taken_port_is_refused_before_triton_starts(packaged_repository: Path, tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = run_once(tmp_path, "--repository", str(packaged_repository), "--port", port)
    assert ended.returncode == 1
    assert f"port {port}" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "starting Triton" not in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--repository", "nowhere"], "make optimize"),
        (["--deadline-s", "0"], "FARSHORE_DEADLINE_S"),
    ],
)
def test_what_cannot_be_served_is_one_line_that_says_what_to_do(
    tmp_path: Path, arguments: list[str], words: str
):
    ended = run_once(tmp_path, *arguments)
    assert ended.returncode == 1
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def run_once(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serving", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
