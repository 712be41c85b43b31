"""A client leaves: in every phase of a request, in every way, the worker's connection ends and nothing is left behind.

The phases are a table: each starts a request, brings it to where it waits for something, and says how the workers can
tell that it is over.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from router import front, retry, upstream
from router.fleet import State, Worker
from tests.e2e.fault_worker import Answer, Hang, HangAfterHead, SlowHead, Status, Stream
from tests.router.test_app import certificate
from tests.router.world import Client, World

SOON = 5.0  # seconds; far from every timeout of the router that could end the same thing
PLAIN = {"text": "hi"}
STREAMED = {"text": "hi", "stream": True}
HEAD = b"POST /generate HTTP/1.1\r\nHost: r\r\n"
REQUEST = HEAD + b'Content-Length: 13\r\n\r\n{"text":"hi"}'
BIG = b"data: " + b"x" * 100_000 + b"\n\n"

# -- ways to leave


def close(client: Client) -> None:
    client.writer.close()


def reset(client: Client) -> None:
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


def half_close(client: Client) -> None:
    """Send no more, but go on to read: nginx takes that for the end, too, and so does every server of the engines."""
    client.writer.write_eof()


WAYS = [close, reset, half_close]

# -- phases: what a client is in the middle of. Each returns once it is there.

Phase = Callable[[World, Client], Awaitable[None]]


async def _head(w: World, client: Client) -> None:
    client.send(HEAD)
    await w.until(lambda: any(each._rest for each in w.gate.fronts))


async def _sized_body(w: World, client: Client) -> None:
    client.send(REQUEST[:-1])
    await w.until(lambda: any(each._left for each in w.gate.fronts))


async def _chunked_body(w: World, client: Client) -> None:
    client.send(HEAD + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"tex')
    await w.until(lambda: any(each._chunks for each in w.gate.fronts))


async def _expecting(w: World, client: Client) -> None:
    client.send(HEAD + b"Expect: 100-continue\r\nContent-Length: 13\r\n\r\n")
    assert (await client.head()).status == 100


async def _queued(w: World, client: Client) -> None:
    w.workers[0].script(Hang())
    w.first = await w.connect()
    w.first.post("/generate", PLAIN)
    await w.until(lambda: w.tried() == [1])
    client.post("/generate", PLAIN)
    await w.until(lambda: len(w.plane.admission) == 1)


async def _prefill(w: World, client: Client) -> None:
    w.workers[0].script(Hang())
    client.post("/generate", PLAIN)
    await w.until(lambda: w.tried() == [1])


async def _headed(w: World, client: Client) -> None:
    w.workers[0].script(HangAfterHead())
    client.post("/generate", PLAIN)
    await w.until(lambda: any(exchange._head for exchange in w.plane.waiting))


async def _stream(w: World, client: Client) -> None:
    w.workers[0].script(Stream([b"data: 1\n\n"] * 2, gate=asyncio.Semaphore(1)))
    client.post("/generate", STREAMED)
    await client.reader.readuntil(b"data: 1\n\n")


async def _torn_event(w: World, client: Client) -> None:
    """The router holds half an event back."""
    w.workers[0].script(Stream([b"data: 1\n\ndata: 2", b""], gate=asyncio.Semaphore(1)))
    client.post("/generate", STREAMED)
    await client.reader.readuntil(b"data: 1\n\n")


async def _backpressure(w: World, client: Client) -> None:
    """The client does not read, so the router no longer reads from the worker."""
    w.workers[0].script(Stream(BIG for _ in range(1000)))
    client.writer.transport.pause_reading()
    client.post("/generate", STREAMED)
    await w.until(lambda: any(connection._paused for connection in connections(w)))


async def _rest(w: World, client: Client) -> None:
    """The router gives a fast stream time to gather."""
    gate = asyncio.Semaphore(1)
    w.workers[0].script(Stream([b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"], gate=gate))
    client.post("/generate", STREAMED)
    await client.reader.readuntil(b"data: 1\n\n")
    gate.release()
    await client.reader.readuntil(b"data: 2\n\n")
    assert [connection._resting for connection in connections(w)] == [True]


async def _pipelined(w: World, client: Client) -> None:
    """A second request waits behind the first."""
    w.workers[0].script(Hang())
    client.send(REQUEST + REQUEST)
    await w.until(lambda: w.tried() == [1])


async def _over_pipelined(w: World, client: Client) -> None:
    """More is sent ahead than the router keeps."""
    w.workers[0].script(Hang())
    client.send(REQUEST + b"x" * 2 * front.MAX_PIPELINED)
    await w.until(lambda: any(each.close for each in w.gate.fronts) and w.tried() == [1])


async def _http10(w: World, client: Client) -> None:
    w.workers[0].script(Stream([b"data: 1\n\n"] * 2, gate=asyncio.Semaphore(1)))
    body = b'{"text":"hi","stream":true}'
    client.send(b"POST /generate HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    await client.reader.readuntil(b"data: 1\n\n")


def connections(w: World) -> list[upstream.Connection]:
    """Those to workers that requests are out on."""
    exchanges = (each._exchange for each in w.gate.fronts)
    return [exchange._connection for exchange in exchanges if exchange and exchange._connection]


BEFORE_A_WORKER = [_head, _sized_body, _chunked_body, _expecting]
AT_A_WORKER = [_prefill, _headed, _stream, _torn_event, _backpressure, _rest, _pipelined, _over_pipelined, _http10]


async def gone(w: World) -> None:
    """The router has let go of the client and of all that was done for it."""
    await asyncio.wait_for(w.until(lambda: not w.gate.fronts), SOON)
    await asyncio.wait_for(w.quiet(), SOON)
    assert w.plane.metrics.queue_depth == 0
    assert [worker.failures for worker in w.fleet.workers.values()] == [0] * len(w.fleet.workers)
    left = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]
    assert [name for name in left if name.startswith(("Exchange", "Pool", "Loop"))] == []


# -- the promise


@pytest.mark.parametrize("leave", WAYS)
@pytest.mark.parametrize("phase", BEFORE_A_WORKER)
async def test_a_client_that_leaves_before_its_request_is_whole_troubles_no_worker(
    world, phase: Phase, leave: Callable[[Client], None]
) -> None:
    w = await world(1)
    client = await w.connect()
    await phase(w, client)
    leave(client)
    await gone(w)
    assert w.workers[0].connections == 0


@pytest.mark.parametrize("leave", WAYS)
@pytest.mark.parametrize("phase", AT_A_WORKER)
async def test_a_client_that_leaves_closes_the_connection_of_its_worker(
    world, monkeypatch, phase: Phase, leave: Callable[[Client], None]
) -> None:
    if phase is _rest:
        monkeypatch.setattr(upstream, "REST", 60.0)
    w = await world(1)
    client = await w.connect()
    await phase(w, client)
    leave(client)
    await asyncio.wait_for(w.workers[0].until(lambda: w.workers[0].aborts == 1), SOON)
    await gone(w)
    assert w.tried() == [1]
    assert (await w.post()).status == 200


@pytest.mark.parametrize("leave", WAYS)
async def test_a_client_that_leaves_the_queue_is_never_sent_on(world, leave: Callable[[Client], None]) -> None:
    w = await world(1, max_concurrent_requests=1)
    client = await w.connect()
    await _queued(w, client)
    leave(client)
    await asyncio.wait_for(w.until(lambda: len(w.plane.admission) == 0), SOON)
    assert w.metrics.inflight == 1
    w.first.close()
    await gone(w)
    assert w.tried() == [1]


@pytest.mark.parametrize("leave", WAYS)
async def test_a_client_that_leaves_during_the_pause_before_a_retry_is_not_retried(
    world, monkeypatch, leave: Callable[[Client], None]
) -> None:
    monkeypatch.setattr(retry, "PAUSE", (60.0, 60.0))
    w = await world(2)
    w.workers[0].script(Status(502))
    client = await w.connect()
    client.post("/generate", PLAIN)
    await w.until(lambda: w.plane.retrying == 1)
    (timer,) = [each._exchange._timer for each in w.gate.fronts]
    leave(client)
    await asyncio.wait_for(w.until(lambda: not w.gate.fronts), SOON)
    await asyncio.wait_for(w.quiet(), SOON)
    assert timer.cancelled()
    assert w.tried() == [1, 0]
    assert w.workers[0].open_connections == 0


# -- while the connection to the worker is being made


@asynccontextmanager
async def full() -> AsyncIterator[int]:
    """A port whose backlog is full: the kernel leaves a further SYN unanswered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        before = socket.create_connection(listener.getsockname())
        yield listener.getsockname()[1]
        before.close()


