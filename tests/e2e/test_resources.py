"""`router` at the limits of its process: no file descriptor left, clients that do not read, long prompts."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import psutil
import pytest

from tests.e2e.commands import Command
from tests.e2e.fault_worker import LAST_CHUNK, SSE, Connection, FaultWorker, Request, chunk, head
from tests.router.test_app import certificate
from tests.router.world import Answer, Client

pytestmark = pytest.mark.e2e

PLAIN = {"text": "hi"}
STREAMED = {"text": "hi", "stream": True}
MB = 1 << 20


@pytest.fixture
async def worker() -> AsyncIterator[FaultWorker]:
    made = await FaultWorker.start()
    yield made
    await made.stop()


async def connect(router: Command, **options: object) -> Client:
    port = int(router.url.rsplit(":", 1)[1])
    return Client(*await asyncio.open_connection("127.0.0.1", port, **options))


async def post(client: Client) -> Answer:
    client.post("/generate", PLAIN)
    return await client.answer()


# -- file descriptors


class Crowd:
    """Many clients that connect and say nothing."""

    def __init__(self, router: Command, size: int) -> None:
        self._sockets = [socket.socket() for _ in range(size)]
        address = ("127.0.0.1", int(router.url.rsplit(":", 1)[1]))
        for each in self._sockets:
            each.setblocking(False)
            each.connect_ex(address)

    def taken(self) -> int:
        """How many have not been sent away."""
        return [self._open(each) for each in self._sockets].count(True)

    @staticmethod
    def _open(client: socket.socket) -> bool:
        try:
            return client.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def leave(self) -> None:
        for each in self._sockets:
            each.close()


def process(router: Command) -> psutil.Process:
    return psutil.Process(router.process.pid)


def connections(router: Command) -> list[object]:
    """All that it has, to clients and to workers."""
    return [each for each in process(router).net_connections("tcp") if each.status != psutil.CONN_LISTEN]


def cpu(router: Command) -> float:
    """Seconds."""
    times = process(router).cpu_times()
    return times.user + times.system


async def idle(router: Command) -> bool:
    """Whether it does next to nothing for a while."""
    before = cpu(router)
    await asyncio.sleep(1.0)
    return cpu(router) - before < 0.3


async def test_more_clients_than_the_open_files_allow_are_sent_away_and_the_others_served(start, worker):
    router = await start("router", "--worker-urls", worker.url, files=80)
    await router.ready(1)
    early = await connect(router)
    assert (await post(early)).status == 200
    crowd = Crowd(router, 300)
    await router.said("no more are taken")
    await router.until(lambda: crowd.taken() == 80 // 4 - 1)
    assert process(router).num_fds() < 60
    assert await idle(router)
    for connection in list(worker._open):  # so that each of these needs a descriptor of its own
        connection.end()
    assert (await post(early)).status == 200
    crowd.leave()
    await router.until(lambda: process(router).num_fds() < 25)
    late = await connect(router)
    assert (await post(late)).status == 200
    assert [line for line in router.lines if "Traceback" in line or "ERROR" in line] == []
    for client in (early, late):
        client.close()


def allow(router: Command, files: int) -> None:
    """Let it have this many open files from now on; it does not know."""
    _, hard = resource.prlimit(router.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(router.process.pid, resource.RLIMIT_NOFILE, (files, hard))


async def test_without_a_descriptor_a_request_is_told_to_come_again(start, worker):
    router = await start("router", "--worker-urls", worker.url, "--health-check-interval", "60")
    await router.ready(1)
    client = await connect(router)
    assert (await post(client)).status == 200
    for connection in list(worker._open):
        connection.end()
    await router.until(lambda: len(connections(router)) == 1)
    allow(router, process(router).num_fds() + 1)
    crowd = Crowd(router, 20)
    await router.until(lambda: crowd.taken() < 20)
    fds = process(router).num_fds()
    answer = await post(client)
    assert (answer.status, answer.json()["error"]["code"]) == (503, "no_socket")
    assert int(answer.headers["retry-after"]) > 0
    crowd.leave()
    await router.until(lambda: process(router).num_fds() < fds)
    assert (await post(client)).status == 200
    assert worker.aborts == 0
    client.close()


async def test_probes_that_lack_a_descriptor_say_nothing_of_the_worker(start, worker):
    often = ("--health-check-interval", "0.05", "--health-failure-threshold", "1")
    router = await start("router", "--worker-urls", worker.url, *often)
    await router.ready(1)
    client = await connect(router)
    assert (await post(client)).status == 200
    allow(router, process(router).num_fds() - 4)
    crowd = Crowd(router, 20)
    seen = len(worker.probes)
    assert await idle(router)
    assert len(worker.probes) - seen < 10  # of twenty
    client.send(b"GET /workers HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    (told,) = (await client.answer()).json()["workers"]
    assert (told["state"], told["last_error"]) == ("ready", None)
    crowd.leave()
    client.close()


async def test_a_listener_outlives_a_shortage(start, worker):
    router = await start("router", "--worker-urls", worker.url)
    await router.ready(1)
    fds = process(router).num_fds()
    for _ in range(3):
        allow(router, fds + 2)
        crowd = Crowd(router, 50)
        await router.until(lambda crowd=crowd: crowd.taken() <= 10)
        crowd.leave()
        allow(router, fds + 50)
        client = await connect(router)
        assert (await post(client)).status == 200
        client.close()


# -- memory


@dataclass
class Endless:
    """A fast answer of 100 MB; counts the bytes that have gone out."""

    framing: str
    sent: int = 0
    piece: bytes = field(default=b"data: " + b"x" * 997 + b"\n\n", repr=False)

    async def answer(self, connection: Connection, request: Request) -> None:
        framing = {
            "events": SSE | {"transfer-encoding": "chunked"},
            "chunked": {"transfer-encoding": "chunked"},
            "sized": {"content-length": str(100_000 * len(self.piece))},
        }
        await connection.write(head(200, framing[self.framing]))
        for _ in range(100_000):
            await connection.write(self.piece if self.framing == "sized" else chunk(self.piece))
            self.sent += len(self.piece)
        await connection.write(b"" if self.framing == "sized" else LAST_CHUNK)

    async def stuck(self) -> int:
        """Wait until nothing moves any more; bytes sent by then."""
        before = -1
        while self.sent != before:
            before = self.sent
            await asyncio.sleep(0.3)
        return before


class Begun:
    """A stream that goes on and on."""

    async def answer(self, connection: Connection, request: Request) -> None:
        await connection.write(head(200, SSE | {"transfer-encoding": "chunked"}) + chunk(b"data: 1\n\n"))
        await asyncio.Event().wait()


async def read(client: Client) -> None:
    """Read a stream to its end and keep nothing."""
    while await client.reader.read(1 << 16):
        pass


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("framing", ["events", "chunked", "sized"])
async def test_a_client_that_does_not_read_a_fast_stream_costs_less_than_a_megabyte(
    start, worker, tmp_path, framing: str, tls: bool
):
    cert, key = certificate(tmp_path, "-nodes") if tls else ("", "")
    secure = ("--ssl-certfile", cert, "--ssl-keyfile", key) if tls else ()
    options = {"ssl": ssl.create_default_context(cafile=cert)} if tls else {}
    router = await start("router", "--worker-urls", worker.url, *secure)
    await router.said("w0 is ready")
    worker.default = endless = Endless(framing)
    warm = await connect(router, **options)
    warm.send(
        b"POST /generate HTTP/1.1\r\nHost: r\r\nConnection: close\r\nContent-Length: 13\r\n\r\n" + b'{"text":"hi"}'
    )
    await read(warm)
    warm.close()
    before = process(router).memory_info().rss
    whole = endless.sent
    clients = [await connect(router, **options, limit=1000) for _ in range(12)]
    for client in clients:
        client.post("/generate", STREAMED)
    assert await endless.stuck() - whole < 12 * whole / 2  # they do wait
    # On a busy machine the last pieces are still on their way through TLS when the worker has stopped.
    await asyncio.wait_for(
        worker.until(lambda: (process(router).memory_info().rss - before) / len(clients) < MB), timeout=5.0
    )
    for client in clients:
        client.writer.transport.abort()
    await asyncio.wait_for(worker.until(lambda: worker.aborts == len(clients)), 5.0)


async def test_an_open_stream_does_not_hold_its_prompt(start, worker):
    router = await start("router", "--worker-urls", worker.url, "--policy", "round_robin")
    await router.ready(1)
    worker.default = Begun()
    prompt = {"text": "x" * 4 * MB, "stream": True}
    clients = [await connect(router) for _ in range(9)]
    for number, client in enumerate(clients):
        client.post("/generate", prompt)
        await client.reader.readuntil(b"data: 1\n\n")
        if number == 0:
            before = process(router).memory_info().rss
    assert (process(router).memory_info().rss - before) / 8 < 2 * MB
    for client in clients:
        client.close()


async def test_a_worker_that_does_not_read_costs_one_copy_of_the_body(start, worker, monkeypatch):
    router = await start("router", "--worker-urls", worker.url, "--policy", "round_robin", "--request-timeout", "3")
    await router.ready(1)
    monkeypatch.setattr(Connection, "data_received", lambda self, data: self._transport.pause_reading())
    clients = [await connect(router) for _ in range(4)]
    before = process(router).memory_info().rss
    for client in clients:
        client.post("/generate", {"text": "x" * 10 * MB})
        await client.writer.drain()
    await worker.until(lambda: worker.open_connections == 4)
    cost = (process(router).memory_info().rss - before) / 4
    assert cost < 30 * MB  # the body, and the prompt that the policies see
    for client in clients:
        assert (await client.answer()).json()["error"]["code"] == "worker_timeout"
    await router.until(lambda: process(router).memory_info().rss - before < 20 * MB)
    for client in clients:
        client.close()
