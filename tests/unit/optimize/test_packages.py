"""Wheels through the real pip, out of a local folder instead of the package index."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from optimize.errors import SourceError
from optimize.packages import explain_failure, fetch_wheel, unpack

FILES = {
    "parcel/__init__.py": "raise SystemExit('imported')",
    "parcel/model/config.json": "{}",
    "parcel/model/1_Pooling/config.json": "[]",
}

MakeWheel = Callable[[Path, dict[str, str]], str]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip takes for the package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_wheel_with_the_pinned_hash_is_downloaded_once(
    index: Path, tmp_path: Path, make_wheel: MakeWheel
):
    sha256 = make_wheel(index, FILES)
    wheel = fetch_wheel("parcel==1.0", sha256, tmp_path / "downloads")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == sha256
    (index / wheel.name).unlink()
    assert fetch_wheel("parcel==1.0", sha256, tmp_path / "downloads") == wheel


def test_a_wheel_with_another_hash_is_refused_with_both_hashes(
    index: Path, tmp_path: Path, make_wheel: MakeWheel
):
    real, pinned = make_wheel(index, FILES), "0" * 64
    with pytest.raises(SourceError) as refused:
        fetch_wheel("parcel==1.0", pinned, tmp_path / "downloads")
    assert f"parcel==1.0 on the package index has the sha256 {real}, not {pinned}" in str(
        refused.value
    )
    assert not list((tmp_path / "downloads").rglob("*.whl"))


@pytest.mark.usefixtures("index")
def test_a_package_that_is_not_there_is_named_with_pips_reason(tmp_path: Path):
    with pytest.raises(SourceError, match=r"cannot download parcel==1\.0 \(ERROR: .*parcel==1\.0"):
        fetch_wheel("parcel==1.0", "0" * 64, tmp_path / "downloads")


def test_a_damaged_download_is_downloaded_again(index: Path, tmp_path: Path, make_wheel: MakeWheel):
    sha256 = make_wheel(index, FILES)
    wheel = fetch_wheel("parcel==1.0", sha256, tmp_path / "downloads")
    wheel.write_bytes(wheel.read_bytes()[:100])
    again = fetch_wheel("parcel==1.0", sha256, tmp_path / "downloads")
    assert hashlib.sha256(again.read_bytes()).hexdigest() == sha256


def test_a_pip_that_says_nothing_still_gives_a_next_step():
    message = explain_failure("parcel==1.0", "0" * 64, "")
    assert "no reason" in message
    assert "kind: directory" in message


def test_unpacking_takes_the_files_below_one_folder(tmp_path: Path, make_wheel: MakeWheel):
    make_wheel(tmp_path, FILES)
    unpack(next(tmp_path.glob("*.whl")), "parcel/model", tmp_path / "model")
    found = {p.relative_to(tmp_path / "model").as_posix() for p in tmp_path.glob("model/**/*.*")}
    assert found == {"config.json", "1_Pooling/config.json"}


@pytest.mark.parametrize("inside", ["parcel/mod", "other", "model"])
def test_a_folder_that_the_wheel_lacks_is_refused(
    tmp_path: Path, make_wheel: MakeWheel, inside: str
):
    make_wheel(tmp_path, FILES)
    with pytest.raises(SourceError, match=rf"has no folder {inside}: correct"):
        unpack(next(tmp_path.glob("*.whl")), inside, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_wheel_cannot_write_beside_the_destination(tmp_path: Path, make_wheel: MakeWheel):
    make_wheel(tmp_path, FILES | {"parcel/model/../../../escaped": "!"})
    unpack(next(tmp_path.glob("*.whl")), "parcel/model", tmp_path / "inner/model")
    assert not list(tmp_path.rglob("escaped"))
