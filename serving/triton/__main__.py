"""`python -m serving.triton`: Triton alone on a packaged repository, until Ctrl-C."""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from models.files import write_atomically
from models.manifest import ManifestError
from serving.errors import ServingError
from serving.triton.launch import DEFAULT_LOG, RunningTriton, run_triton


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 after Ctrl-C or SIGTERM, 1 when Triton fails."""
    options = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have set SIGINT to be ignored
        signal.signal(number, signal.default_int_handler)
    if options.ready_file is not None:  # one left by a launch that was killed
        options.ready_file.unlink(missing_ok=True)
    try:
        with (
            run_triton(
                options.repository,
                host=options.host,
                grpc_port=options.grpc_port,
                http_port=options.http_port,
                metrics_port=options.metrics_port,
                log_path=options.log_file,
                trusted_key=options.trusted_key,
                unverified=options.unverified,
            ) as triton,
            announced(triton, options.ready_file),
        ):
            print(
                f"Triton is ready: gRPC {triton.grpc_url}, HTTP port {triton.ports.http}, metrics "
                f"port {triton.ports.metrics}; log {options.log_file}; Ctrl-C stops it",
                flush=True,
            )
            triton.wait_until_ended()
    except KeyboardInterrupt:
        return 0
    except (ServingError, ManifestError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.triton", description="Serve a packaged repository on Triton alone."
    )
    parser.add_argument("--repository", type=Path, default=Path("build/repository"))
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--grpc-port", type=int, help="a free one if left out")
    parser.add_argument("--http-port", type=int, help="a free one if left out")
    parser.add_argument("--metrics-port", type=int, help="a free one if left out")
    parser.add_argument("--log-file", type=Path, default=DEFAULT_LOG)
    parser.add_argument(
        "--ready-file", type=Path, help="where to write ports and pid, as JSON, once ready"
    )
    parser.add_argument(
        "--unverified",
        action="store_true",
        help="do not ask for a signature (for edited copies)",
    )
    parser.add_argument(
        "--trusted-key",
        type=Path,
        help="public key of the signer (default FARSHORE_TRUSTED_KEY, else keys/farshore.pub)",
    )
    return parser.parse_args(arguments)


@contextmanager
def announced(triton: RunningTriton, ready_file: Path | None) -> Iterator[None]:
    """Keep a file with the ports and this process's pid for as long as the server runs."""
    if ready_file is None:
        yield
        return
    where = {
        "grpc": triton.ports.grpc,
        "http": triton.ports.http,
        "metrics": triton.ports.metrics,
        "pid": os.getpid(),
    }
    write_atomically(ready_file, json.dumps(where).encode())
    try:
        yield
    finally:
        ready_file.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
