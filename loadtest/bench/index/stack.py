"""The index under test, as its users start it: built, served by nodes, asked through the gateway."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from loadtest.bench.servers import free_port, triton
from loadtest.errors import StackError
from loadtest.stack import is_ready, started

BUILD_TIMEOUT_S = 3600


@dataclass(frozen=True)
class Bench:
    """What every part of the bench works with: the encoder's repository, a folder, and a running encoder."""

    repository: Path
    work: Path
    encoder_url: str

    @property
    def indexes(self) -> Path:
        """Where indexes are built; kept between runs."""
        return self.work / "indexes"


@contextlib.contextmanager
def bench_of(repository: Path, work: Path) -> Iterator[Bench]:
    """A bench with its encoder on a Triton of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="farshore-bench-") as logs,
        triton(repository, Path(logs), "encoder") as encoder_url,
    ):
        yield Bench(repository, work, encoder_url)


def build(index: Path, name: str, *options: str) -> Path:
    """Build a generation unless it is there; its directory. Raises StackError."""
    generation = index / "generations" / name
    if not generation.is_dir():
        command = [sys.executable, "-m", "serving.index", "build", str(index), "--name", name]
        done = subprocess.run(
            [*command, *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_TIMEOUT_S,
        )
        if done.returncode:
            raise StackError(f"{index} was not built: {done.stderr.strip()[-500:]}")
    return generation


@contextlib.contextmanager
def gateway(bench: Bench, index: Path, **environment: str) -> Iterator[str]:
    """A gateway in front of an index (its directory, or a placement file); its address.

    `environment` holds settings (FARSHORE_...) of this gateway. Raises StackError.
    """
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "serving", "--repository", str(bench.repository)]
    command += ["--triton-url", bench.encoder_url, "--port", address.rpartition(":")[2]]
    command += ["--index", str(index), "--index-memory", "12GB", "--writable-index"]
    command = ["env", *(f"{name}={value}" for name, value in environment.items()), *command]
    log = bench.work / "logs" / f"gateway-{address.rpartition(':')[2]}.log"
    with started(command, log, lambda: is_ready(f"http://{address}")):
        yield address


@dataclass(frozen=True)
class Node:
    """A running node."""

    grpc: str
    process: psutil.Process

    def resident_bytes(self) -> dict[str, int]:
        """RSS of each of its processes, by name; those of one name together."""
        found: dict[str, int] = {}
        for process in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                name = process.name()
                found[name] = found.get(name, 0) + process.memory_info().rss
        return found


@contextlib.contextmanager
def node(
    bench: Bench,
    generation: Path,
    shards: Sequence[int],
    name: str,
    memory_bytes: int,
    limit: Path | None = None,
) -> Iterator[Node]:
    """Some shards on a Triton of their own, within the memory of the control group `limit`."""
    directory = bench.work / "nodes" / name
    ready = directory / "ready.json"
    command = [sys.executable, "-m", "serving.index", "node", "--generation", str(generation)]
    command += ["--shards", ",".join(map(str, shards)), "--directory", str(directory)]
    command += ["--memory", str(memory_bytes), "--ready-file", str(ready)]
    if limit is not None:  # the shell enters the group and becomes the node
        command = ["sh", "-c", f'echo $$ > {limit}/tasks && exec "$@"', "sh", *command]
    ready.unlink(missing_ok=True)
    with started(command, bench.work / "logs" / f"node-{name}.log", ready.is_file):
        said = json.loads(ready.read_text())
        yield Node(said["grpc"], psutil.Process(psutil.Process(said["pid"]).ppid()))


def write_placement(path: Path, generation: Path, replicas: Sequence[Sequence[str]]) -> None:
    """The file that tells a gateway where the shards of a generation run, replaced as a whole."""
    described: dict[str, Any] = json.loads((generation / "generation.json").read_text())
    placement = {
        "index": described["index"],
        "generation": described["name"],
        **{key: described[key] for key in ("dim", "metric", "space")},
        "replicas": [list(of_shard) for of_shard in replicas],
    }
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(placement))
    temporary.rename(path)


@contextlib.contextmanager
def memory_limit(name: str, limit_bytes: int) -> Iterator[Path | None]:
    """A control group (version 1) of so much memory; None where the system does not let us make one."""
    group = Path("/sys/fs/cgroup/memory") / f"farshore-{os.getpid()}-{name}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
    except OSError:
        yield None
        return
    try:
        yield group
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()
