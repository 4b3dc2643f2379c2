"""Content-addressed steps: work whose inputs did not change is not repeated, and a killed run resumes.

A step writes into a temporary directory that takes its final name, `<name>-<key>`, only when all its
files are on disk. The key covers the step's inputs and the code that makes it (code_digest.py).
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from models.files import sha256_file
from optimize.code_digest import code_digest
from optimize.full_disk import full_disk_named

RECORD_NAME = "step.json"


@dataclass(frozen=True)
class Step:
    """A finished step: its directory and the digest of what it holds."""

    name: str
    directory: Path
    digest: str
    reused: bool

    def read_json(self, name: str) -> Any:
        """One of the step's JSON files."""
        return json.loads((self.directory / name).read_text())


@dataclass(frozen=True)
class Workspace:
    """The directory that holds finished steps. `announce(name, reused)` is told of each."""

    root: Path
    announce: Callable[[str, bool], None]

    def step(self, name: str, inputs: Mapping[str, Any], make: Callable[[Path], None]) -> Step:
        """Return the finished step, making it when it is not there or not whole.

        `inputs` are JSON values that decide the result together with the code behind `make`.
        """
        record = {"name": name, "inputs": dict(inputs), "code": code_digest(make)}
        final = self.root / f"{name}-{key_of(record)}"
        finished = read_finished(name, final)
        self.announce(name, finished is not None)
        if finished is not None:
            return finished
        self._make(final, record, make)
        made = read_finished(name, final)
        if made is None:
            raise RuntimeError(f"step {name} is not whole right after it was made: {final}")
        return Step(name, made.directory, made.digest, reused=False)

    def _make(self, final: Path, record: dict[str, Any], make: Callable[[Path], None]) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = self.root / f".{final.name}.{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()  # inside: Ctrl-C may come while it is made
            with full_disk_named(temporary):
                make(temporary)
            record = {**record, "files": file_digests(temporary)}
            (temporary / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n")
            sync_tree(temporary)
            self._adopt(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _adopt(self, temporary: Path, final: Path) -> None:
        """Give a step its final name, unless another process made it first and reads it already."""
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, also by a kill
            if read_finished(final.name, final) is None:
                shutil.rmtree(final, ignore_errors=True)
                temporary.rename(final)

    def remove_leftovers(self) -> None:
        """Remove the temporary directories of runs that were killed."""
        for path in self.root.glob(".*-*.*"):
            owner = path.suffix.removeprefix(".")
            if owner.isdigit() and not psutil.pid_exists(int(owner)):
                shutil.rmtree(path, ignore_errors=True)


def read_finished(name: str, directory: Path) -> Step | None:
    """The step in `directory` if it is whole: every file there with the digest it was made with."""
    try:
        record = json.loads((directory / RECORD_NAME).read_text())
    except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    if record.get("files") != file_digests(directory):
        return None
    return Step(name, directory, key_of(record["files"]), reused=True)


def file_digests(directory: Path) -> dict[str, str]:
    """sha256 by relative path of a step's own files."""
    return {
        path.relative_to(directory).as_posix(): sha256_file(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != RECORD_NAME
    }


def key_of(value: Any) -> str:
    """A short stable key of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def sync_tree(directory: Path) -> None:
    """Flush every file and directory below `directory` to the disk."""
    for path in [directory, *directory.rglob("*")]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
