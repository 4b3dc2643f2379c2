import json
import os
import sys
from pathlib import Path

import model_signing
import pytest

from models.manifest import Manifest, ManifestError, combined_digest, digest_files, write_manifest
from models.signature import (
    SignatureError,
    discard_bytecode,
    sign,
    trusted_key_path,
    verify_signature,
)
from optimize.sign import make_keys

FILES = {
    "encoder/config.pbtxt": b"name: 'encoder'",
    "encoder/1/model.py": b"import numpy",
    "encoder/1/model.onnx": bytes(range(256)),
    "LICENCES.md": b"Apache-2.0",
}


@pytest.fixture
def public_key(signing_key: Path) -> Path:
    return signing_key.with_suffix(".pub")


@pytest.fixture
def repository(tmp_path: Path, plain_manifest: Manifest, signing_key: Path) -> Path:
    """A signed repository."""
    repository = tmp_path / "repository"
    for name, content in FILES.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_bytes(content)
    describe(repository, plain_manifest)
    sign(repository, signing_key)
    return repository


def describe(repository: Path, manifest: Manifest) -> None:
    files = digest_files(repository)
    declared = {"files": files, "digest": combined_digest(files)}
    write_manifest(repository, manifest.model_copy(update=declared))


def flip(path: Path, position: int) -> None:
    """Change the lowest bit of one byte, and leave size and times as they are."""
    content, stat = bytearray(path.read_bytes()), path.stat()
    content[position] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_what_was_signed_is_accepted(repository: Path, public_key: Path):
    verify_signature(repository, public_key)


@pytest.mark.parametrize("name", [*FILES, "manifest.json", "model.sig"])
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_one_flipped_bit_is_refused_and_its_file_named(
    repository: Path, public_key: Path, name: str, place: float
):
    path = repository / name
    flip(path, round(place * (path.stat().st_size - 1)))
    with pytest.raises(SignatureError) as refused:
        verify_signature(repository, public_key)
    named = [
        other for other in (*FILES, "manifest.json", "model.sig") if other in str(refused.value)
    ]
    assert named == [name]


def test_every_byte_of_a_signature_counts(repository: Path, public_key: Path):
    path = repository / "model.sig"
    whole = path.read_bytes()
    for position in range(len(whole)):
        bit = 1 << position % 7
        path.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
        with pytest.raises(SignatureError, match=r"model\.sig"):
            verify_signature(repository, public_key)


@pytest.mark.parametrize(
    "name", ["extra.py", "encoder/1/sitecustomize.py", ".gitignore", "encoder/2/model.py"]
)
def test_an_added_file_is_named(repository: Path, public_key: Path, name: str):
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_text("")
    with pytest.raises(SignatureError, match=f"not declared: {name}"):
        verify_signature(repository, public_key)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_named(repository: Path, public_key: Path, name: str):
    (repository / name).unlink()
    with pytest.raises(SignatureError, match=f"missing: {name}"):
        verify_signature(repository, public_key)


def test_a_link_is_refused_even_to_the_very_bytes_that_were_signed(
    repository: Path, public_key: Path, tmp_path: Path
):
    model = repository / "encoder/1/model.onnx"
    model.rename(tmp_path / "elsewhere.onnx")
    model.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(SignatureError, match=r"links or special files.*encoder/1/model\.onnx"):
        verify_signature(repository, public_key)


def test_a_linked_folder_of_another_model_is_refused(
    repository: Path, public_key: Path, tmp_path: Path
):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.pbtxt").write_text("name: 'other'")
    (repository / "other").symlink_to(tmp_path / "other")
    with pytest.raises(SignatureError, match=r"links or special files.*other"):
        verify_signature(repository, public_key)


def test_a_pipe_is_refused_instead_of_waited_for(repository: Path, public_key: Path):
    os.mkfifo(repository / "pipe")
    with pytest.raises(SignatureError, match=r"links or special files.*pipe"):
        verify_signature(repository, public_key)


def test_byte_code_is_refused_until_it_is_discarded(repository: Path, public_key: Path):
    cache = repository / "encoder/1/__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").write_bytes(b"")
    with pytest.raises(SignatureError, match=r"not declared: encoder/1/__pycache__/model"):
        verify_signature(repository, public_key)
    discard_bytecode(repository)
    verify_signature(repository, public_key)


def test_byte_code_that_cannot_be_removed_is_named(repository: Path, tmp_path: Path):
    (repository / "encoder/1/__pycache__").symlink_to(tmp_path)
    with pytest.raises(SignatureError, match=r"encoder/1/__pycache__ holds byte-code"):
        discard_bytecode(repository)


