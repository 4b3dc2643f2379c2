"""Real texts for a real index: the 117,659 glosses of WordNet 3.0, out of Debian's package.

WordNet's licence (in the package) permits use and copying with its notice. It is not in this repository.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from loadtest.errors import SettingsError
from models.files import sha256_file, write_atomically

PACKAGE = "wordnet-base"
FOLDER = "usr/share/wordnet"
SHA256 = {
    "data.noun": "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
    "data.verb": "adcf43e35b581e8036d8b5a52d63d9cd3d3b4870b2720d3c03c799df44777bc2",
    "data.adj": "c89120dfc1f046ddff4a631bf9b7e9fa1a36b5e86565a23bf82dbe14f30b88a7",
    "data.adv": "444a63bf3955080ab7524f5079cfc07ff9bc682cb98bdb1db73b0fb9829f1139",
}
SEPARATOR = " | "  # between a synset's data and its gloss: wndb(5WN)


def write_glosses(path: Path, downloads: Path) -> None:
    """Write `path`, JSON lines of id and text, unless it is there. Raises SettingsError."""
    if path.is_file():
        return
    folder = downloads / FOLDER
    if not all((folder / name).is_file() for name in SHA256):
        fetch(downloads)
    for name, expected in SHA256.items():
        if sha256_file(folder / name) != expected:
            raise SettingsError(
                f"{folder / name} is not WordNet 3.0's file: remove {downloads} and try again, or name texts "
                "of your own with --texts"
            )
    texts = dict.fromkeys(text for name in SHA256 for text in glosses_of(folder / name))
    lines = (json.dumps({"id": number, "text": text}) for number, text in enumerate(texts))
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def fetch(downloads: Path) -> None:
    """Unpack the package below `downloads`; it is not installed. Raises SettingsError."""
    downloads.mkdir(parents=True, exist_ok=True)
    run(["apt-get", "download", PACKAGE], downloads)
    package = next(downloads.glob(f"{PACKAGE}_*.deb"))
    run(["dpkg-deb", "--extract", str(package.resolve()), "."], downloads)


def run(command: list[str], folder: Path) -> None:
    """Run a command of Debian's. Raises SettingsError when it fails or is not there."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise SettingsError(
            f"{command[0]} is not here: name texts of your own with --texts"
        ) from error
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["no reason"]
        raise SettingsError(
            f"{' '.join(command)} failed ({said[0]}): run `apt-get update` and try again, or name texts of "
            "your own with --texts"
        )


def glosses_of(path: Path) -> Iterator[str]:
    """The gloss of every synset of a WordNet data file; lines of its licence begin with blanks."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("  ") and SEPARATOR in line:
            yield line.split(SEPARATOR, 1)[1].strip()
