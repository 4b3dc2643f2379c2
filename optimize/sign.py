"""Sign a packaged repository with a local key, and keep the pair of keys that this takes.

    keys/farshore.key     private, for its owner alone; FARSHORE_SIGNING_KEY names another
    keys/farshore.pub     public, given to whoever serves

A pair in any other place is the same: `<name>.pub` beside the private key.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from models.files import write_atomically
from models.signature import SignatureError, discard_bytecode, sign, verify_signature
from optimize.errors import SigningError

SIGNING_KEY_VARIABLE = "FARSHORE_SIGNING_KEY"
DEFAULT_SIGNING_KEY = Path("keys/farshore.key")


def sign_repository(repository: Path, private_key: Path | None = None) -> bool:
    """Sign a repository unless a signature by this key holds already; whether there is a new one.

    Without `private_key` it is that of `signing_key`. Signatures differ each time, so one that holds is
    left as it is. Raises ManifestError when the files are not what the manifest says, SignatureError or
    SigningError when the key cannot be used.
    """
    key = private_key or signing_key(os.environ)
    discard_bytecode(repository)  # a server's, which would look like an added file
    if is_signed_by(repository, key):
        return False
    sign(repository, key)
    return True


def is_signed_by(repository: Path, private_key: Path) -> bool:
    """Whether the repository is what the owner of this private key signed."""
    with tempfile.TemporaryDirectory() as folder:
        public = Path(folder) / "signer.pub"
        public.write_bytes(public_half(private_key))
        try:
            verify_signature(repository, public)
        except SignatureError:
            return False
    return True


def signing_key(environment: Mapping[str, str]) -> Path:
    """The private key to sign with. The one in keys/ is made on first use; one that is named must be there.

    Raises SigningError when it is not.
    """
    named = environment.get(SIGNING_KEY_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise SigningError(
                f"no key at {named}: correct {SIGNING_KEY_VARIABLE}, or unset it to use "
                f"{DEFAULT_SIGNING_KEY}"
            )
        return Path(named)
    make_keys(DEFAULT_SIGNING_KEY)
    return DEFAULT_SIGNING_KEY


def make_keys(private_key: Path) -> Path:
    """Make what is missing of a pair of P-256 keys; the path of the public one, beside the private one."""
    public_key = private_key.with_suffix(".pub")
    try:
        if not private_key.is_file():
            write_private_key(private_key)
        if not public_key.is_file():
            write_atomically(public_key, public_half(private_key))
    except OSError as error:
        raise SigningError(
            f"cannot make a pair of keys at {private_key} ({error.strerror}): name a private key that is "
            f"there in {SIGNING_KEY_VARIABLE}"
        ) from error
    return public_key


def write_private_key(path: Path) -> None:
    """A new key at `path`, never readable for others; one that another process makes first is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(pem)
            stream.flush()
            os.fsync(stream.fileno())
        path.hardlink_to(temporary)
    except FileExistsError:
        pass
    finally:
        Path(temporary).unlink()


def public_half(private_key: Path) -> bytes:
    """The public key of a private one, both PEM. Raises SigningError when there is no such key."""
    try:
        key = serialization.load_pem_private_key(private_key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningError(
            f"{private_key} is not a private key in PEM without password ({type(error).__name__}): "
            f"correct {SIGNING_KEY_VARIABLE}, or remove the file to have a new pair made"
        ) from error
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
