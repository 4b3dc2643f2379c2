"""The signature of a packaged repository: one key vouches for every byte of it, offline.

    <repository>/model.sig     lists the sha256 of every other file, manifest.json included

The format is that of OpenSSF model-signing (an in-toto statement in a DSSE envelope in a Sigstore
bundle), so its own command line verifies it too. The trusted public key never comes from the repository.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from models.files import write_atomically
from models.manifest import (
    SIGNATURE_NAME,
    ManifestError,
    describe_differences,
    read_manifest,
    verify_files,
)

TRUSTED_KEY_VARIABLE = "FARSHORE_TRUSTED_KEY"
DEFAULT_TRUSTED_KEY = Path("keys/farshore.pub")


class SignatureError(ManifestError):
    """The repository is not signed, not by the trusted key, or not what was signed."""


def trusted_key_path(environment: Mapping[str, str]) -> Path:
    """The public key (PEM) that signatures must be of: FARSHORE_TRUSTED_KEY or keys/farshore.pub."""
    return Path(environment.get(TRUSTED_KEY_VARIABLE) or DEFAULT_TRUSTED_KEY)


def sign(repository: Path, private_key: Path) -> None:
    """Write `<repository>/model.sig`, whole or not at all, with an EC key (PEM, not encrypted).

    Signs only what its manifest describes: raises ManifestError otherwise, SignatureError when the key
    cannot be used or the repository holds what no signature covers.
    """
    parts = import_parts()
    manifest = read_manifest(repository)
    discard_bytecode(repository)
    verify_files(repository, manifest)
    payload = parts.Payload(hash_files(repository))
    payload.statement.pb.subject[0].name = manifest.name  # else the directory's name
    try:
        signature = parts.Signer(private_key).sign(payload)
    except Exception as error:  # of the key's file, its format, its curve, its password
        raise SignatureError(
            f"{private_key} cannot sign ({type(error).__name__}): a private EC key (P-256) in PEM without "
            "password is needed, `openssl ecparam -name prime256v1 -genkey -noout` makes one"
        ) from error
    write_atomically(repository / SIGNATURE_NAME, signature.bundle.to_json().encode())


def verify_signature(repository: Path, public_key: Path) -> None:
    """Check that every file of the repository is what the owner of `public_key` (PEM) signed.

    Raises SignatureError naming the files that are changed, missing or not signed, or what is wrong with
    the signature or the key; ManifestError when there is no packaged model at all.
    """
    signed = signed_digests(repository, public_key)
    differences = describe_differences(signed, digests_of(hash_files(repository)))
    if differences:
        raise SignatureError(
            f"{repository} is not what was signed ({differences}): restore it or run `make optimize` "
            "again"
        )


def signed_digests(repository: Path, public_key: Path) -> dict[str, str]:
    """sha256 by relative path, as the signature lists them. Raises SignatureError unless it holds."""
    parts = import_parts()
    path = repository / SIGNATURE_NAME
    if not path.is_file():
        read_manifest(repository)  # says so when no model is packaged here
        raise SignatureError(
            f"{repository} is not signed (no {SIGNATURE_NAME}): if you packaged it, run "
            f"`python -m optimize sign {repository}`, else do not use it"
        )
    verifier = open_verifier(public_key)
    try:
        signature = parts.Signature.read(path)
        listed = verifier.verify(signature)
    except (
        Exception
    ) as error:  # JSON, base64, protobuf, in-toto and cryptography each have their own
        raise SignatureError(
            f"{path} is no signature by {public_key} ({type(error).__name__}: {error}): it is damaged or "
            "of another key, name the signer's public key or run `make optimize` again"
        ) from error
    if signature.bundle.to_json().encode() != path.read_bytes():
        raise SignatureError(
            f"{path} holds more than a signature, or not as it was written: restore it, or sign again "
            f"with `python -m optimize sign {repository}`"
        )
    return digests_of(listed)


def open_verifier(public_key: Path) -> Any:
    """What checks signatures of one key. Raises SignatureError when there is no such key."""
    if not public_key.is_file():
        raise SignatureError(
            f"no trusted key at {public_key}: name the public key of whoever signed the repository "
            f"(--trusted-key or {TRUSTED_KEY_VARIABLE}); `python -m optimize sign` makes a pair in keys/"
        )
    try:
        return import_parts().Verifier(public_key)
    except Exception as error:  # of the file, its format, its curve
        raise SignatureError(
            f"{public_key} is not a public EC key in PEM ({type(error).__name__}): name the .pub file of "
            "the signer"
        ) from error


def hash_files(repository: Path) -> Any:
    """model-signing's manifest of every file but the signature, those of git and byte-code included.

    Raises SignatureError for links and special files: what they lead to could change after the check.
    """
    others = [path for path in sorted(repository.rglob("*")) if not is_plain(path)]
    if others:
        names = ", ".join(path.relative_to(repository).as_posix() for path in others)
        raise SignatureError(
            f"{repository} holds links or special files, which no signature covers ({names}): replace "
            "them by the files themselves and package the model again"
        )
    config = (
        import_parts()
        .HashingConfig()
        .set_ignored_paths(paths=[SIGNATURE_NAME], ignore_git_paths=False)
    )
    try:
        return config.hash(repository)
    except OSError as error:
        raise SignatureError(
            f"{error.filename or repository} cannot be read ({error.strerror}): correct its permissions, "
            "or restore it"
        ) from error


def import_parts() -> SimpleNamespace:
    """The parts of model-signing that are used, loaded when they are needed (0.4 s).

    Its public verifier tells a difference in prose only and honours a signature's own list of files to
    ignore, so its parts are called here. Raises SignatureError when it is not installed.
    """
    try:
        from model_signing._signing.sign_ec_key import Signer, Verifier
        from model_signing._signing.sign_sigstore_pb import Signature
        from model_signing._signing.signing import Payload
        from model_signing.hashing import Config as HashingConfig
    except ImportError as error:
        raise SignatureError(
            f"signatures cannot be made or checked here ({error}): run `pip install 'farshore[sign]'`"
        ) from error
    return SimpleNamespace(
        Signer=Signer,
        Verifier=Verifier,
        Signature=Signature,
        Payload=Payload,
        HashingConfig=HashingConfig,
    )


def is_plain(path: Path) -> bool:
    """Whether a path is a file or a directory itself."""
    return not path.is_symlink() and (path.is_file() or path.is_dir())


def digests_of(manifest: Any) -> dict[str, str]:
    """sha256 by relative path of model-signing's manifest; another algorithm compares as changed."""
    return {
        item.identifier: item.digest.digest_hex
        if item.digest.algorithm == "sha256"
        else item.digest.algorithm
        for item in manifest.resource_descriptors()
    }


def discard_bytecode(repository: Path) -> None:
    """Remove the byte-code that Python left beside the models' code: no signature vouches for it."""
    for cache in repository.rglob("__pycache__"):
        try:
            shutil.rmtree(cache)
        except OSError as error:
            raise SignatureError(
                f"{cache} holds byte-code that cannot be verified or removed ({error.strerror}): "
                "remove it, or package the model again with `make optimize`"
            ) from error
