"""Facts that the files of the repository state about one another."""

import gzip
import json
import re
import subprocess
from pathlib import Path

import pytest

from models.files import sha256_lines
from optimize.data.boolq import LICENCE, PACKAGE, PACKAGE_SHA256, PATH_IN_PACKAGE

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
BOOLQ = ROOT / "models/data/boolq"
PROVENANCE = json.loads((BOOLQ / "PROVENANCE.json").read_text())

# A path of somebody's machine; the lookbehind lets a longer path that ends alike pass.
MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/(?:work|root|home|Users)/\w+")


def project_files() -> list[Path]:
    """Every file that is, or is about to be, under version control."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.split("\0") if (ROOT / name).is_file()]


def texts_of(files: list[Path]) -> dict[str, str]:
    """The content of the text files by relative path."""
    contents = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files}
    return {name: content.decode() for name, content in contents.items() if b"\0" not in content}


def described_targets() -> set[str]:
    done = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert all(len(row) == 2 for row in rows), done.stdout
    return {target for target, _ in rows}


def phony_targets() -> set[str]:
    return set(re.findall(r"^\.PHONY: (.*)", MAKEFILE, re.MULTILINE)[0].split())


def test_make_help_describes_every_target():
    defined = set(re.findall(r"^([a-z][\w-]*):(?!=)", MAKEFILE, re.MULTILINE))
    assert described_targets() == defined == phony_targets()


def test_every_make_target_that_a_text_names_exists():
    named = {
        (target, name)
        for name, text in texts_of(project_files()).items()
        for target in re.findall(r"`make ([a-z][a-z-]*[a-z])[ `]", text)
    }
    assert {target for target, _ in named} >= {"optimize", "data"}
    assert {(target, name) for target, name in named if target not in phony_targets()} == set()


def test_no_file_names_a_path_of_somebodys_machine():
    found = {
        f"{name}: {path}"
        for name, text in texts_of(project_files()).items()
        for path in MACHINE_PATH.findall(text)
    }
    assert found == set()


@pytest.mark.parametrize("folder", ["work", "root", "home", "Users"])
def test_a_path_of_a_machine_would_be_found(folder: str):
    assert MACHINE_PATH.search(f'open("/{folder}/me/model.onnx")')
    assert not MACHINE_PATH.search(f"docs/{folder}/me")


@pytest.mark.parametrize("name", ["questions", "passages", "calibration"])
def test_a_data_file_is_what_its_provenance_says(name: str):
    lines = gzip.decompress((BOOLQ / f"{name}.jsonl.gz").read_bytes()).decode().splitlines()
    described = PROVENANCE["files"][name]
    assert (len(lines), sha256_lines(lines)) == (described["lines"], described["sha256_of_lines"])


def test_the_provenance_names_the_package_that_the_code_pins():
    pinned = (PACKAGE, PACKAGE_SHA256, PATH_IN_PACKAGE, LICENCE)
    assert tuple(PROVENANCE[key] for key in ("package", "package_sha256", "path", "licence")) == (
        pinned
    )


def test_the_data_carries_its_licence():
    assert LICENCE in (BOOLQ / "LICENSE.md").read_text()


def test_the_readme_shows_the_committed_table():
    report = (ROOT / "docs/benchmarks/cpu-2-core/optimize.md").read_text()
    rows = [line for line in report.splitlines() if line.startswith("|")]
    assert len(rows) >= 4
    assert set(rows) <= set((ROOT / "README.md").read_text().splitlines())
