from pathlib import Path

from serving.triton.command import server_command, server_environment
from serving.triton.installation import Installation
from serving.triton.ports import Ports

INSTALLATION = Installation(
    binary=Path("/triton/bin/tritonserver"),
    backend_files=(),
    library_directories=(Path("/triton/libs"), Path("/python/lib")),
    python_directory=Path("/env/bin"),
)


def test_every_service_listens_on_the_asked_address_and_port() -> None:
    ports = Ports(grpc=1, http=2, metrics=3)
    command = server_command(
        INSTALLATION.binary, Path("/repository"), "127.0.0.1", ports, Path("/backends"), "mine-"
    )
    assert command[0] == "/triton/bin/tritonserver"
    for service, port in (("grpc", 1), ("http", 2), ("metrics", 3)):
        assert f"--{service}-address=127.0.0.1" in command
        assert f"--{service}-port={port}" in command


def test_our_python_and_libraries_come_before_those_of_the_launcher() -> None:
    environment = {"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/opt/lib", "HOME": "/home"}
    assert server_environment(INSTALLATION, environment) == {
        "PATH": "/env/bin:/usr/bin",
        "LD_LIBRARY_PATH": "/triton/libs:/python/lib:/opt/lib",
        "HOME": "/home",
    }


def test_an_empty_environment_leaves_no_empty_path() -> None:
    assert server_environment(INSTALLATION, {}) == {
        "PATH": "/env/bin",
        "LD_LIBRARY_PATH": "/triton/libs:/python/lib",
    }
