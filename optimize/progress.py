"""A progress bar where a person watches; nothing in a log file."""

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.progress import track

T = TypeVar("T")


def progress(items: Sequence[T], description: str) -> Iterable[T]:
    """Iterate over `items` under a bar that vanishes when it is done."""
    return track(
        items, description=f"  {description}", transient=True, disable=not sys.stdout.isatty()
    )
