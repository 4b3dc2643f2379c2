"""The embedded Triton from start to end, with a model that measures texts and loads at once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton_grpc

from models.manifest import Manifest, ManifestError, combined_digest, digest_files, write_manifest
from models.signature import SignatureError, sign
from serving.errors import PortInUseError, TritonDiedError, TritonStartError
from serving.triton.launch import RunningTriton, run_triton

pytestmark = pytest.mark.triton

DEADLINE_S = 60.0

CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "text" data_type: TYPE_STRING dims: [ 1 ] }]
output [{ name: "length" data_type: TYPE_INT32 dims: [ 1 ] }]
"""

MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        texts = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
        lengths = np.array([[len(text)] for [text] in texts], dtype=np.int32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("length", lengths)])
"""


@pytest.fixture
def repository(tmp_path: Path, plain_manifest: Manifest, signing_key: Path) -> Path:
    """A signed repository, whose one model answers with the length of each text."""
    repository = tmp_path / "repository"
    (repository / "measure/1").mkdir(parents=True)
    (repository / "measure/config.pbtxt").write_text(CONFIG)
    (repository / "measure/1/model.py").write_text(MODEL)
    files = digest_files(repository)
    declared = {"name": "measure", "files": files, "digest": combined_digest(files)}
    write_manifest(repository, plain_manifest.model_copy(update=declared))
    sign(repository, signing_key)
    return repository


@contextmanager
def running(repository: Path, **options: object) -> Iterator[RunningTriton]:
    log_path = repository.parent / "triton.log"
    with run_triton(repository, log_path=log_path, **options) as triton:
        yield triton


@contextmanager
def command(repository: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, int]]]:
    """`python -m serving.triton` in a process of its own, and what its ready file says."""
    ready_file = repository.parent / "ready.json"
    arguments = ["--repository", repository, "--ready-file", ready_file]
    arguments += ["--log-file", repository.parent / "triton.log"]
    with subprocess.Popen(
        [sys.executable, "-m", "serving.triton", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            until(lambda: ready_file.exists() or process.poll() is not None)
            yield process, json.loads(ready_file.read_text())
        finally:
            process.kill()


def lengths(grpc_port: int, texts: list[str]) -> list[int]:
    column = triton_grpc.InferInput("text", [len(texts), 1], "BYTES")
    column.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=object))
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
        return client.infer("measure", [column]).as_numpy("length").ravel().tolist()


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true in time"
        time.sleep(0.05)


def keeper_of(server_pid: int) -> int:
    return psutil.Process(server_pid).ppid()


def processes_of(repository: Path) -> list[psutil.Process]:
    """The server and the model processes, which all name the repository in their arguments."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "name"])
        if "triton" in (process.info["name"] or "")
        and str(repository) in " ".join(process.info["cmdline"] or [])
    ]


def regions_of(keeper_pid: int) -> list[Path]:
    return list(Path("/dev/shm").glob(f"farshore-{keeper_pid}-*"))


def test_it_answers_and_leaves_nothing_behind(repository: Path) -> None:
    with running(repository) as triton:
        keeper = keeper_of(triton.server_pid)
        assert triton.is_alive()
        assert lengths(triton.ports.grpc, ["a", "four"]) == [1, 4]
        assert len(processes_of(repository)) == 2
        assert len(regions_of(keeper)) == 2  # one of the model, and the lock
    assert not triton.is_alive()
    assert processes_of(repository) == []
    assert regions_of(keeper) == []


def test_an_exception_in_the_context_stops_the_server(repository: Path) -> None:
    with pytest.raises(LookupError), running(repository):
        raise LookupError
    assert processes_of(repository) == []


def test_its_log_is_kept_and_shown_on_request(repository: Path) -> None:
    with running(repository) as triton:
        assert any("successfully loaded 'measure'" in line for line in triton.log_tail(100))
    assert "successfully unloaded 'measure'" in (repository.parent / "triton.log").read_text()


def test_a_killed_server_is_back_on_its_ports(repository: Path) -> None:
    with running(repository) as triton:
        killed = triton.server_pid
        os.kill(killed, signal.SIGKILL)
        until(lambda: triton.state == "ready" and triton.server_pid != killed)
        assert lengths(triton.ports.grpc, ["again"]) == [5]
        assert len(regions_of(keeper_of(triton.server_pid))) == 2  # none of the killed one


def test_a_killed_model_process_is_replaced(repository: Path) -> None:
    with running(repository) as triton:
        before = triton.server_pid
        [model] = psutil.Process(before).children()
        model.kill()
        until(lambda: triton.state == "ready" and triton.server_pid != before)
        assert lengths(triton.ports.grpc, ["again"]) == [5]


