"""Streams of events through real sockets, cut into packets anywhere: the same bytes come out, each event at once."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router import upstream
from tests.e2e.fault_worker import LAST_CHUNK, SSE, Connection, Request, chunk, head
from tests.router.test_relay import cuts, event, heartbeat, split
from tests.router.world import Answer, Client, World

SOON = 5.0  # seconds; far more than anything here takes
STREAMED = {"text": "hi", "stream": True}
CHUNKED = SSE | {"transfer-encoding": "chunked"}

through_sockets = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@dataclass(frozen=True)
class Packets:
    """Send each piece by itself: the loop goes round in between, so that the router reads it before the next comes."""

    pieces: Sequence[bytes]
    end: bool = False

    async def answer(self, connection: Connection, request: Request) -> None:
        for piece in self.pieces:
            await connection.write(piece)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if self.end:
            connection.end()


def extended(pieces: Iterable[bytes], extension: bytes) -> Iterator[bytes]:
    """One chunk for each piece, with a chunk extension."""
    return (b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)


async def asked(w: World, body: object = STREAMED) -> Answer:
    """One request; what comes back, complete."""
    client = await w.connect()
    client.post("/generate", body)
    answer = await asyncio.wait_for(client.answer(), SOON)
    client.close()
    return answer


# -- the same bytes

streams = st.lists(event() | heartbeat() | st.just(b"data: torn"), max_size=6).map(b"".join)
extensions = st.sampled_from([b"", b";a", b";a=b", b';a="b;c"'])


@pytest.fixture
async def w(world) -> World:
    return await world(1)


@pytest.mark.parametrize("rest", [0.0, upstream.REST], ids=["unpaced", "paced"])
@through_sockets
@given(streams, cuts, cuts, extensions)
async def test_a_chunked_stream_comes_out_as_it_went_in(
    w: World, monkeypatch, rest: float, body: bytes, chunks: list[int], packets: list[int], extension: bytes
) -> None:
    monkeypatch.setattr(upstream, "REST", rest)
    wire = head(200, CHUNKED) + b"".join(extended(split(body, chunks), extension)) + LAST_CHUNK
    w.workers[0].script(Packets(split(wire, packets)))
    answer = await asked(w)
    assert (answer.status, answer.body, answer.complete) == (200, body, True)


@through_sockets
@given(streams, cuts)
async def test_a_stream_with_a_length_comes_out_as_it_went_in(w: World, body: bytes, packets: list[int]) -> None:
    wire = head(200, SSE | {"content-length": str(len(body))}) + body
    w.workers[0].script(Packets(split(wire, packets)))
    answer = await asked(w)
    assert (answer.body, answer.complete, answer.headers["content-length"]) == (body, True, str(len(body)))


@through_sockets
@given(streams.filter(bool), cuts)  # an answer that ends with its head is a worker that died
async def test_a_stream_that_ends_with_its_connection_comes_out_as_it_went_in(
    w: World, body: bytes, packets: list[int]
) -> None:
    w.workers[0].script(Packets(split(head(200, SSE) + body, packets), end=True))
    answer = await asked(w)
    assert (answer.body, answer.complete) == (body, True)


@through_sockets
@given(streams, cuts, cuts)
async def test_a_compressed_stream_comes_out_as_it_went_in(
    w: World, body: bytes, chunks: list[int], packets: list[int]
) -> None:
    packed = gzip.compress(body, mtime=0)
    wire = head(200, CHUNKED | {"content-encoding": "gzip"}) + b"".join(map(chunk, split(packed, chunks))) + LAST_CHUNK
    w.workers[0].script(Packets(split(wire, packets)))
    answer = await asked(w)
    assert (answer.headers["content-encoding"], answer.body, answer.complete) == ("gzip", packed, True)


@pytest.mark.parametrize("size", [64 * 1024, 1 << 20, 5 << 20])
async def test_a_long_event_comes_out_as_it_went_in(w: World, size: int) -> None:
    long = b"data: " + "ö".encode() * (size // 2) + b"\n\n"
    body = b"data: before\n\n" + long + b"data: after\n\n"
    w.workers[0].script(Packets([head(200, CHUNKED), *map(chunk, split(body, [9, 60_000, 400_000])), LAST_CHUNK]))
    answer = await asked(w)
    assert (answer.body == body, answer.complete) == (True, True)


# -- at once


class Arrived:
    """The body of a chunked answer, as far as it has come."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.body = b""

    async def exactly(self, body: bytes) -> None:
        """Wait until this much is there. Fails when it is something else, or does not come before more is sent."""
        while len(self.body) < len(body):
            size = int(await asyncio.wait_for(self._client.reader.readuntil(b"\r\n"), SOON), 16)
            self.body += (await self._client.reader.readexactly(size + 2))[:-2]
        assert self.body == body


