"""The contract: what a packaged Triton repository holds and how its files are named and proved.

`optimize` writes a manifest, `serving` and `loadtest` read it. This is the only module that all
three import, and it imports none of them.

    build/repository/
        manifest.json
        <model>/config.pbtxt
        <model>/<version>/...
"""

import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

MANIFEST_NAME = "manifest.json"

# Tensor names of every text encoder, whatever runs behind them.
TEXT_INPUT = "text"
EMBEDDING_OUTPUT = "embedding"
TOKEN_COUNT_OUTPUT = "token_count"


class ManifestError(Exception):
    """The repository is missing, malformed or not what its manifest says."""


class Record(BaseModel):
    """A frozen value that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(Record):
    """A measured value with its bootstrap 95 % confidence interval."""

    value: float
    low: float
    high: float


class Speed(Record):
    """Latency of one call and throughput at one batch size.

    `speedup` is the median over rounds of baseline time / this time, both taken in the same round.
    """

    batch_size: int
    p50_ms: float
    p99_ms: float
    throughput_texts_per_s: float
    speedup: Interval


class Evidence(Record):
    """What was measured for one variant on held-out data and on the machine named beside it."""

    quality: dict[str, Interval]
    speed: list[Speed]
    size_bytes: int


class Source(Record):
    """Where the weights came from."""

    kind: Literal["package", "directory", "hub"]
    reference: str
    weights_sha256: str
    licence: str


class Manifest(Record):
    """Everything a server or a load test must know of a packaged model.

    `digest` identifies the served bytes: it covers `files` and nothing measured, so two packagings
    of the same recipe share it although their timings differ.
    """

    schema_version: Literal[1] = 1
    name: str
    version: int
    task: Literal["embed"]
    target: Literal["cpu", "gpu"]
    variant: str
    embedding_dim: int
    max_tokens: int
    max_batch_size: int
    digest: str
    files: dict[str, str]
    recipe_sha256: str
    source: Source
    evidence: Evidence
    baseline: Evidence
    gate: list[str]
    data_provenance: list[str]
    hardware: dict[str, str]
    tool_versions: dict[str, str]
    created_at: str


def read_manifest(repository: Path) -> Manifest:
    """Read `<repository>/manifest.json`.

    Raises ManifestError when it is missing or not valid; it says what to run.
    """
    path = repository / MANIFEST_NAME
    if not path.is_file():
        raise ManifestError(
            f"no packaged model at {repository}: run `make optimize`, or name the directory that "
            f"holds {MANIFEST_NAME}"
        )
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ManifestError(
            f"{path} is not a manifest this version reads ({error.error_count()} problems, first: "
            f"{error.errors()[0]['msg']}): run `make optimize` again"
        ) from error


def write_manifest(repository: Path, manifest: Manifest) -> None:
    """Write `<repository>/manifest.json` whole or not at all."""
    write_atomically(
        repository / MANIFEST_NAME, manifest.model_dump_json(indent=2).encode() + b"\n"
    )


def verify_files(repository: Path, manifest: Manifest) -> None:
    """Check every file of the repository against the manifest.

    Raises ManifestError naming the files that are missing, changed or not declared.
    """
    found = digest_files(repository)
    missing = sorted(manifest.files.keys() - found.keys())
    undeclared = sorted(found.keys() - manifest.files.keys())
    changed = sorted(p for p, digest in manifest.files.items() if found.get(p, digest) != digest)
    problems = [
        f"{label}: {', '.join(paths)}"
        for label, paths in (
            ("missing", missing),
            ("changed", changed),
            ("not declared", undeclared),
        )
        if paths
    ]
    if problems or combined_digest(manifest.files) != manifest.digest:
        raise ManifestError(
            f"{repository} is not what its manifest says ({'; '.join(problems) or 'digest'}): "
            "restore it or run `make optimize` again"
        )


def hardware_facts() -> dict[str, str]:
    """What a measurement ran on, in words: CPU, cores this process may use, memory, GPU, system."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory_bytes / 2**30:.0f} GiB",
        "gpu": gpu_model(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's own name where the system tells it."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def gpu_model() -> str:
    """The first NVIDIA GPU's name, or "none"."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "none"
    return next(iter(listed.stdout.splitlines()), "none")


def digest_files(repository: Path) -> dict[str, str]:
    """The sha256 of every file of a repository by relative path, without the manifest."""
    return {
        path.relative_to(repository).as_posix(): sha256_file(path)
        for path in sorted(repository.rglob("*"))
        if path.is_file() and path != repository / MANIFEST_NAME and "__pycache__" not in path.parts
    }


def combined_digest(files: Mapping[str, str]) -> str:
    """One sha256 over relative paths and their digests, independent of order."""
    return sha256_lines(f"{digest}  {path}" for path, digest in sorted(files.items()))


def sha256_lines(lines: Iterable[str]) -> str:
    """The sha256 of lines of text, each ended by a newline."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content` so that a reader, or a crash, sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
