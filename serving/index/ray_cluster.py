"""The way to a Ray cluster, and what its machines offer.

What is named in Ray's calls (orders, reports) travels by Ray's own RPC; vectors never do.
"""

import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from models.manifest import Record
from serving.errors import ClusterError
from serving.index.footprint import mib

try:
    import ray as untyped
except ImportError as missing:
    raise ClusterError("Ray is not installed: run `pip install 'farshore[ray]'`") from missing

ray: Any = untyped  # its own annotations lack much of it

CONNECT_TIMEOUT_S = 5.0


class Machine(Record):
    """One machine of the cluster (Ray calls it a node) and what it offers in all."""

    address: str
    """Its IP address."""
    memory_bytes: int
    """Ray's logical memory: what was said with `ray start --memory`, else a share of the machine's."""
    cpus: float
    gpus: float = 0.0


@contextmanager
def connected(address: str, namespace: str | None = None) -> Iterator[None]:
    """A connection to the cluster at `address` (host:port, or auto: the one that runs on this machine).

    Raises ClusterError when there is none.
    """
    check_answers(address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, namespace=namespace, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster at {address} can be used: {first_line(error)}; start one with `ray start "
            "--head`, and run this on one of its machines"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(
            signal.SIGTERM, before
        )  # Ray's own would exit without the command's last words
    try:
        yield
    finally:
        ray.shutdown()


def check_answers(address: str) -> None:
    """Raise ClusterError when nothing listens at host:port: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdecimal():
        raise ClusterError(
            f"{address!r} is no address of a Ray cluster: write host:port, or auto for the one that runs here"
        )
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({error}): start one with `ray start --head`, or name the "
            "address that it printed"
        ) from error


def machines() -> list[Machine]:
    """The machines that are there now."""
    return [
        Machine(
            address=node["NodeManagerAddress"],
            memory_bytes=int(node["Resources"].get("memory", 0)),
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def largest(offered: Sequence[Machine]) -> Machine:
    """The machine with most memory. Raises ClusterError when there is none."""
    if not offered:
        raise ClusterError("the Ray cluster has no machine: start some with `ray start --address`")
    return max(offered, key=lambda machine: machine.memory_bytes)


def over(what: str, needed_bytes: int, offered: Sequence[Machine]) -> str | None:
    """Why something fits no machine, with the number that is over; None when it fits one."""
    best = largest(offered)
    if needed_bytes <= best.memory_bytes:
        return None
    return (
        f"{what} {mib(needed_bytes)} MiB and the largest of {len(offered)} machines ({best.address}) offers "
        f"{mib(best.memory_bytes)} MiB to Ray: it is {mib(needed_bytes - best.memory_bytes)} MiB over"
    )


def first_line(error: BaseException) -> str:
    """What an error says, without the rest of its story."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
