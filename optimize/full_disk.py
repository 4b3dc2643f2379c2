"""One error for a full disk, whichever library was writing."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KINDS = (errno.ENOSPC, errno.EDQUOT)
NO_ROOM_BYTES = 2**20  # no model fits into less


def is_full_disk(error: Exception) -> bool:
    """Whether there was no room, or no more of a quota.

    Not every library keeps the error's number: safetensors and shutil.copytree only quote its words.
    """
    numbered = isinstance(error, OSError) and error.errno in KINDS
    return numbered or any(os.strerror(kind) in str(error) for kind in KINDS)


@contextmanager
def full_disk_named(directory: Path) -> Iterator[None]:
    """Raise OSError with ENOSPC for whatever fails for want of room in `directory`.

    NumPy only says that it wrote too little, ONNX Runtime raises an error of its own, and what ONNX wrote in
    part fails later, when it is read: then the disk itself tells.
    """
    try:
        yield
    except Exception as error:
        if is_full_disk(error) or shutil.disk_usage(directory).free < NO_ROOM_BYTES:
            words = os.strerror(errno.ENOSPC)
            raise OSError(errno.ENOSPC, words, str(directory)) from error
        raise
