"""The load test against the real stack: Triton and the gateway, started and stopped by it."""

import socket
import subprocess
import sys

import pytest
from rich.console import Console

from loadtest.report import read_report
from loadtest.stack import is_ready, running_stack
from models.manifest import read_manifest

pytestmark = pytest.mark.triton


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def loadtest(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


def test_a_run_starts_the_stack_measures_it_and_stops_it(packaged_repository, tmp_path):
    port, output = free_port(), tmp_path / "loadtest"
    load = ("--rate", 10, "--duration", 5, "--warmup", 1)
    target = ("--port", port, "--repository", packaged_repository, "--output", output)
    done = loadtest("run", *load, *target)

    report = read_report(output / "report.json")
    assert done.returncode == (3 if report.result.generator_saturated else 0), done.stdout
    assert report.model.digest == read_manifest(packaged_repository).digest
    assert report.result.served == report.result.planned > 0
    assert report.cost is not None
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0  # nothing serves any more

    page = tmp_path / "demo" / "index.html"
    places = ("--loadtest", output / "report.json", "--optimize", tmp_path / "none.json")
    joined = loadtest(
        "summary", "--repository", packaged_repository, *places, "--output", page.parent
    )
    assert joined.returncode == 0, joined.stdout
    assert "from demo to production" in page.read_text()


def test_a_stack_is_stopped_when_the_test_in_it_fails(packaged_repository, tmp_path):
    console, log = Console(quiet=True), tmp_path / "serve.log"

    def fail_inside() -> None:
        with running_stack(free_port(), packaged_repository, log, console) as url:
            urls.append(url)
            assert is_ready(url)
            raise KeyboardInterrupt

    urls: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        fail_inside()
    assert not is_ready(urls[0])


def test_a_stack_that_cannot_start_shows_the_end_of_its_log(packaged_repository, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = loadtest(
            "run", "--port", port, "--repository", packaged_repository, "--output", tmp_path
        )
    assert done.returncode == 1
    assert "the end of" in done.stdout
    assert str(port) in (tmp_path / "serve.log").read_text()
