"""The shared-memory regions of Triton's python backend: named, and removed when a launch ends.

A server that is killed leaves its regions in /dev/shm until the machine restarts. Each launch
therefore names its regions with a prefix of its own and holds a lock beside them. The kernel drops
the lock however the holder ends, so a lock that can be taken marks regions that nobody uses.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DIRECTORY = Path("/dev/shm")
NAME = "farshore"


@contextmanager
def claimed_prefix(directory: Path = DIRECTORY) -> Iterator[str]:
    """A prefix for the regions of one launch; they are removed at the end.

    Regions of launches that died without cleaning up are removed first.
    """
    remove_stale_regions(directory)
    claim = f"{NAME}-{os.getpid()}-{secrets.token_hex(4)}"
    lock = directory / f".{claim}.lock"
    with lock.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        # Only a locked file gets the name that others look for: none can take it for stale.
        lock = lock.rename(directory / f"{claim}.lock")
        try:
            yield f"{claim}-"
        finally:
            remove_regions(f"{claim}-", directory)
            lock.unlink(missing_ok=True)


def remove_regions(prefix: str, directory: Path = DIRECTORY) -> None:
    """Remove the regions of one launch; its server must have ended."""
    for region in directory.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def remove_stale_regions(directory: Path = DIRECTORY) -> None:
    """Remove the regions whose launch has ended without doing so. Other users' are left alone."""
    for lock in directory.glob(f"{NAME}-*.lock"):
        try:
            with lock.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_regions(f"{lock.stem}-", directory)
                lock.unlink(missing_ok=True)
        except (BlockingIOError, PermissionError, FileNotFoundError):
            continue
