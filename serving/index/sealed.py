"""Records as JSON files that are refused when a single byte of them changed."""

import hashlib
import json
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from models.files import write_atomically
from models.manifest import Record
from serving.errors import CorruptIndexError

# The last field of the file is the sha256 of all that stands before it.
SEAL, END = b',\n  "sha256": "', b'"\n}\n'

R = TypeVar("R", bound=Record)


def write_sealed(path: Path, record: Record) -> None:
    """Replace the file of a record as a whole."""
    written = json.dumps(record.model_dump(mode="json"), indent=2).encode().removesuffix(b"\n}")
    write_atomically(path, written + SEAL + digest(written) + END)


def read_sealed(path: Path, kind: type[R], advice: str) -> R:
    """The record of a file. Raises CorruptIndexError with `advice`, or FileNotFoundError."""
    written, _, sealed = path.read_bytes().rpartition(SEAL)
    if sealed != digest(written) + END:
        raise CorruptIndexError(f"{path} is not what was written (its sha256 differs): {advice}")
    try:
        return kind.model_validate_json(written + b"\n}")
    except ValidationError as error:
        raise CorruptIndexError(f"{path} is of another version of Farshore: {advice}") from error


def digest(content: bytes) -> bytes:
    """The sha256 of content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest().encode()
