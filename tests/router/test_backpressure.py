"""Clients and workers that are slow: whoever sends waits, the memory does not grow, nothing is lost, or it is cut."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from router import front, upstream
from router.front import HELD_AT_MOST
from tests.e2e.fault_worker import Status, Stream
from tests.router.world import Client, World

REQUEST = b'POST /generate HTTP/1.1\r\nHost: r\r\nContent-Length: 13\r\n\r\n{"text":"hi"}'
STREAMED = {"text": "hi", "stream": True}
READ_AT_MOST = 256_000  # bytes that uvloop reads at once
MB = 1 << 20


async def unread(w: World) -> Client:
    """A client that reads nothing until it is told to."""
    client = await w.connect()
    client.writer.transport.pause_reading()
    return client


def read_on(client: Client) -> None:
    client.writer.transport.resume_reading()


def held(w: World) -> int:
    """Bytes in the router that its clients have not taken."""
    return sum(each._transport.get_write_buffer_size() for each in w.gate.fronts)


async def standstill(w: World, figure: Callable[[], int]) -> int:
    """Wait until a client holds the router up and `figure` no longer changes."""
    await w.until(lambda: any(each._paused for each in w.gate.fronts))
    before = -1
    while (now := figure()) != before:
        before = now
        await asyncio.sleep(0.1)
    return before


class Counted:
    """So many events; counts those that were sent."""

    def __init__(self, count: int, size: int) -> None:
        self.sent = 0
        self.event = b"data: " + b"x" * (size - 8) + b"\n\n"
        self._count = count

    def __iter__(self):
        for _ in range(self._count):
            self.sent += 1
            yield self.event


# -- a client that does not read


@pytest.mark.parametrize("size", [100, 10_000, 1_000_000])
async def test_the_router_holds_no_more_of_a_stream_than_one_read(world, size: int) -> None:
    w = await world(1)
    events = Counted(100_000_000 // size, size)
    w.workers[0].script(Stream(events))
    client = await unread(w)
    client.post("/generate", STREAMED)
    assert await standstill(w, lambda: events.sent) < 60_000_000 // size  # the rest would not fit into any socket
    assert held(w) <= HELD_AT_MOST + READ_AT_MOST + 64 * 1024  # and an event that was not whole
    client.close()


async def test_pipelined_requests_wait_for_a_client_that_does_not_read(world) -> None:
    w = await world(1)
    size = 200_000  # in one read, so that its last bytes are those that are too much
    w.workers[0].default = Status(200, {}, b"x" * size)
    client = await unread(w)
    client.send(REQUEST * 500)
    assert await standstill(w, lambda: w.tried()[0]) < 300
    assert held(w) <= HELD_AT_MOST + READ_AT_MOST
    read_on(client)
    for _ in range(500):
        answer = await client.answer()
        assert (answer.status, len(answer.body)) == (200, size)


async def test_refusals_wait_for_a_client_that_does_not_read(world) -> None:
    """Each is larger than its request, so they would be a way to fill the memory."""
    w = await world(1)
    client = await unread(w)
    bad = b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Length: 0\r\n\r\n"

    async def send() -> None:
        for _ in range(3000):
            client.send(bad * 100)
            await client.writer.drain()

    sending = asyncio.create_task(send())
    await standstill(w, lambda: held(w))
    assert held(w) <= HELD_AT_MOST + READ_AT_MOST
    sending.cancel()
    client.writer.transport.abort()


async def test_a_client_that_reads_in_fits_and_starts_gets_all_of_a_fast_stream(world, monkeypatch) -> None:
    """Reading from the worker is paused for two reasons at once: the client, and to let events gather."""
    rng = random.Random(5)
    w = await world(1)
    for rest in (0.0, upstream.REST, 0.01):
        monkeypatch.setattr(upstream, "REST", rest)
        events = [b"data: " + rng.randbytes(rng.choice((5, 500, 50_000))).hex().encode() + b"\n\n" for _ in range(600)]
        w.workers[0].script(Stream(events))
        client = await unread(w)
        client.post("/generate", STREAMED)
        reading = asyncio.create_task(client.answer())
        while not reading.done():
            read_on(client)
            await asyncio.sleep(rng.choice((0.0, 0.0005, 0.002)))
            if client.writer.transport.is_reading() and not reading.done():
                client.writer.transport.pause_reading()
            await asyncio.sleep(rng.choice((0.0, 0.0005, 0.002)))
        answer = reading.result()
        assert (answer.body == b"".join(events), answer.complete) == (True, True)
        client.close()


async def test_a_worker_that_breaks_off_while_its_client_does_not_read_is_told_when_it_does(world) -> None:
    w = await world(1)
    events = Counted(2000, 10_000)

    class Breaks:
        async def answer(self, connection, request) -> None:
            writing = asyncio.create_task(Stream(events).answer(connection, request))
            await w.until(lambda: any(each._paused for each in w.gate.fronts))
            writing.cancel()
            connection.end()

    w.workers[0].script(Breaks())
    client = await unread(w)
    client.post("/generate", STREAMED)
    await w.until(lambda: any(each._paused for each in w.gate.fronts))
    read_on(client)
    answer = await client.answer()
    assert answer.body.endswith(b"}}\n\n")
    assert b'"upstream_error"' in answer.body[-300:]
    assert not answer.complete
    await w.quiet()


# -- a client that sends slowly


async def test_a_head_that_drips_is_cut_when_its_time_is_over(world, monkeypatch) -> None:
    monkeypatch.setattr(front, "HEAD_TIMEOUT", 0.1)
    w = await world(1)
    client = await w.connect()

    async def drip() -> None:
        client.send(b"POST /generate HTTP/1.1\r\nHost: r\r\nX-Long: ")
        while True:
            client.send(b"x")
            await asyncio.sleep(0.01)

    dripping = asyncio.create_task(drip())
    assert (await client.answer()).status == 408
    dripping.cancel()


@pytest.mark.parametrize("framing", ["sized", "chunked"])
async def test_a_body_that_drips_is_taken_as_long_as_it_grows(world, monkeypatch, framing: str) -> None:
    monkeypatch.setattr(front, "BODY_TIMEOUT", 0.1)
    w = await world(1)
    client = await w.connect()
    body = b'{"text":"' + b"x" * 30 + b'"}'
    line = b"Transfer-Encoding: chunked" if framing == "chunked" else b"Content-Length: %d" % len(body)
    client.send(b"POST /generate HTTP/1.1\r\nHost: r\r\n" + line + b"\r\n\r\n")
    for number in range(len(body)):
        byte = body[number : number + 1]
        client.send(b"1\r\n%b\r\n" % byte if framing == "chunked" else byte)
        await asyncio.sleep(0.01)
    client.send(b"0\r\n\r\n" if framing == "chunked" else b"")
    assert (await client.answer()).status == 200
    assert w.workers[0].requests[0].body == body


@pytest.mark.parametrize("beginning", [b"Content-Length: 9\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"])
async def test_a_body_that_does_not_grow_is_cut(world, monkeypatch, beginning: bytes) -> None:
    monkeypatch.setattr(front, "BODY_TIMEOUT", 0.05)
    w = await world(1)
    client = await w.connect()
    client.send(b"POST /generate HTTP/1.1\r\nHost: r\r\n" + beginning)
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert w.tried() == [0]


async def test_a_client_that_goes_on_sending_after_a_refusal_is_cut(world, monkeypatch) -> None:
    monkeypatch.setattr(front, "LINGER", 0.05)
    w = await world(1, max_payload_size=1000)
    client = await w.connect()
    client.send(b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Length: 5000000000\r\n\r\n")
    assert (await client.answer()).status == 413

    async def send() -> None:
        while True:
            client.send(b"x" * 10_000)
            await asyncio.sleep(0)

    sending = asyncio.create_task(send())
    await w.until(lambda: not w.gate.fronts)
    sending.cancel()
    client.writer.transport.abort()


# -- a worker that reads slowly


async def test_a_request_that_its_worker_does_not_read_ends_at_the_request_timeout(world) -> None:
    w = await world(1)
    client = await w.connect()
    body = {"text": "x" * 20 * MB}
    client.post("/generate", body)
    await w.workers[0].until(lambda: w.workers[0].open_connections == 1)
    (connection,) = w.workers[0]._open
    connection._transport.pause_reading()
    await w.until(lambda: w.plane.waiting != {})
    w.plane.tick(w.plane.clock() + w.config.request_timeout)
    answer = await client.answer()
    assert (answer.status, answer.json()["error"]["code"]) == (504, "worker_timeout")
    connection._transport.resume_reading()
    await w.workers[0].until(lambda: w.workers[0].open_connections == 0)
    await w.quiet()
    assert w.tried() == [0]
