"""Where a replica of a shard keeps what is its own: the log, segments made by compaction, and which count.

<state>/
    state.json          State: the segment that is served and the first log that belongs to it
    lock                held by the process that serves the shard
    log-000001 ...      in the order of their numbers
    segment-000002/     made by compaction, in place of the generation's own segment
"""

import fcntl
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from models.manifest import Record
from serving.errors import CorruptIndexError, IndexBusyError
from serving.index.sealed import read_sealed, write_sealed

STATE_NAME = "state.json"
LOG_NAME = re.compile(r"log-(\d{6})")
SEGMENT_NAME = re.compile(r"segment-(\d{6})")
ADVICE = (
    "restore the directory from a backup, or remove all of it and let the replica start from the "
    "generation, without what was written since"
)


class State(Record):
    """What of the directory counts."""

    segment: str = ""
    """Directory of the segment; empty: that of the generation."""
    first_log: int = 1
    """Logs before this one are in the segment already."""
    first_sequence: int = 0
    """Changes that are in the segment already."""
    base: str = ""
    """sha256 of the generation's segment.json, which stands for all of its rows."""


def open_state(directory: Path, base: str) -> State:
    """The state of a replica of the segment `base`, begun where nothing was written yet.

    Raises CorruptIndexError when it is missing though there are logs, or of another build.
    """
    if not (directory / STATE_NAME).exists():
        if any(is_log_or_segment(path) for path in directory.iterdir()):
            raise CorruptIndexError(
                f"{directory / STATE_NAME} is missing though there are logs or segments beside it: {ADVICE}"
            )
        write_state(directory, State(base=base))
    state = read_state(directory)
    if state.base != base:
        raise CorruptIndexError(
            f"{directory} holds what was written to another build of this generation: remove it to serve "
            "this build without that"
        )
    return state


def is_log_or_segment(path: Path) -> bool:
    """Whether a file or directory belongs to what was written."""
    return bool(LOG_NAME.fullmatch(path.name) or SEGMENT_NAME.fullmatch(path.name))


def read_state(directory: Path) -> State:
    """The state of a replica, that of a new one where nothing was written yet. Raises CorruptIndexError."""
    try:
        return read_sealed(directory / STATE_NAME, State, ADVICE)
    except FileNotFoundError:
        return State()


def write_state(directory: Path, state: State) -> None:
    """Make a state the one that counts, or leave the old one: nothing in between."""
    write_sealed(directory / STATE_NAME, state)


def log_path(directory: Path, number: int) -> Path:
    """The file of a log."""
    return directory / f"log-{number:06d}"


def segment_path(directory: Path, number: int) -> Path:
    """The directory of a segment that compaction makes."""
    return directory / f"segment-{number:06d}"


def log_numbers(directory: Path, state: State) -> list[int]:
    """The logs that count, ascending. Raises CorruptIndexError when one is missing."""
    found = (LOG_NAME.fullmatch(path.name) for path in directory.iterdir())
    numbers = {int(match[1]) for match in found if match}
    counting = {number for number in numbers if number >= state.first_log}
    expected = range(state.first_log, max(counting, default=state.first_log) + 1)
    missing = sorted(set(expected) - counting)
    if missing and (counting or state.segment):  # a new replica has none yet
        raise CorruptIndexError(f"{log_path(directory, missing[0])} is missing: {ADVICE}")
    return sorted(counting)


def remove_leftovers(directory: Path, state: State) -> None:
    """Remove what a compaction that was killed left, and what one that ended well replaced."""
    for path in directory.iterdir():
        log, segment = LOG_NAME.fullmatch(path.name), SEGMENT_NAME.fullmatch(path.name)
        if log and int(log[1]) < state.first_log:
            path.unlink()
        elif (segment and path.name != state.segment) or path.name.startswith(".segment-"):
            shutil.rmtree(path)


def lock(directory: Path) -> BinaryIO:
    """Hold the directory until the returned file is closed, also by a kill. Raises IndexBusyError."""
    directory.mkdir(parents=True, exist_ok=True)
    held = (directory / "lock").open("wb")
    with suppress(BlockingIOError):
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return held
    held.close()
    raise IndexBusyError(
        f"{directory} is in use by another process: stop it, or give each replica a state of its own"
    )
