import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from models.manifest import Manifest, ManifestError, combined_digest, digest_files, write_manifest
from models.signature import SignatureError, verify_signature
from optimize.__main__ import main
from optimize.errors import SigningError
from optimize.sign import DEFAULT_SIGNING_KEY, make_keys, sign_repository, signing_key

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8


@pytest.fixture
def repository(tmp_path: Path, plain_manifest: Manifest) -> Path:
    """A packaged repository that nobody signed."""
    repository = tmp_path / "repository"
    (repository / "encoder/1").mkdir(parents=True)
    (repository / "encoder/1/model.onnx").write_bytes(b"weights")
    files = digest_files(repository)
    declared = {"files": files, "digest": combined_digest(files)}
    write_manifest(repository, plain_manifest.model_copy(update=declared))
    return repository


@pytest.fixture
def public_key(signing_key: Path) -> Path:
    return signing_key.with_suffix(".pub")


def test_a_signature_that_holds_is_left_as_it_is(repository: Path, public_key: Path):
    assert sign_repository(repository)
    verify_signature(repository, public_key)
    before = (repository / "model.sig").read_bytes()
    assert not sign_repository(repository)
    assert (repository / "model.sig").read_bytes() == before


def test_a_signature_is_no_part_of_what_a_manifest_declares(repository: Path):
    before = digest_files(repository)
    sign_repository(repository)
    assert digest_files(repository) == before


def test_what_a_server_left_does_not_call_for_another_signature(repository: Path):
    sign_repository(repository)
    (repository / "encoder/1/__pycache__").mkdir()
    assert not sign_repository(repository)


@pytest.mark.parametrize("damage", ["removed", "cut off", "of another key"])
def test_a_signature_that_does_not_hold_is_replaced(
    repository: Path, public_key: Path, tmp_path: Path, damage: str
):
    sign_repository(repository)
    signature = repository / "model.sig"
    if damage == "removed":
        signature.unlink()
    elif damage == "cut off":
        signature.write_bytes(signature.read_bytes()[:100])
    else:
        make_keys(tmp_path / "other.key")
        assert sign_repository(repository, tmp_path / "other.key")
    assert sign_repository(repository)
    verify_signature(repository, public_key)


def test_a_changed_repository_is_not_signed_again(repository: Path):
    sign_repository(repository)
    (repository / "encoder/1/model.onnx").write_bytes(b"others")
    with pytest.raises(ManifestError, match=r"changed: encoder/1/model\.onnx"):
        sign_repository(repository)


def test_the_first_use_makes_a_pair_of_which_the_private_half_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert signing_key({}) == DEFAULT_SIGNING_KEY
    assert sorted(path.name for path in Path("keys").iterdir()) == ["farshore.key", "farshore.pub"]
    assert stat.S_IMODE(DEFAULT_SIGNING_KEY.stat().st_mode) == 0o600
    assert stat.S_IMODE(Path("keys/farshore.pub").stat().st_mode) == 0o644


def test_later_uses_keep_the_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    signing_key({})
    before = DEFAULT_SIGNING_KEY.read_bytes(), Path("keys/farshore.pub").read_bytes()
    Path("keys/farshore.pub").unlink()
    signing_key({})
    assert (DEFAULT_SIGNING_KEY.read_bytes(), Path("keys/farshore.pub").read_bytes()) == before


def test_many_first_uses_at_once_agree_on_one_pair(tmp_path: Path):
    path = tmp_path / "keys/shared.key"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make_keys, [path] * 8))
    assert sorted(other.name for other in path.parent.iterdir()) == ["shared.key", "shared.pub"]
    private = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    public = private.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert path.with_suffix(".pub").read_bytes() == public


def test_a_key_that_is_named_must_be_there(tmp_path: Path):
    with pytest.raises(SigningError, match=r"no key at .*correct FARSHORE_SIGNING_KEY"):
        signing_key({"FARSHORE_SIGNING_KEY": str(tmp_path / "nowhere.key")})


def test_keys_that_cannot_be_made_are_an_error_that_says_what_to_do(tmp_path: Path):
    (tmp_path / "keys").write_text("a file where the folder should be")
    with pytest.raises(SigningError, match="FARSHORE_SIGNING_KEY"):
        make_keys(tmp_path / "keys/farshore.key")


@pytest.mark.parametrize("kind", ["words", "public", "encrypted", "nothing"])
def test_a_file_that_is_no_usable_key_is_refused(
    repository: Path, public_key: Path, tmp_path: Path, kind: str
):
    key = ec.generate_private_key(ec.SECP256R1())
    locked = key.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"secret"))
    content = {"words": b"a key", "public": public_key.read_bytes(), "encrypted": locked}
    path = tmp_path / "wrong.key"
    if kind in content:
        path.write_bytes(content[kind])
    with pytest.raises(SigningError, match=r"wrong\.key is not a private key"):
        sign_repository(repository, path)


def test_a_key_of_another_kind_is_refused(repository: Path, tmp_path: Path):
    key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "rsa.key").write_bytes(key.private_bytes(PEM, PKCS8, serialization.NoEncryption()))
    with pytest.raises(SignatureError, match=r"rsa\.key cannot sign"):
        sign_repository(repository, tmp_path / "rsa.key")
    assert not (repository / "model.sig").exists()


def test_the_commands_sign_and_verify(repository: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["verify", str(repository)]) == 1
    assert "is not signed" in capsys.readouterr().err
    assert main(["sign", str(repository)]) == 0
    assert main(["verify", str(repository)]) == 0
    (repository / "encoder/1/model.onnx").write_bytes(b"others")
    assert main(["verify", str(repository)]) == 1
    assert "changed: encoder/1/model.onnx" in capsys.readouterr().err
    assert main(["sign", str(repository)]) == 1


def test_a_trusted_key_may_be_named(repository: Path, tmp_path: Path):
    other = make_keys(tmp_path / "other.key")
    assert main(["sign", str(repository)]) == 0
    assert main(["verify", str(repository), "--trusted-key", str(other)]) == 1


def test_a_private_key_is_never_printed(
    repository: Path, signing_key: Path, capsys: pytest.CaptureFixture[str]
):
    secret = signing_key.read_text().splitlines()[1]
    for command in ("sign", "verify"):
        main([command, str(repository)])
    main(["verify", str(repository), "--trusted-key", str(signing_key)])
    printed = capsys.readouterr()
    assert secret not in printed.out + printed.err