class Stepwise:
    """Sends the pieces of a step when it is told to."""

    def __init__(self, more: dict[str, str]) -> None:
        self._more = more
        self.steps: asyncio.Queue[Sequence[bytes]] = asyncio.Queue()

    async def answer(self, connection: Connection, request: Request) -> None:
        await connection.write(head(200, CHUNKED | self._more))
        while step := await self.steps.get():
            await Packets(step).answer(connection, request)


async def in_steps(w: World, steps: Iterable[Sequence[bytes]], more: dict[str, str] | None = None) -> None:
    """Send one step after the other; each must have come out, whole, before the next is sent."""
    worker = Stepwise(more or {})
    w.workers[0].script(worker)
    client = await w.connect()
    client.post("/generate", STREAMED)
    arrived, expected = Arrived(client), b""
    for number, step in enumerate(steps):
        worker.steps.put_nowait([chunk(piece) for piece in step])
        if number == 0:
            assert (await asyncio.wait_for(client.head(), SOON)).status == 200
        expected += b"".join(step)
        await arrived.exactly(expected)
    client.close()


@through_sockets
@given(st.lists(event() | heartbeat(), min_size=1, max_size=6).filter(lambda found: found[0] != b""), cuts)
async def test_no_event_and_no_comment_waits_for_the_next(w: World, stream: list[bytes], places: list[int]) -> None:
    await in_steps(w, [split(each, places) for each in stream])


@pytest.mark.parametrize(
    "stream",
    [
        ["data: a\n\n", "data: b\n\n"],
        ["data: a\r\n\r\n", "data: b\r\n\r\n"],
        ["data: a\r\r", "data: b\r\r"],
        ["data: a\n\r", "\n", "data: b\r\n\n"],
        ["\ufeffdata: a\n\n", "data: 😀\n\n"],
        ["id: 1\nevent: delta\nretry: 10\ndata: a\n\n", "data\n\n"],
        [": ping\n", ":\n", ": ping\r\n", "data: a\n\n", ": ping\n\n"],
        ["\n", "\r\n", "data: a\n\n"],
        ["data: [DONE]\n\n"],
        ["data: " + "x" * 2_000_000 + "\n\n", "data: b\n\n"],
    ],
    ids=lambda stream: repr(stream)[:60],
)
async def test_what_is_whole_is_out_at_once(w: World, stream: list[str]) -> None:
    await in_steps(w, [[each.encode()] for each in stream])


async def test_a_compressed_event_is_out_at_once(w: World) -> None:
    packer = zlib.compressobj(wbits=31)  # gzip
    steps = [[packer.compress(b"data: %d\n\n" % number) + packer.flush(zlib.Z_SYNC_FLUSH)] for number in range(5)]
    await in_steps(w, steps, {"content-encoding": "gzip"})


async def test_a_compressed_stream_that_breaks_off_is_not_followed_by_plain_text(w: World) -> None:
    packed = gzip.compress(b"data: 1\n\n")
    w.workers[0].script(Packets([head(200, CHUNKED | {"content-encoding": "gzip"}), chunk(packed)], end=True))
    answer = await asked(w)
    assert (answer.body, answer.complete) == (packed, False)


def test_the_pieces_of_a_stream_are_cut_anywhere() -> None:
    body = "data: é😀\r\n\r\n".encode()
    for places in itertools.combinations(range(1, len(body)), 2):
        assert b"".join(split(body, list(places))) == body