async def test_a_client_that_leaves_while_its_worker_does_not_take_the_connection(world) -> None:
    w = await world(0)
    async with full() as port:
        w.fleet.add(Worker("w0", f"http://127.0.0.1:{port}", lifecycle=State.READY, native_generate=True))
        client = await w.connect()
        client.post("/generate", PLAIN)
        await w.until(lambda: w.metrics.inflight == 1)
        client.close()
        await gone(w)


async def test_a_client_that_leaves_during_the_handshake_with_a_tls_worker(world) -> None:
    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()
        writer.close()

    w = await world(0)
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    w.fleet.add(Worker("w0", f"https://127.0.0.1:{port}", lifecycle=State.READY, native_generate=True))
    client = await w.connect()
    client.post("/generate", PLAIN)
    await w.until(lambda: w.metrics.inflight == 1)
    client.close()
    await asyncio.wait_for(ended.wait(), SOON)
    await gone(w)
    server.close()


# -- clients that speak TLS


@asynccontextmanager
async def tls_client(w: World, folder) -> AsyncIterator[Client]:
    cert, key = certificate(folder, "-nodes")
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(cert, key)
    server = await asyncio.get_running_loop().create_server(w.gate, "127.0.0.1", 0, ssl=ours)
    port = server.sockets[0].getsockname()[1]
    trusted = ssl.create_default_context(cafile=cert)
    client = Client(*await asyncio.open_connection("127.0.0.1", port, ssl=trusted))
    yield client
    client.writer.transport.abort()
    server.close()


