"""The ports that workers can have."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from launcher.plan import LAST_PORT
from launcher.ports import Ports, ephemeral, nobody_listens


@pytest.fixture
def ports() -> Iterator[Ports]:
    ports = Ports()
    yield ports
    ports.close()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return int(holder.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_somebody_listens_on_is_not_free(ports: Ports, host: str):
    with socket.create_server((host, 0)) as holder:
        assert not ports.free(holder.getsockname()[1])


def test_a_port_with_old_connections_only_is_free(port: int):
    with (
        socket.create_server(("127.0.0.1", port)) as server,
        socket.create_connection(("127.0.0.1", port)) as client,
        server.accept()[0] as accepted,
    ):
        accepted.close()  # the side that closes first keeps the connection in TIME_WAIT
        client.recv(1)
    assert nobody_listens(port)


def test_a_port_that_another_launch_has_claimed_is_not_free(ports: Ports, port: int):
    other = Ports()
    assert other.free(port)
    assert not ports.free(port)
    other.close()
    assert ports.free(port)


def test_ones_own_port_stays_free(ports: Ports, port: int):
    assert ports.free(port)
    assert ports.free(port)


def test_the_ports_of_outgoing_connections_are_known():
    low, high = ephemeral()
    assert 1024 <= low < high <= LAST_PORT


def test_a_port_is_looked_at_on_the_address_that_it_is_for():
    with socket.create_server(("127.0.0.2", 0)) as holder:
        taken = holder.getsockname()[1]
        assert not nobody_listens(taken, "127.0.0.2")
        assert nobody_listens(taken, "127.0.0.3")
