"""The server's log: where it goes, and what it says about a failure."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

TAIL_BYTES = 256 * 1024

# What Triton 2.51 and its python backend write when they fail, the most telling first. Triton
# escapes newlines inside a quoted message, and a Python traceback begins with "At:".
FAILURES = (
    (
        r"unable to find backend library for backend '(?P<backend>[^']+)'",
        "this server has no '{backend}' backend, only the python one: serve this repository with "
        "the Triton container (docker/), or package it for the cpu target",
    ),
    (
        r"failed to load '(?P<model>[^']+)' version (?P<version>\d+): (?P<why>.+)",
        "model '{model}' version {version} failed to load: {why}",
    ),
    (
        r"ModelConfig: (?P<why>[^\n]+)\n[^\n]*Poll failed for model directory '(?P<model>[^']+)'",
        "config.pbtxt of model '{model}' cannot be read: {why}",
    ),
    (
        r"Poll failed for model directory '(?P<model>[^']+)': (?P<why>.+)",
        "model '{model}' cannot be read: {why}",
    ),
    (
        r"[Ff]ailed to start (?P<service>.+?) service: (?P<why>.+)",
        "the {service} service failed to start: {why}",
    ),
    (r"Failed to (?:pre)?initialize Python stub[^:]*: (?P<why>.+)", "a model failed: {why}"),
    (r"error while loading shared libraries: (?P<why>.+)", "a library is missing: {why}"),
    (r"(?m)^error: (?P<why>.+)", "{why}"),
)


def open_log(path: Path) -> BinaryIO:
    """A fresh log file, unbuffered; the one before is kept beside it as `<name>.1`.

    Two launches never write to one file: each holds its own open file, whatever its name becomes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        path.replace(path.with_name(f"{path.name}.1"))
    return path.open("a+b", buffering=0)


def read_log(descriptor: int, start_byte: int = 0) -> str:
    """The text of an open log from `start_byte` on, at most its last 256 KiB."""
    end = os.fstat(descriptor).st_size
    start = max(start_byte, end - TAIL_BYTES)
    return os.pread(descriptor, end - start, start).decode(errors="replace")


def failure_reason(text: str) -> str | None:
    """What Triton says about its own failure, in one line per cause; None if it says nothing."""
    for pattern, template in FAILURES:
        causes = [
            template.format(**{name: _plain(value) for name, value in match.groupdict().items()})
            for match in re.finditer(pattern, text)
        ]
        if causes:
            return "; ".join(dict.fromkeys(causes))
    return None


def last_messages(text: str, count: int) -> list[str]:
    """The last lines of a log that are not part of a table."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and line[0] not in "+|"][-count:]


def _plain(message: str) -> str:
    """A message without traceback, quotes and the status name before it ("Internal: ...")."""
    message = message.partition(r"\n\nAt:")[0].replace(r"\n", " ").replace(r"\"", '"')
    message = message.strip().removesuffix('"').removesuffix(" ").removesuffix(".")
    return re.sub(r"^(Internal|Unavailable|Invalid argument|Not found|Unknown)( -|:) ", "", message)