@pytest.mark.parametrize("leave", [close, reset])
@pytest.mark.parametrize("phase", AT_A_WORKER)
async def test_a_tls_client_that_leaves_closes_the_connection_of_its_worker(
    world, tmp_path, monkeypatch, phase: Phase, leave: Callable[[Client], None]
) -> None:
    if phase is _rest:
        monkeypatch.setattr(upstream, "REST", 60.0)
    w = await world(1)
    async with tls_client(w, tmp_path) as client:
        await phase(w, client)
        leave(client)
        await asyncio.wait_for(w.workers[0].until(lambda: w.workers[0].aborts == 1), SOON)
        await gone(w)


# -- not gone


async def test_a_client_that_sends_no_more_still_gets_an_answer_that_is_complete(world) -> None:
    w = await world(1)
    client = await w.connect()
    client.send(REQUEST)
    answer = await client.answer()
    client.writer.write_eof()
    assert (answer.status, answer.complete) == (200, True)
    assert await client.closed()


async def test_one_client_that_leaves_is_no_loss_to_another_on_the_same_worker(world) -> None:
    w = await world(1)
    there = asyncio.Event()
    w.workers[0].script(Hang(), SlowHead(there, Answer()))
    leaving, staying = await w.connect(), await w.connect()
    leaving.post("/generate", PLAIN)
    await w.until(lambda: w.tried() == [1])
    staying.post("/generate", PLAIN)
    await w.until(lambda: w.tried() == [2])
    reset(leaving)
    await asyncio.wait_for(w.workers[0].until(lambda: w.workers[0].aborts == 1), SOON)
    there.set()
    assert (await staying.answer()).status == 200
