"""Quantities as people write them: 29.3M rows, 16GB, shards 0-3."""

import re

from serving.errors import SettingsError

NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
COUNTS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
SIZES = {
    **{"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12},
    **{"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40},
}


def count_of(words: str) -> int:
    """A number of rows: 29.3M, 100k, 5000. Raises SettingsError."""
    return _scaled(words, COUNTS, "a number such as 29.3M, 100k or 5000")


def bytes_of(words: str) -> int:
    """A size: 16GB, 1.5GiB, 800MB, or bytes. Raises SettingsError."""
    return _scaled(words, SIZES, "a size such as 16GB, 1.5GiB or 800MB")


def shards_of(words: str) -> tuple[int, ...]:
    """Shards: 0,1 or 0-3 or both. Raises SettingsError."""
    found: list[int] = []
    for part in words.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise SettingsError(f"{words!r} names no shards: write them as 0,1 or 0-3")
        found += range(first, last + 1)
    return tuple(dict.fromkeys(found))


def _scaled(words: str, units: dict[str, int], what: str) -> int:
    match = NUMBER.fullmatch(words.strip())
    if match is None or match[2].lower() not in units:
        raise SettingsError(f"{words!r} cannot be read: write {what}")
    value = round(float(match[1]) * units[match[2].lower()])
    if value <= 0:
        raise SettingsError(f"{words!r} is nothing: write {what}")
    return value
