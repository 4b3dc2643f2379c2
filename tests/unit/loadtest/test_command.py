"""`python -m loadtest` as a user runs it, against a real HTTP server."""

import json
import signal
import subprocess
import sys

import pytest

from loadtest.report import read_report
from models.manifest import write_manifest


def loadtest(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def run_arguments(repository, gateway_url, tmp_path):
    arguments = {
        "--url": gateway_url,
        "--repository": repository,
        "--output": tmp_path / "out",
        "--rate": 100,
        "--duration": 2,
        "--warmup": 0.5,
    }
    return ["run", *(str(part) for pair in arguments.items() for part in pair)]


def test_a_run_prints_p99_and_cost_and_writes_both_reports(run_arguments, manifest, tmp_path):
    done = loadtest(*run_arguments)
    assert "p99" in done.stdout, done.stderr
    assert "per million requests" in done.stdout
    report = read_report(tmp_path / "out" / "report.json")
    assert report.model.digest == manifest.digest
    assert report.result.sent == report.result.planned
    # A busy machine may well be the limit; the status must say the same as the report.
    assert done.returncode == (3 if report.result.generator_saturated else 0)
    assert (tmp_path / "out" / "report.html").is_file()


def test_ctrl_c_reports_what_was_measured_until_then(run_arguments, busy_gateway, tmp_path):
    url, wait_until_busy = busy_gateway
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest", *run_arguments, "--url", url, "--duration", "60"],
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until_busy()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    result = content["result"]
    assert result["interrupted"]
    assert 0 < result["sent"] == result["planned"] < 60 * 100


def test_a_saturated_generator_has_its_own_exit_status(run_arguments, tmp_path):
    done = loadtest(*run_arguments, "--rate", "50000", "--duration", "1")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "says nothing about the server" in done.stdout
    assert read_report(tmp_path / "out" / "report.json").result.generator_saturated


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("--instance", "nonsense"), "aws-c7i.large"),
        (("--url", "http://example.com"), "attack"),
        (("--url", "http://127.0.0.1:1"), "not ready"),
        (("--repository", "/nonexistent"), "make optimize"),
        (("--duration", "4000"), "--allow-long"),
    ],
)
def test_what_cannot_be_measured_ends_with_the_reason_and_status_1(run_arguments, change, reason):
    done = loadtest(*run_arguments, *change)
    assert done.returncode == 1
    assert reason in " ".join(done.stdout.split())
    assert "Traceback" not in done.stderr


def test_a_stack_that_serves_other_bytes_is_refused(run_arguments, repository, manifest):
    write_manifest(repository, manifest.model_copy(update={"digest": "e" * 64}))
    done = loadtest(*run_arguments)
    assert done.returncode == 1
    assert "another model" in done.stdout
