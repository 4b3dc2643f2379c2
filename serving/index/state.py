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

from pydantic import ValidationError

from models.files import write_atomically
from models.manifest import Record
from serving.errors import CorruptIndexError, IndexBusyError

STATE_NAME = "state.json"
LOG_NAME = re.compile(r"log-(\d{6})")
SEGMENT_NAME = re.compile(r"segment-(\d{6})")


class State(Record):
    """What of the directory counts."""

    segment: str = ""
    """Directory of the segment; empty: that of the generation."""
    first_log: int = 1
    """Logs before this one are in the segment already."""
    first_sequence: int = 0
    """Changes that are in the segment already."""


def read_state(directory: Path) -> State:
    """The state of a replica, that of a new one where nothing was written yet. Raises CorruptIndexError."""
    try:
        return State.model_validate_json((directory / STATE_NAME).read_bytes())
    except FileNotFoundError:
        return State()
    except (ValidationError, UnicodeDecodeError) as error:
        raise CorruptIndexError(
            f"{directory / STATE_NAME} cannot be read: restore it from a backup, or remove {directory} and "
            "let the replica start from the generation, without what was written since"
        ) from error


def write_state(directory: Path, state: State) -> None:
    """Make a state the one that counts, or leave the old one: nothing in between."""
    write_atomically(directory / STATE_NAME, state.model_dump_json().encode())


def log_path(directory: Path, number: int) -> Path:
    """The file of a log."""
    return directory / f"log-{number:06d}"


def segment_path(directory: Path, number: int) -> Path:
    """The directory of a segment that compaction makes."""
    return directory / f"segment-{number:06d}"


def log_numbers(directory: Path, state: State) -> list[int]:
    """The logs that count, ascending."""
    found = (LOG_NAME.fullmatch(path.name) for path in directory.iterdir())
    numbers = sorted(int(match[1]) for match in found if match)
    return [number for number in numbers if number >= state.first_log]


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
