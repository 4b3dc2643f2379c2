import os
from pathlib import Path

import pytest

from models.files import sha256_lines, write_atomically


def test_lines_are_not_digested_as_one_text():
    assert sha256_lines(["ab", "c"]) != sha256_lines(["a", "bc"])


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "folder/file"
    write_atomically(path, b"old")

    def disk_full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_replaces_the_file_whole_and_everybody_may_read_it(tmp_path: Path):
    path = tmp_path / "file"
    write_atomically(path, b"a long old content")
    with path.open("rb") as reader:
        write_atomically(path, b"new")
        assert reader.read() == b"a long old content"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
