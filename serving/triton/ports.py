"""Which TCP ports a server gets: free ones by default, or a clear error about the asked one."""

import errno
import random
import socket
from contextlib import ExitStack
from dataclasses import dataclass

import psutil

from serving.errors import PortInUseError, ServingError

# Below Linux's ephemeral range (32768 and up): no outgoing connection takes one of these while a
# crashed server is down, so that it can come back on its port.
AUTOMATIC_PORTS = range(20_000, 32_768)
ATTEMPTS = 100


@dataclass(frozen=True)
class Ports:
    """Where one Triton listens."""

    grpc: int
    http: int
    metrics: int


def choose_ports(
    host: str, *, grpc: int | None = None, http: int | None = None, metrics: int | None = None
) -> Ports:
    """The asked ports, and a free one for each that is None. The three differ.

    Raises PortInUseError naming the asked port that is taken.
    """
    asked = {"grpc": grpc, "http": http, "metrics": metrics}
    named = [port for port in asked.values() if port is not None]
    if len(named) != len(set(named)):
        raise ServingError(f"the ports {named} must differ: give each service its own")
    with ExitStack() as held:  # until all are chosen, so that none is chosen twice
        chosen = {
            name: held.enter_context(_listen(host, port)).getsockname()[1]
            for name, port in asked.items()
            if port is not None
        }
        for name in asked.keys() - chosen.keys():
            chosen[name] = held.enter_context(_listen_anywhere(host)).getsockname()[1]
    return Ports(**chosen)


def check_port_free(host: str, port: int) -> None:
    """Raises PortInUseError when something listens there, and says what and what to do."""
    _listen(host, port).close()


def _listen_anywhere(host: str) -> socket.socket:
    for port in random.sample(AUTOMATIC_PORTS, ATTEMPTS):
        try:
            return _listen(host, port)
        except PortInUseError:
            continue
    raise PortInUseError(
        f"no free port on {host} after {ATTEMPTS} attempts between {AUTOMATIC_PORTS.start} and "
        f"{AUTOMATIC_PORTS.stop - 1}: stop servers that you no longer need, or name the ports"
    )


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # As servers do: closed connections that linger do not make a port look taken.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} on {host} is taken by {_owner(port)}: stop it or choose another port"
            ) from error
        raise ServingError(
            f"cannot listen on {host}:{port} ({error.strerror}): name an address of this machine "
            "and a port that you may use"
        ) from error
    return listener


def _owner(port: int) -> str:
    """The process that listens on a port, as far as this user may see it."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN
            if listens and connection.laddr[1:] == (port,) and connection.pid is not None:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return "another process"