def test_a_server_that_keeps_dying_is_given_up(repository: Path) -> None:
    with running(repository) as triton:
        for _ in range(4):
            until(lambda: triton.state == "ready")
            killed = triton.server_pid
            os.kill(killed, signal.SIGKILL)
            until(lambda killed=killed: triton.server_pid != killed)
        with pytest.raises(TritonDiedError, match="SIGKILL"):
            triton.wait_until_ended()
        assert not triton.is_alive()
        assert processes_of(repository) == []


def test_it_can_be_stopped_while_it_is_being_restarted(repository: Path) -> None:
    with running(repository) as triton:
        os.kill(triton.server_pid, signal.SIGKILL)
        until(lambda: triton.state == "restarting")
    assert triton.state == "stopped"
    assert processes_of(repository) == []


def test_a_killed_keeper_takes_the_server_along(repository: Path) -> None:
    with running(repository) as triton:
        keeper = keeper_of(triton.server_pid)
        os.kill(keeper, signal.SIGKILL)
        with pytest.raises(TritonDiedError, match="keeper process ended"):
            triton.wait_until_ended()
        until(lambda: processes_of(repository) == [])
        assert regions_of(keeper) == []


def test_a_killed_launcher_leaves_nothing_behind(repository: Path) -> None:
    with command(repository) as (process, ready):
        assert ready["pid"] == process.pid
        [keeper] = psutil.Process(process.pid).children()
        assert lengths(ready["grpc"], ["abc"]) == [3]
        process.kill()
        until(lambda: processes_of(repository) == [] and regions_of(keeper.pid) == [])


def test_a_launcher_and_a_keeper_killed_together_leave_nothing_to_the_next_launch(
    repository: Path,
) -> None:
    with command(repository) as (process, _):
        [keeper] = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGSTOP)  # so that it cannot clean up
        keeper.kill()
        process.kill()
        until(lambda: processes_of(repository) == [])
    with running(repository):
        assert regions_of(keeper.pid) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_command_stops_everything(repository: Path, number: signal.Signals) -> None:
    with command(repository) as (process, _):
        [keeper] = psutil.Process(process.pid).children()
        assert os.getsid(keeper.pid) != os.getsid(process.pid)  # a terminal signals only the latter
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 0
        assert processes_of(repository) == []
        assert regions_of(keeper.pid) == []
        assert not (repository.parent / "ready.json").exists()


def test_a_taken_port_is_named_with_its_owner(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with (
            pytest.raises(PortInUseError, match=rf"port {port} .* \(pid {os.getpid()}\)"),
            running(repository, http_port=port),
        ):
            pass


def test_a_changed_repository_is_refused_before_anything_starts(repository: Path) -> None:
    (repository / "measure/1/model.py").write_text(MODEL + "# changed\n")
    with pytest.raises(SignatureError, match="changed: measure/1/model"), running(repository):
        pass
    assert not (repository.parent / "triton.log").exists()


def test_a_repository_without_manifest_is_served_only_when_asked_for(repository: Path) -> None:
    (repository / "manifest.json").unlink()
    (repository / "model.sig").unlink()
    with pytest.raises(ManifestError, match="make optimize"), running(repository):
        pass
    with running(repository, unverified=True) as triton:
        assert lengths(triton.ports.grpc, ["abc"]) == [3]


def test_a_directory_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TritonStartError, match="no model at"), running(tmp_path, unverified=True):
        pass


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (
            "1/model.py",
            "raise RuntimeError('corrupt ONNX')",
            "model 'measure' version 1 failed to load: RuntimeError: corrupt ONNX",
        ),
        ("1/model.py", None, "a model failed: Python model file not found"),
        ("config.pbtxt", "surprise: 1", "config.pbtxt of model 'measure' cannot be read"),
        ("config.pbtxt", CONFIG.replace("python", "onnxruntime"), "no 'onnxruntime' backend"),
    ],
    ids=["model raises", "no model.py", "unknown field", "unknown backend"],
)
def test_a_broken_model_is_reported_in_one_line(
    repository: Path, file: str, content: str | None, reason: str
) -> None:
    path = repository / "measure" / file
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(TritonStartError) as caught, running(repository, unverified=True):
        pass
    first, *advice = str(caught.value).splitlines()
    assert reason in first
    assert len(advice) == 1
    assert processes_of(repository) == []


def test_a_server_that_is_not_ready_in_time_is_ended(repository: Path) -> None:
    with (
        pytest.raises(TritonStartError, match=r"not ready within 0\.01 s"),
        running(repository, ready_timeout_s=0.01),
    ):
        pass
    assert processes_of(repository) == []
