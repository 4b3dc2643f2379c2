"""The embedded Triton: the binary that the PyPI package nvidia-pytriton carries.

Only its files are used; `pytriton` itself is never imported. What we rely on (0.7.0, Triton 2.51):

    pytriton/tritonserver/bin/tritonserver
    pytriton/tritonserver/backends/python/{libtriton_python.so,triton_python_backend_utils.py}
    pytriton/tritonserver/python_backend_stubs/<3.11>/triton_python_backend_stub
    nvidia_pytriton.libs/                       shared libraries of both
"""

import platform
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from models.manifest import Record
from serving.errors import TritonInstallationError

BACKEND_FILES = ("libtriton_python.so", "triton_python_backend_utils.py")
STUB = "triton_python_backend_stub"


class Installation(Record):
    """What it takes to start the server with this Python."""

    binary: Path
    backend_files: tuple[Path, ...]
    library_directories: tuple[Path, ...]
    python_directory: Path


def find_installation() -> Installation:
    """The embedded Triton of this environment.

    Raises TritonInstallationError saying what is missing and how to get it.
    """
    check_platform(sys.platform, platform.machine())
    check_numpy(version("numpy"))
    try:
        site_packages = Path(str(distribution("nvidia-pytriton").locate_file("")))
    except PackageNotFoundError as error:
        raise TritonInstallationError(
            "there is no tritonserver here (nvidia-pytriton is not installed): run "
            "`pip install 'farshore[triton]'`, or name a server that runs: --triton-url host:port"
        ) from error
    triton = site_packages / "pytriton/tritonserver"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Installation(
        binary=triton / "bin/tritonserver",
        backend_files=(
            *(triton / "backends/python" / name for name in BACKEND_FILES),
            find_stub(triton / "python_backend_stubs", python),
        ),
        library_directories=(
            site_packages / "nvidia_pytriton.libs",
            find_libpython([sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib"], python),
        ),
        python_directory=Path(sys.executable).parent,
    )


def check_platform(system: str, machine: str) -> None:
    """Refuse a machine that the binary cannot run on."""
    if (system, machine) != ("linux", "x86_64"):
        raise TritonInstallationError(
            f"the embedded tritonserver runs on Linux x86-64, not on {system} {machine}: start "
            "Triton with the compose file in docker/ and name it with --triton-url host:port"
        )


def check_numpy(numpy_version: str) -> None:
    """Refuse NumPy 2: this python backend reads BYTES tensors through NumPy 1's ABI and crashes."""
    if int(numpy_version.partition(".")[0]) >= 2:
        raise TritonInstallationError(
            f"NumPy {numpy_version} crashes Triton's python backend: run `pip install 'numpy<2'`"
        )


def find_stub(stubs: Path, python: str) -> Path:
    """The python backend's worker for one Python version such as "3.11"."""
    stub = stubs / python / STUB
    if not stub.is_file():
        known = ", ".join(sorted(path.parent.name for path in stubs.glob(f"*/{STUB}")))
        raise TritonInstallationError(
            f"the embedded tritonserver has no worker for Python {python} (it has {known or 'none'}"
            "): make the environment with Python 3.11 or 3.12"
        )
    return stub


def find_libpython(directories: Iterable[str | None], python: str) -> Path:
    """The first directory with the shared library of Python, which the worker is linked to."""
    library = f"libpython{python}.so.1.0"
    for directory in filter(None, directories):
        if (Path(directory) / library).is_file():
            return Path(directory)
    raise TritonInstallationError(
        f"{library} is missing (this Python was built without its shared library): install it "
        f"(Debian: apt-get install libpython{python}; pyenv: build with --enable-shared) or make "
        "the environment with another Python"
    )


@contextmanager
def backend_directory(files: Sequence[Path]) -> Iterator[Path]:
    """A private directory in the layout that --backend-directory wants, linking to `files`."""
    with tempfile.TemporaryDirectory(prefix="farshore-backends-") as directory:
        backend = Path(directory) / "python"
        backend.mkdir()
        for file in files:
            (backend / file.name).symlink_to(file)
        yield Path(directory)