def test_byte_code_is_never_signed(repository: Path, public_key: Path, signing_key: Path):
    (repository / "encoder/1/__pycache__").mkdir()
    (repository / "encoder/1/__pycache__/model.cpython-311.pyc").write_bytes(b"")
    sign(repository, signing_key)
    verify_signature(repository, public_key)


def test_an_unsigned_repository_is_refused(repository: Path, public_key: Path):
    (repository / "model.sig").unlink()
    with pytest.raises(SignatureError, match=r"is not signed .*python -m optimize sign"):
        verify_signature(repository, public_key)


def test_a_directory_without_a_model_says_what_to_run(tmp_path: Path, public_key: Path):
    with pytest.raises(ManifestError, match=r"no packaged model at .*run `make optimize`"):
        verify_signature(tmp_path, public_key)


def test_another_key_is_refused(repository: Path, tmp_path: Path):
    other = make_keys(tmp_path / "other.key")
    with pytest.raises(SignatureError, match=r"model\.sig is no signature by .*other\.pub"):
        verify_signature(repository, other)


def test_a_signature_that_claims_to_be_of_the_trusted_key_is_refused(
    repository: Path, public_key: Path, tmp_path: Path
):
    path = repository / "model.sig"
    trusted = json.loads(path.read_text())["verificationMaterial"]
    make_keys(tmp_path / "other.key")
    sign(repository, tmp_path / "other.key")
    forged = json.loads(path.read_text()) | {"verificationMaterial": trusted}
    path.write_text(json.dumps(forged))
    with pytest.raises(SignatureError, match=r"model\.sig is no signature by"):
        verify_signature(repository, public_key)


def test_the_signature_of_another_repository_is_refused(
    repository: Path, public_key: Path, signing_key: Path, plain_manifest: Manifest
):
    signature = (repository / "model.sig").read_bytes()
    (repository / "encoder/1/model.py").write_text("import os")
    describe(repository, plain_manifest)
    sign(repository, signing_key)
    verify_signature(repository, public_key)
    (repository / "model.sig").write_bytes(signature)
    with pytest.raises(SignatureError, match=r"changed: encoder/1/model\.py, manifest\.json"):
        verify_signature(repository, public_key)


def test_a_key_that_is_not_there_is_refused_with_what_to_do(repository: Path, tmp_path: Path):
    with pytest.raises(SignatureError, match=r"no trusted key at .*--trusted-key or FARSHORE_"):
        verify_signature(repository, tmp_path / "nowhere.pub")


def test_a_file_that_is_no_public_key_is_refused(
    repository: Path, signing_key: Path, tmp_path: Path
):
    (tmp_path / "words.pub").write_text("not a key")
    for wrong in (tmp_path / "words.pub", signing_key):
        with pytest.raises(SignatureError, match="is not a public EC key"):
            verify_signature(repository, wrong)


def test_only_what_the_manifest_describes_is_signed(repository: Path, signing_key: Path):
    (repository / "encoder/1/model.py").write_text("import os")
    with pytest.raises(ManifestError, match=r"changed: encoder/1/model\.py"):
        sign(repository, signing_key)


def test_links_are_not_signed(repository: Path, signing_key: Path, tmp_path: Path):
    (repository / "other").symlink_to(tmp_path)
    with pytest.raises(SignatureError, match="links or special files"):
        sign(repository, signing_key)


def test_a_file_that_is_no_private_key_cannot_sign(repository: Path, public_key: Path):
    with pytest.raises(SignatureError, match=r"cannot sign .*openssl"):
        sign(repository, public_key)


def test_a_repository_may_be_moved(repository: Path, public_key: Path, tmp_path: Path):
    verify_signature(repository.rename(tmp_path / "elsewhere"), public_key)


def test_the_model_is_named_in_the_signature_not_its_folder(repository: Path, public_key: Path):
    from models.signature import import_parts

    signature = import_parts().Signature.read(repository / "model.sig")
    assert import_parts().Verifier(public_key).verify(signature).model_name == "encoder"


def test_model_signing_itself_accepts_the_signature(repository: Path, public_key: Path):
    verifier = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    verifier.verify(repository, repository / "model.sig")
    (repository / "extra.py").write_text("")
    with pytest.raises(ValueError, match=r"extra\.py"):
        verifier.verify(repository, repository / "model.sig")


def test_without_the_library_nothing_is_accepted(
    repository: Path, public_key: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "model_signing._signing.sign_ec_key", None)
    with pytest.raises(SignatureError, match=r"pip install 'farshore\[sign\]'"):
        verify_signature(repository, public_key)


def test_the_trusted_key_is_named_by_the_environment():
    assert trusted_key_path({}) == Path("keys/farshore.pub")
    assert trusted_key_path({"FARSHORE_TRUSTED_KEY": "/run/key.pub"}) == Path("/run/key.pub")
