"""`python -m serving.verify`: is a repository what was signed? For servers that something else starts."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from models.manifest import ManifestError, read_manifest
from models.signature import trusted_key_path
from serving.errors import ServingError
from serving.triton.launch import check_models, check_signature


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when Triton may be started on the repository, 1 when not."""
    options = parse_arguments(arguments)
    try:
        check_signature(options.repository, options.trusted_key or trusted_key_path(os.environ))
        check_models(options.repository)
        manifest = read_manifest(options.repository)
    except (ServingError, ManifestError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"verified: {manifest.name} {manifest.version}, digest {manifest.digest[:12]}")
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.verify", description="Check every file of a packaged repository."
    )
    parser.add_argument("--repository", type=Path, default=Path("build/repository"))
    parser.add_argument(
        "--trusted-key",
        type=Path,
        help="public key of the signer (default FARSHORE_TRUSTED_KEY, else keys/farshore.pub)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
