"""Whether the files are those that were packaged and signed."""

from collections.abc import Iterator
from pathlib import Path

from models.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    ManifestError,
    read_manifest,
    verify_files,
)
from models.signature import verify_signature
from optimize.lint.findings import Finding


def signature_findings(repository: Path, trusted_key: Path | None) -> Iterator[Finding]:
    """The manifest's digests, then the signature. A repository of somebody else has neither.

    The errors of both say themselves what differs and what to do.
    """
    if not (repository / MANIFEST_NAME).is_file():
        yield Finding(
            "warning",
            MANIFEST_NAME,
            "there is none, so nobody knows what these files should be",
            "package with `python -m optimize run` to have them named and signed",
        )
        return
    try:
        verify_files(repository, read_manifest(repository))
    except ManifestError as error:
        yield Finding("error", MANIFEST_NAME, "it does not describe these files", str(error))
        return
    if not (repository / SIGNATURE_NAME).is_file():
        yield Finding("error", SIGNATURE_NAME, "unsigned", "run `python -m optimize sign`")
    elif trusted_key is not None:
        try:
            verify_signature(repository, trusted_key)
        except ManifestError as error:
            yield Finding(
                "error", SIGNATURE_NAME, "the trusted key does not vouch for it", str(error)
            )
