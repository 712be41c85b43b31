"""What the limit on open files allows, and whose fault a failed connection is."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import sys

import pytest

from router import app, sockets
from router.app import Router
from router.config import RouterConfig
from router.fleet import Worker
from router.sockets import exhausted, most_clients, raise_limit
from router.upstream import GONE, Pool
from tests.router.test_app import certificate


@pytest.mark.parametrize(("limit", "clients"), [(80, 20), (256, 64), (1024, 448), (20_000, 9936)])
def test_each_client_may_need_a_worker_and_some_files_are_no_clients(limit: int, clients: int) -> None:
    assert most_clients(limit) == clients


def test_the_limit_is_raised_as_far_as_it_goes(monkeypatch) -> None:
    limits = [(100, 5000)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, both: limits.append(both))
    assert raise_limit() == 5000
    assert limits[-1] == (5000, 5000)


def test_a_limit_that_cannot_be_raised_is_as_it_is(monkeypatch) -> None:
    def refuse(which: int, both: tuple[int, int]) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_limit() == 100


def test_without_a_limit_there_is_none(monkeypatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda which, both: None)
    assert raise_limit() == sys.maxsize


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL])
def test_what_has_run_out_here_is_no_workers_fault(code: int) -> None:
    assert exhausted(OSError(code, os.strerror(code)))


@pytest.mark.parametrize("code", [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ETIMEDOUT])
def test_a_worker_that_is_not_there_is(code: int) -> None:
    assert not exhausted(OSError(code, os.strerror(code)))


def test_a_name_that_cannot_be_looked_up_for_want_of_a_descriptor_is_no_workers_fault(monkeypatch) -> None:
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert not exhausted(unknown)

    def none_left() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(sockets.socket, "socket", none_left)
    assert exhausted(unknown)


# -- the listener


async def test_clients_that_vanish_are_found_out() -> None:
    router = Router(RouterConfig(port=0))
    await router.start()
    _, writer = await asyncio.open_connection("127.0.0.1", router.port)
    while not router._gate.fronts:
        await asyncio.sleep(0.002)
    (front,) = router._gate.fronts
    accepted = front._transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    if hasattr(socket, "TCP_KEEPIDLE"):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
    writer.close()
    await router.close()


async def test_a_worker_whose_machine_vanishes_is_found_out_whether_it_was_to_send_or_to_take() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    pool = Pool(asyncio.get_running_loop())
    connection = await pool.connect(Worker("w0", f"http://127.0.0.1:{listener.getsockname()[1]}"))
    watched = connection.transport.get_extra_info("socket")
    assert watched.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        assert watched.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == GONE // 2
        assert watched.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == GONE * 1000
    connection.abort()
    listener.close()
    await asyncio.sleep(0)  # its end is told


async def test_a_client_that_never_begins_its_tls_is_cut(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(app, "HANDSHAKE_TIMEOUT", 0.1)
    cert, key = certificate(tmp_path, "-nodes")
    router = Router(RouterConfig(port=0, ssl_certfile=cert, ssl_keyfile=key))
    await router.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    assert await reader.read() == b""
    writer.close()
    await router.close()


async def test_no_more_clients_are_taken_than_there_is_room_for(monkeypatch, caplog) -> None:
    router = Router(RouterConfig(port=0))
    await router.start()
    router._gate.most = 3

    async def client(request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
        writer.write(request)
        return reader, writer

    inference = b"POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n"
    page = inference.replace(b"/generate", b"/add_worker")  # aiohttp waits for its body, too
    here = [await client(page), await client(inference), await client(page)]
    while (router._gate.others(), len(router._gate.fronts)) != (2, 1):
        await asyncio.sleep(0.002)
    for _ in range(2):
        late, writer = await client(b"")
        assert await late.read() == b""
        writer.close()
    assert [record.message[:9] for record in caplog.records if "no more are taken" in record.message] == ["3 clients"]
    here[0][1].close()
    while router._gate.others() == 2:
        await asyncio.sleep(0.002)
    again, writer = await client(b"GET /liveness HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert b"200" in await again.readline()
    for each in [*(writer for _, writer in here), writer]:
        each.close()
    await router.close()
