"""Start Triton on a packaged repository, and have it gone afterwards, whatever happens.

run_triton ── Order ──► keeper ── starts, restarts, ends ──► tritonserver ──► model processes
           ◄─ Reports ─
"""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from models.signature import discard_bytecode, trusted_key_path, verify_signature
from serving.errors import TritonDiedError, TritonStartError
from serving.triton.installation import find_installation
from serving.triton.keeper import STOP_GRACE_S, Order, Report
from serving.triton.log import last_messages, open_log, read_log
from serving.triton.ports import Ports, choose_ports
from serving.triton.server import kill_group
from serving.triton.shared_memory import remove_stale_regions

DEFAULT_LOG = Path("build/run/triton.log")
KEEPER_MARGIN_S = 5.0

logger = logging.getLogger(__name__)


@contextmanager
def run_triton(
    repository: Path,
    *,
    host: str = "127.0.0.1",
    grpc_port: int | None = None,
    http_port: int | None = None,
    metrics_port: int | None = None,
    log_path: Path | None = None,
    ready_timeout_s: float = 120.0,
    trusted_key: Path | None = None,
    unverified: bool = False,
    explicit: bool = False,
) -> Iterator["RunningTriton"]:
    """A Triton that serves `repository` and is ready; it is stopped and cleaned up on exit.

    Ports that are None are free ones. The server's log goes to `log_path` (build/run/triton.log).
    The repository must be what the owner of `trusted_key` signed; None is FARSHORE_TRUSTED_KEY or
    keys/farshore.pub. `unverified` skips this, for edited copies. `explicit` lets
    clients load and unload models while it runs. Raises

    - ManifestError when no model is packaged there, SignatureError when it is not what was signed,
    - TritonInstallationError when this machine cannot run the server,
    - PortInUseError when an asked port is taken,
    - TritonStartError, with Triton's own reason, when it does not become ready.
    """
    key = None if unverified else (trusted_key or trusted_key_path(os.environ)).resolve()
    if key is not None:
        check_signature(repository, key)
    check_models(repository)
    order = Order(
        installation=find_installation(),
        repository=repository.resolve(),
        trusted_key=key,
        host=host,
        probe_host=reachable(host),
        ports=choose_ports(host, grpc=grpc_port, http=http_port, metrics=metrics_port),
        ready_timeout_s=ready_timeout_s,
        launcher_pid=os.getpid(),
        explicit=explicit,
    )
    log_path = log_path or DEFAULT_LOG
    with open_log(log_path) as log:
        triton = RunningTriton(order, log, log_path)
        try:
            triton.wait_until_ready()
            yield triton
        finally:
            triton.stop()


def check_signature(repository: Path, trusted_key: Path) -> None:
    """Refuse a repository that is not what was signed by the trusted key, before anything of it is run."""
    discard_bytecode(repository)
    verify_signature(repository, trusted_key)


def check_models(repository: Path) -> None:
    """Refuse a directory that holds no model at all."""
    if not any(repository.glob("*/config.pbtxt")):
        raise TritonStartError(
            f"no model at {repository}: name the directory that holds <model>/config.pbtxt"
        )


def reachable(host: str) -> str:
    """The address under which this machine reaches a server bound to `host`."""
    return "127.0.0.1" if host == "0.0.0.0" else host


class RunningTriton:
    """A server in the hands of its keeper, whose reports a thread follows."""

    def __init__(self, order: Order, log: BinaryIO, log_path: Path) -> None:
        self.host = order.probe_host
        self.ports: Ports = order.ports
        self._log = log
        self._log_path = log_path
        self._report = Report(state="starting")
        self._changed = threading.Condition()
        self._keeper = start_keeper(order, log)
        self._follower = threading.Thread(target=self._follow_reports, daemon=True)
        self._follower.start()

    @property
    def grpc_url(self) -> str:
        """host:port, as tritonclient.grpc takes it."""
        return f"{self.host}:{self.ports.grpc}"

    @property
    def server_pid(self) -> int | None:
        """The pid of tritonserver; another after a restart, None while there is no process."""
        return self._report.server_pid

    @property
    def state(self) -> str:
        """One of starting, ready, restarting, failed, stopped; the last two are final."""
        return self._report.state

    def is_alive(self) -> bool:
        """False once the server has ended for good; one that is being restarted counts as alive."""
        return not self._ended()

    def log_tail(self, lines: int) -> list[str]:
        """The last lines of the server's log."""
        return read_log(self._log.fileno()).splitlines()[-lines:]

    def wait_until_ready(self) -> None:
        """Raises TritonStartError with the reason when the server ends instead."""
        with self._changed:
            self._changed.wait_for(lambda: self.state == "ready" or self._ended())
        if self.state != "ready":
            raise TritonStartError(
                f"Triton did not start: {self._report.reason or 'it was stopped'}\n"
                "Repair the repository or package it again with `make optimize`. "
                f"The whole log: {self._log_path}"
            )

    def wait_until_ended(self) -> None:
        """Block until the server is over; raises TritonDiedError when nobody asked for that."""
        with self._changed:
            self._changed.wait_for(self._ended)
        if self.state == "failed":
            raise TritonDiedError(
                f"Triton died and is not started again: {self._report.reason}\n"
                f"Remove the cause and start it anew. The whole log: {self._log_path}"
            )

    def stop(self) -> None:
        """Let the server finish its requests and end it; then nothing of it is left."""
        self._keeper.terminate()
        try:
            self._keeper.wait(STOP_GRACE_S + KEEPER_MARGIN_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()  # which kills the server
            self._keeper.wait()
        self._follower.join()

    def _ended(self) -> bool:
        return self.state in ("failed", "stopped")

    def _follow_reports(self) -> None:
        assert self._keeper.stdout is not None
        with self._keeper.stdout as reports:
            for line in reports:
                self._accept(Report.model_validate_json(line))
        if not self._ended():
            self._clean_up_after_keeper()

    def _accept(self, report: Report) -> None:
        if report.state == "restarting":
            logger.warning("Triton died and is started again: %s", report.reason)
        with self._changed:
            self._report = report
            self._changed.notify_all()

    def _clean_up_after_keeper(self) -> None:
        """The keeper is dead, which killed the server: remove what the two left."""
        if self.server_pid is not None:
            kill_group(self.server_pid)
        self._keeper.wait()
        remove_stale_regions()
        last_words = "; ".join(last_messages(read_log(self._log.fileno()), 1))
        reason = f"its keeper process ended unexpectedly, after these words: {last_words}"
        self._accept(Report(state="failed", reason=reason))


def start_keeper(order: Order, log: BinaryIO) -> subprocess.Popen[bytes]:
    """Start the keeper in a session of its own, which a Ctrl-C in the terminal does not reach."""
    keeper = subprocess.Popen(
        [sys.executable, "-m", "serving.triton.keeper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )
    assert keeper.stdin is not None
    with keeper.stdin as stdin:
        stdin.write(order.model_dump_json().encode())
    return keeper
