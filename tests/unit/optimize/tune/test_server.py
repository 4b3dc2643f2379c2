import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from optimize.errors import TuneError
from optimize.tune.server import ask, ended, start, wait_until_ready

STARTER = """
import subprocess, sys
from optimize.tune.server import start
with open(sys.argv[1], "wb") as log:
    process = start([sys.executable, "-c", "import signal; signal.pause()"], log, subprocess.DEVNULL)
    print(process.pid, flush=True)
    input()
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_what_a_search_started_ends_when_the_search_is_killed(tmp_path: Path):
    with subprocess.Popen(
        [*python(STARTER), str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as search:
        started = psutil.Process(int(search.stdout.readline()))
        search.kill()
    gone, alive = psutil.wait_procs([started], timeout=10)
    assert gone
    assert not alive


def test_a_server_that_ends_at_once_is_refused_with_its_last_words(tmp_path: Path):
    log = tmp_path / "log"
    with (
        log.open("wb") as stream,
        ended(start(python("exit('no such model')"), stream, subprocess.DEVNULL)) as process,
        pytest.raises(TuneError, match="Triton did not start: no such model"),
    ):
        wait_until_ready(process, tmp_path / "ready.json", log)


def test_a_load_generator_that_ends_early_is_an_error_with_its_last_words(tmp_path: Path):
    log = tmp_path / "log"
    with (
        log.open("wb") as stream,
        ended(start(python("input(); exit('out of words')"), stream, subprocess.PIPE)) as process,
        pytest.raises(TuneError, match="ended early: out of words"),
    ):
        ask(process, "{}", log)


def test_a_line_is_answered_by_a_line(tmp_path: Path):
    log = tmp_path / "log"
    echo = python("while True: print(input(), flush=True)")
    with (
        log.open("wb") as stream,
        ended(start(echo, stream, subprocess.PIPE)) as process,
    ):
        assert [ask(process, order, log) for order in ("one", "two")] == [b"one\n", b"two\n"]
    assert process.returncode is not None
