"""`python -m serving`: Triton and the gateway, until Ctrl-C."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from models.manifest import ManifestError
from serving.errors import ServingError, SettingsError
from serving.gateway.settings import read_settings
from serving.index.gpu_options import add_gpu, settings_from
from serving.index.quantities import bytes_of
from serving.stack import IndexOptions, serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 after Ctrl-C or SIGTERM, 1 when it cannot serve."""
    options = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have set SIGINT to be ignored
        signal.signal(number, signal.default_int_handler)
    try:
        flags = {"host": options.host, "port": options.port, "deadline_s": options.deadline_s}
        flags["writable_index"] = options.writable_index or None
        settings = read_settings(os.environ, flags)
        index = index_options(options)
        serve(options.repository, settings, options.triton_url, options.trusted_key, index)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    except (ServingError, ManifestError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def index_options(options: argparse.Namespace) -> IndexOptions | None:
    """What is said of an index. Raises SettingsError."""
    gpu = settings_from(options)
    if gpu.devices != "none" and (options.index is None or options.index.is_file()):
        raise SettingsError(
            f"--gpu {options.gpu} is for the shards of an index that run here: name its directory with "
            "--index; the model runs where the repository was packaged for"
        )
    if options.index is None:
        return None
    return IndexOptions(options.index, bytes_of(options.index_memory), gpu)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serving",
        description="Serve a packaged repository on Triton behind the gateway.",
        epilog="Limits: FARSHORE_MAX_TEXTS, FARSHORE_MAX_TEXT_BYTES, FARSHORE_MAX_BODY_BYTES.",
    )
    parser.add_argument("--repository", type=Path, default=Path("build/repository"))
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default 8080; 0: any free)")
    parser.add_argument("--deadline-s", type=float, help="longest time for a request (default 10)")
    parser.add_argument(
        "--triton-url", metavar="HOST:PORT", help="use the Triton whose gRPC port this is"
    )
    parser.add_argument(
        "--trusted-key",
        type=Path,
        help="public key of the repository's signer (default FARSHORE_TRUSTED_KEY, else "
        "keys/farshore.pub); not asked for with --triton-url",
    )
    parser.add_argument(
        "--index",
        type=Path,
        help="directory of an index to serve as well, or the placement.json of one that runs elsewhere",
    )
    parser.add_argument("--index-memory", default="4GB", help="that its shards may take here")
    parser.add_argument(
        "--writable-index", action="store_true", help="take /v1/upsert and /v1/delete"
    )
    add_gpu(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
