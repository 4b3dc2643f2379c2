import json
from pathlib import Path

import pytest

from models.manifest import (
    Manifest,
    ManifestError,
    combined_digest,
    digest_files,
    read_manifest,
    verify_files,
    write_manifest,
)

FILES = ("encoder/config.pbtxt", "encoder/1/model.onnx")


@pytest.fixture
def repository(tmp_path: Path, plain_manifest: Manifest) -> Path:
    """A repository of two files with its manifest."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    files = digest_files(tmp_path)
    declared = {"files": files, "digest": combined_digest(files)}
    write_manifest(tmp_path, plain_manifest.model_copy(update=declared))
    return tmp_path


def test_a_manifest_reads_back_as_it_was_written(repository: Path):
    manifest = read_manifest(repository)
    write_manifest(repository, manifest)
    assert read_manifest(repository) == manifest
    verify_files(repository, manifest)


def test_a_repository_without_a_manifest_says_what_to_run(tmp_path: Path):
    with pytest.raises(ManifestError, match=r"no packaged model at .*run `make optimize`"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("changes", [{"schema_version": 3}, {"name": None}, {"surprise": 1}])
def test_a_manifest_of_another_kind_is_refused(repository: Path, changes: dict[str, object]):
    path = repository / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ManifestError, match="is not a manifest this version reads"):
        read_manifest(repository)


def test_a_manifest_that_was_cut_off_is_refused(repository: Path):
    path = repository / "manifest.json"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ManifestError, match="is not a manifest this version reads"):
        read_manifest(repository)


def test_missing_changed_and_undeclared_files_are_all_named(repository: Path):
    missing, changed = FILES
    (repository / missing).unlink()
    (repository / changed).write_text("tampered")
    (repository / "extra.py").write_text("")
    with pytest.raises(ManifestError) as refused:
        verify_files(repository, read_manifest(repository))
    expected = f"(missing: {missing}; changed: {changed}; not declared: extra.py)"
    assert expected in str(refused.value)


def test_a_manifest_whose_digest_is_of_other_files_is_refused(repository: Path):
    manifest = read_manifest(repository).model_copy(update={"digest": "0" * 64})
    with pytest.raises(ManifestError, match=r"\(digest\)"):
        verify_files(repository, manifest)


def test_files_swapped_between_two_names_change_the_digest():
    assert combined_digest({"a": "1", "b": "2"}) != combined_digest({"a": "2", "b": "1"})
    assert combined_digest({"a": "1", "b": "2"}) == combined_digest({"b": "2", "a": "1"})


def test_byte_code_that_a_server_leaves_is_no_part_of_a_repository(repository: Path):
    before = digest_files(repository)
    (repository / "encoder/1/__pycache__").mkdir()
    (repository / "encoder/1/__pycache__/model.cpython-311.pyc").write_bytes(b"")
    assert digest_files(repository) == before
