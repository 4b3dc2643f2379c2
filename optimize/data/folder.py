"""The files of a data folder: gzipped JSON lines, and PROVENANCE.json."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from optimize.errors import SourceError


def read_lines(folder: Path, name: str) -> list[dict[str, Any]]:
    """The JSON lines of one gzipped file."""
    path = folder / f"{name}.jsonl.gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            return [json.loads(line) for line in stream]
    except FileNotFoundError as error:
        raise SourceError(f"no evaluation data at {path}: correct evaluation.data") from error
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise SourceError(f"{path} is damaged ({error}): restore it or run `make data`") from error


def read_texts(folder: Path, name: str) -> list[str]:
    """The texts of a file whose rows are {"text": ...}; none when there is no such file."""
    if not (folder / f"{name}.jsonl.gz").is_file():
        return []
    return [row["text"] for row in read_lines(folder, name)]


def describe_provenance(folder: Path) -> str:
    """One line on the origin and licence of the data, from PROVENANCE.json."""
    path = folder / "PROVENANCE.json"
    if not path.is_file():
        return f"{folder.name}: no PROVENANCE.json, origin and licence unknown"
    try:
        stored = json.loads(path.read_text())
        where = " ".join(stored[key] for key in ("package", "path") if key in stored)
        return "; ".join(filter(None, (stored["origin"], where, stored["licence"])))
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path} cannot be read ({type(error).__name__}: {error}): give it the fields origin, "
            "package, path and licence, or remove it"
        ) from error
