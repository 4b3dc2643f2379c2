import sys
from pathlib import Path

import pytest

from serving.errors import TritonInstallationError
from serving.triton.installation import (
    backend_directory,
    check_numpy,
    check_platform,
    find_installation,
    find_libpython,
    find_stub,
)


def test_every_file_of_the_embedded_triton_is_where_we_look() -> None:
    found = find_installation()
    for path in (found.binary, *found.backend_files):
        assert path.is_file()
    for directory in found.library_directories:
        assert directory.is_dir()
    assert (found.python_directory / "python3").samefile(sys.executable)


@pytest.mark.parametrize(
    ("system", "machine"), [("darwin", "arm64"), ("linux", "aarch64"), ("win32", "AMD64")]
)
def test_a_machine_that_cannot_run_the_binary_is_sent_to_docker(system: str, machine: str) -> None:
    with pytest.raises(TritonInstallationError, match="docker/"):
        check_platform(system, machine)


def test_numpy_2_is_refused_with_the_command_that_repairs_it() -> None:
    check_numpy("1.26.4")
    with pytest.raises(TritonInstallationError, match=r"pip install 'numpy<2'"):
        check_numpy("2.0.0")


def test_a_python_without_worker_is_refused_with_those_that_have_one(tmp_path: Path) -> None:
    stub = tmp_path / "3.11/triton_python_backend_stub"
    stub.parent.mkdir()
    stub.touch()
    assert find_stub(tmp_path, "3.11") == stub
    with pytest.raises(TritonInstallationError, match=r"Python 3\.14 \(it has 3\.11\)"):
        find_stub(tmp_path, "3.14")


def test_a_python_without_shared_library_is_refused_with_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(TritonInstallationError, match=r"apt-get install libpython3\.12"):
        find_libpython([None, str(tmp_path)], "3.12")
    (tmp_path / "libpython3.12.so.1.0").touch()
    assert find_libpython([None, str(tmp_path)], "3.12") == tmp_path


def test_the_backend_directory_has_tritons_layout_and_goes_away(tmp_path: Path) -> None:
    file = tmp_path / "libtriton_python.so"
    file.write_text("library")
    with backend_directory([file]) as directory:
        assert (directory / "python/libtriton_python.so").read_text() == "library"
    assert not directory.exists()
