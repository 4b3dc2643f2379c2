"""One changed byte in any packaged file: Triton is not started, and the message names the file."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import psutil
import pytest
import tritonclient.grpc as triton_grpc

from models.manifest import ManifestError, read_manifest
from models.signature import SignatureError
from optimize.sign import make_keys, sign_repository
from serving.errors import TritonDiedError
from serving.triton.launch import RunningTriton, run_triton

pytestmark = pytest.mark.triton

Launch = Callable[[], AbstractContextManager[RunningTriton]]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    private = tmp_path_factory.mktemp("keys") / "operator.key"
    return private, make_keys(private)


@pytest.fixture(scope="module")
def signed(
    packaged_repository: Path, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A real repository, signed with a key of its own."""
    copy = tmp_path_factory.mktemp("signed") / "repository"
    shutil.copytree(packaged_repository, copy, ignore=shutil.ignore_patterns("__pycache__"))
    sign_repository(copy, keys[0])
    return copy


@pytest.fixture
def repository(signed: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return Path(shutil.copytree(signed, tmp_path / "repository"))


@pytest.fixture
def launch(repository: Path, keys: tuple[Path, Path], tmp_path: Path) -> Launch:
    """Starts Triton on the copy."""
    log = tmp_path / "triton.log"
    return partial(run_triton, repository, log_path=log, trusted_key=keys[1])


def files_of(repository: Path) -> list[str]:
    found = (path for path in repository.rglob("*") if path.is_file())
    return sorted(path.relative_to(repository).as_posix() for path in found)


def flip(path: Path, position: int) -> None:
    """Change one bit in place."""
    with path.open("r+b") as stream:
        stream.seek(position)
        [byte] = stream.read(1)
        stream.seek(position)
        stream.write(bytes([byte ^ 1]))


def assert_nothing_started(repository: Path) -> None:
    assert not (repository.parent / "triton.log").exists()
    assert not [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(repository) in " ".join(process.info["cmdline"] or [])
    ]


def test_what_was_signed_is_served(repository: Path, launch: Launch):
    manifest = read_manifest(repository)
    with launch() as triton, triton_grpc.InferenceServerClient(triton.grpc_url) as client:
        assert client.is_model_ready(manifest.name, str(manifest.version))


def test_one_flipped_bit_in_any_file_is_refused_and_the_file_named(
    repository: Path, launch: Launch
):
    names = files_of(repository)
    assert {"manifest.json", "model.sig", "search-encoder/config.pbtxt"} <= set(names)
    assert "search-encoder/1/model.onnx" in names
    for name in names:
        path = repository / name
        last = path.stat().st_size - 1
        for position in {0, last // 2, last}:
            flip(path, position)
            with pytest.raises(SignatureError) as refused, launch():
                pass
            assert [other for other in names if other in str(refused.value)] == [name]
            flip(path, position)
    assert_nothing_started(repository)


@pytest.mark.parametrize("name", ["extra/config.pbtxt", "search-encoder/1/onnxruntime.py"])
def test_an_added_file_is_refused_and_named(repository: Path, launch: Launch, name: str):
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_text("")
    with pytest.raises(SignatureError, match=f"not declared: {name}"), launch():
        pass
    assert_nothing_started(repository)


def test_a_removed_file_is_refused_and_named(repository: Path, launch: Launch):
    (repository / "search-encoder/1/tokenizer.json").unlink()
    with (
        pytest.raises(SignatureError, match=r"missing: search-encoder/1/tokenizer\.json"),
        launch(),
    ):
        pass
    assert_nothing_started(repository)


def test_a_repository_that_was_signed_again_by_a_stranger_is_refused(
    repository: Path, launch: Launch, tmp_path: Path
):
    make_keys(tmp_path / "stranger.key")
    sign_repository(repository, tmp_path / "stranger.key")
    with (
        pytest.raises(SignatureError, match=r"model\.sig is no signature by .*operator\.pub"),
        launch(),
    ):
        pass
    assert_nothing_started(repository)


def test_a_manifest_that_vouches_for_the_change_does_not_help(repository: Path, launch: Launch):
    code = repository / "search-encoder/1/model.py"
    before = read_manifest(repository).files["search-encoder/1/model.py"]
    code.write_text(code.read_text() + "\n# changed\n")
    manifest = repository / "manifest.json"
    manifest.write_text(manifest.read_text().replace(before, "0" * 64))
    with pytest.raises(SignatureError, match=r"changed: manifest\.json, search-encoder"), launch():
        pass
    assert_nothing_started(repository)


def test_an_unsigned_repository_is_refused(repository: Path, launch: Launch):
    (repository / "model.sig").unlink()
    with pytest.raises(SignatureError, match=r"is not signed .*python -m optimize sign"), launch():
        pass
    assert_nothing_started(repository)


def test_nothing_is_trusted_without_a_key(repository: Path, tmp_path: Path):
    log, key = tmp_path / "triton.log", tmp_path / "nowhere.pub"
    with (
        pytest.raises(SignatureError, match=r"no trusted key at .*--trusted-key"),
        run_triton(repository, log_path=log, trusted_key=key),
    ):
        pass
    assert_nothing_started(repository)


def test_byte_code_of_an_earlier_run_is_removed_before_it_could_run(
    repository: Path, launch: Launch
):
    cache = repository / "search-encoder/1/__pycache__"
    cache.mkdir()
    poison = cache / "encoder.cpython-311.pyc"
    poison.write_bytes(b"not what encoder.py says")
    with launch():
        assert not poison.exists() or poison.read_bytes() != b"not what encoder.py says"


def test_what_was_changed_while_it_served_is_not_started_after_a_crash(
    repository: Path, launch: Launch
):
    with launch() as triton:
        flip(repository / "search-encoder/1/batches.py", 0)
        assert triton.server_pid is not None
        psutil.Process(triton.server_pid).kill()
        with pytest.raises(TritonDiedError, match=r"changed: search-encoder/1/batches\.py"):
            triton.wait_until_ended()


@pytest.mark.parametrize("module", ["serving", "serving.triton", "serving.verify"])
def test_each_command_refuses_in_one_line_that_names_the_file(
    repository: Path, keys: tuple[Path, Path], tmp_path: Path, module: str
):
    flip(repository / "search-encoder/config.pbtxt", 0)
    options = ["--repository", str(repository), "--trusted-key", str(keys[1])]
    options += ["--port", "0"] if module == "serving" else []
    ended = subprocess.run(
        [sys.executable, "-m", module, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert "changed: search-encoder/config.pbtxt" in line
    assert_nothing_started(repository)


def test_the_check_that_containers_start_with_lets_through_what_was_signed(
    repository: Path, keys: tuple[Path, Path], tmp_path: Path
):
    options = ["--repository", str(repository), "--trusted-key", str(keys[1])]
    ended = subprocess.run(
        [sys.executable, "-m", "serving.verify", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "verified: search-encoder 1" in ended.stdout


def test_an_unsigned_copy_is_served_only_when_asked_for(repository: Path, tmp_path: Path):
    (repository / "model.sig").unlink()
    log = tmp_path / "triton.log"
    with pytest.raises(ManifestError), run_triton(repository, log_path=log):
        pass
    with run_triton(repository, log_path=log, unverified=True) as triton:
        assert triton.is_alive()
