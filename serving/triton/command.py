"""How tritonserver is called: pure functions of what the keeper was told."""

import os
from collections.abc import Mapping
from pathlib import Path

from serving.triton.installation import Installation
from serving.triton.ports import Ports

# Triton waits this long for requests in flight when it is asked to stop.
EXIT_TIMEOUT_S = 10


def server_command(
    binary: Path,
    repository: Path,
    host: str,
    ports: Ports,
    backends: Path,
    shm_prefix: str,
    *,
    explicit: bool = False,
) -> list[str]:
    """The command line of one server, ready when it and every model are.

    `explicit`: it starts with every model, and clients may load and unload models while it runs.
    """
    control = ["--model-control-mode=explicit", "--load-model=*"] if explicit else []
    return [
        str(binary),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--grpc-address={host}",
        f"--grpc-port={ports.grpc}",
        f"--http-address={host}",
        f"--http-port={ports.http}",
        f"--metrics-address={host}",
        f"--metrics-port={ports.metrics}",
        "--strict-readiness=true",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        *control,
    ]


def server_environment(
    installation: Installation, environment: Mapping[str, str]
) -> dict[str, str]:
    """The environment of one server, from that of its launcher.

    The python backend's worker ignores PYTHONPATH and finds its packages through the `python3`
    that comes first on PATH. It and the server link to libraries beside the package.
    """
    libraries = [*map(str, installation.library_directories), environment.get("LD_LIBRARY_PATH")]
    paths = [str(installation.python_directory), environment.get("PATH")]
    return {
        **environment,
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "PATH": os.pathsep.join(filter(None, paths)),
    }
