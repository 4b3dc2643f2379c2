import os
import socket
from collections.abc import Iterator

import pytest

from serving.errors import PortInUseError, ServingError
from serving.triton.ports import AUTOMATIC_PORTS, check_port_free, choose_ports

HOST = "127.0.0.1"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server((HOST, 0)) as listener:
        yield listener.getsockname()[1]


def test_ports_that_are_not_asked_for_are_free_and_differ() -> None:
    ports = choose_ports(HOST)
    chosen = {ports.grpc, ports.http, ports.metrics}
    assert len(chosen) == 3
    for port in chosen:
        assert port in AUTOMATIC_PORTS
        check_port_free(HOST, port)


def test_an_asked_port_is_taken_as_it_is() -> None:
    free = choose_ports(HOST).http
    assert choose_ports(HOST, http=free).http == free


def test_a_taken_port_is_refused_with_its_owner_and_what_to_do(taken_port: int) -> None:
    with pytest.raises(PortInUseError) as caught:
        choose_ports(HOST, grpc=taken_port)
    for part in (f"port {taken_port}", f"(pid {os.getpid()})", "choose another port"):
        assert part in str(caught.value)


def test_a_port_asked_for_twice_is_refused() -> None:
    with pytest.raises(ServingError, match="must differ"):
        choose_ports(HOST, grpc=9000, http=9000)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ServingError, match="an address of this machine"):
        check_port_free("192.0.2.1", 9000)
