"""The worker's side of a connection: where answers end, when it is used again, when it is not; TLS and IPv6."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from router import upstream
from router.crowd import NAP
from router.fleet import State, Worker
from router.http1 import ResponseHead
from router.retry import Fault
from router.upstream import REST, WORTH_A_READ, Connection, Pool, address, authority
from tests.e2e.fault_worker import Connection as Serving
from tests.e2e.fault_worker import FaultWorker, Status, Stream
from tests.router.test_app import certificate
from tests.router.test_smuggling import ANSWERS
from tests.router.wire import Loop, Transport, Wire
from tests.router.world import World

PLAIN = {"text": "hi"}
STREAM = {"text": "hi", "stream": True}
FINE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
REQUEST = b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Length: 2\r\n\r\n{}"


class Heard:
    """A listener that keeps what it is told, and wants chunks without their framing if it is told to `decode`."""

    def __init__(self, decode: bool = True):
        self._decode = decode
        self.head: ResponseHead | None = None
        self.pieces: list[bytes] = []
        self.last = False
        self.lost: Fault | None = None

    def on_head(self, head: ResponseHead) -> bool:
        self.head = head
        return self._decode

    def on_body(self, data: bytes, last: bool) -> None:
        self.pieces.append(data)
        self.last = last

    def on_lost(self, fault: Fault, reason: str) -> None:
        self.lost = fault


class Line:
    """One connection to a worker that is nobody, and who listens to it."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.worker = self.wire.fleet.workers["w0"]
        self.pool = self.wire.plane.pool
        self.connection = Connection(self.worker, self.pool)
        self.transport = Transport(self.wire.loop, self.connection)

    def ask(self, decode: bool = True) -> Heard:
        heard = Heard(decode)
        self.connection.send(heard, REQUEST, b"")
        return heard

    def hear(self, *pieces: bytes, decode: bool = True) -> Heard:
        """Ask, and answer in these pieces."""
        heard = self.ask(decode)
        for piece in pieces:
            self.transport.arrive(piece)
            self.wire.loop.wait(0.01)
        return heard

    def kept(self) -> bool:
        """Whether the connection is there to be used again; it is taken."""
        return self.pool.take(self.worker) is self.connection


# -- where an answer ends


SHORT = [name for name, (raw, closes, told) in ANSWERS.items() if told.whole and not closes and len(raw) < 1000]


@pytest.mark.parametrize("name", SHORT)
def test_an_answer_that_comes_byte_by_byte_is_the_same_answer(name: str) -> None:
    raw = ANSWERS[name][0]
    whole, bytewise = Line(), Line()
    one, many = whole.hear(raw), bytewise.hear(*(raw[at : at + 1] for at in range(len(raw))))
    if name.startswith("chunked, and"):  # only in one piece with it is the end of chunks not known
        assert (one.lost, many.last) == (Fault.GATEWAY, True)
        assert not bytewise.kept()
        return
    assert (many.head, many.last) == (one.head, one.last)
    assert (many.lost is None) == (one.lost is None)
    assert one.lost or b"".join(many.pieces) == b"".join(one.pieces)
    assert bytewise.kept() == whole.kept() == ANSWERS[name][2].again


def test_chunks_are_passed_on_as_they_came_to_who_does_not_want_them_decoded() -> None:
    body = b'2;a="b"\r\nok\r\n000\r\nX-Sum: 1\r\n\r\n'
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    for pieces in ((head + body,), (head, body), tuple((head + body)[at : at + 1] for at in range(len(head + body)))):
        heard = Line().hear(*pieces, decode=False)
        assert (b"".join(heard.pieces), heard.last) == (body, True)


@pytest.mark.parametrize("cut", [1, 30_000, 65_000])
def test_a_head_is_too_long_however_it_comes(cut: int) -> None:
    raw = b"HTTP/1.1 200 OK\r\nX: " + b"y" * upstream.MAX_HEAD + b"\r\ncontent-length: 0\r\n\r\n"
    assert Line().hear(raw).lost is Fault.GATEWAY
    assert Line().hear(raw[:cut], raw[cut:]).lost is Fault.GATEWAY


# -- how it fails


@pytest.mark.parametrize(
    ("said", "fault"),
    [(b"", Fault.STALE), (b"H", Fault.DIED), (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", Fault.DIED)],
)
def test_a_reused_connection_that_ends_before_any_byte_was_stale(said: bytes, fault: Fault) -> None:
    line = Line()
    assert line.hear(FINE).last
    assert line.kept()
    heard = line.hear(said)
    line.transport.leave()
    assert heard.lost is fault


def test_a_fresh_connection_is_never_stale() -> None:
    line = Line()
    heard = line.ask()
    line.transport.leave()
    assert heard.lost is Fault.DIED


def test_a_worker_that_dies_after_an_interim_answer_was_not_stale() -> None:
    line = Line()
    line.hear(FINE)
    assert line.kept()
    heard = line.hear(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    line.transport.leave()
    assert heard.lost is Fault.DIED


def test_a_body_up_to_the_close_is_whole_unless_the_close_is_a_reset() -> None:
    for error, whole in ((None, True), (ConnectionResetError(), False)):
        line = Line()
        heard = line.hear(b"HTTP/1.1 200 OK\r\n\r\nok")
        line.transport.leave(error)
        assert (heard.last, heard.lost) == ((True, None) if whole else (False, Fault.DIED))


# -- when it is used again


def test_a_connection_that_says_something_unasked_is_closed() -> None:
    line = Line()
    line.hear(FINE)
    line.transport.arrive(FINE)
    assert line.transport.closing
    assert not line.kept()


def test_a_connection_that_its_worker_closed_is_not_used_again() -> None:
    line = Line()
    line.hear(FINE)
    line.transport.leave()
    assert not line.kept()


def test_a_connection_that_was_idle_for_too_long_is_not_used_again() -> None:
    line = Line()
    line.hear(FINE)
    line.wire.loop.wait(upstream.IDLE_AT_MOST - 0.1)
    assert line.kept()
    line.hear(FINE)
    line.wire.loop.wait(upstream.IDLE_AT_MOST + 0.1)
    assert not line.kept()
    assert line.transport.closing


def test_a_connection_is_closed_once_it_was_idle_for_too_long() -> None:
    line = Line()
    line.hear(FINE)
    line.wire.loop.wait(upstream.IDLE_AT_MOST + 0.1)
    line.pool.reap()
    assert line.transport.closing


def test_a_connection_to_a_worker_that_left_is_closed() -> None:
    line = Line()
    line.hear(FINE)
    line.pool.drop(line.worker)
    assert line.transport.closing
    assert not line.kept()


def test_a_connection_whose_request_is_not_out_yet_is_not_used_again() -> None:
    """A worker may refuse a long request before it has read it all; the rest of it is in the way of the next one."""
    line = Line()
    line.transport.unsent = 100_000
    assert line.hear(FINE).last
    assert not line.kept()
    assert line.transport.closing


def test_an_aborted_connection_tells_its_listener_nothing_more() -> None:
    line = Line()
    heard = line.hear(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok")
    line.connection.abort()
    line.transport.leave()
    line.wire.loop.turn()
    assert (heard.pieces, heard.last, heard.lost) == ([b"ok"], False, None)


# -- backpressure


def test_a_paused_connection_reads_nothing_until_it_is_resumed() -> None:
    line = Line()
    heard = line.hear(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok")
    line.connection.pause()
    line.transport.arrive(b"ok")
    line.wire.loop.wait(1)
    assert heard.pieces == [b"ok"]
    line.connection.resume()
    line.wire.loop.turn()
    assert heard.pieces == [b"ok", b"ok"]


def test_a_connection_that_was_paused_at_its_answers_end_reads_again() -> None:
    line = Line()

    class Pausing(Heard):
        def on_body(self, data: bytes, last: bool) -> None:
            super().on_body(data, last)
            if not last:
                line.connection.pause()

    heard = Pausing()
    line.connection.send(heard, REQUEST, b"")
    line.transport.arrive(FINE[:-1])
    line.connection.resume()
    line.transport.arrive(FINE[-1:])
    assert heard.last
    assert line.kept()
    assert line.hear(FINE).last


# -- events faster than REST

EVENTS_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"b\r\ndata: one\n\n\r\n"


class Streaming(Line):
    """The head of an event stream has come, a while ago."""

    def __init__(self, head: bytes = EVENTS_HEAD) -> None:
        super().__init__()
        self.heard = self.ask()
        self.wire.loop.wait(0.5)
        self.transport.arrive(head)

    def comes(self, data: bytes, after: float) -> None:
        self.wire.loop.wait(after)
        assert self.transport.reading
        self.transport.arrive(data)


def test_events_that_come_one_by_one_are_read_as_they_come() -> None:
    line = Streaming()
    for _ in range(5):
        line.comes(EVENT, after=1.1 * REST)
        assert line.transport.reading
    assert line.heard.pieces == [b"data: one\n\n"] * 5


def test_events_that_come_all_at_once_gather_in_the_socket() -> None:
    line = Streaming()
    line.comes(EVENT, after=REST / 4)
    assert line.heard.pieces == [b"data: one\n\n"]  # the first is out
    assert not line.transport.reading
    for _ in range(50):
        line.transport.arrive(EVENT)
    line.wire.loop.wait(REST)
    assert line.heard.pieces == [b"data: one\n\n", b"data: one\n\n" * 50]
    line.transport.arrive(b"0\r\n\r\n")
    line.wire.loop.wait(REST)
    assert line.heard.last
    assert line.kept()
    assert line.transport.reading


def test_one_timer_serves_all_streams_that_rest() -> None:
    line = Streaming()
    other = Transport(line.wire.loop, Connection(line.worker, line.pool))
    other.protocol.send(Heard(), REQUEST, b"")
    other.arrive(EVENTS_HEAD)
    timers = len(line.wire.loop._later)
    for transport in (line.transport, other):
        transport.arrive(EVENT)
    assert [line.transport.reading, other.reading] == [False, False]
    assert len(line.wire.loop._later) == timers + 1
    line.wire.loop.wait(REST)
    assert [line.transport.reading, other.reading] == [True, True]


def test_large_pieces_do_not_wait() -> None:
    line = Streaming()
    line.comes(b"%x\r\n%b\r\n" % (WORTH_A_READ, b"x" * WORTH_A_READ), after=REST / 4)
    assert line.transport.reading


def test_a_body_that_is_no_event_stream_does_not_wait() -> None:
    line = Streaming(EVENTS_HEAD.replace(b"event-stream", b"plain"))
    line.comes(EVENT, after=REST / 4)
    assert line.transport.reading


def test_a_client_that_reads_slowly_keeps_a_rested_stream_waiting() -> None:
    line = Streaming()
    line.comes(EVENT, after=REST / 4)
    line.connection.pause()
    line.wire.loop.wait(2 * REST)
    assert not line.transport.reading
    line.connection.resume()
    assert line.transport.reading


def test_a_client_that_reads_on_does_not_wake_a_stream_that_rests() -> None:
    line = Streaming()
    line.comes(EVENT, after=REST / 4)
    line.connection.pause()
    line.connection.resume()
    assert not line.transport.reading
    line.wire.loop.wait(2 * REST)
    assert line.transport.reading


def test_a_stream_that_was_given_up_while_it_rested_is_left_alone() -> None:
    line = Streaming()
    line.comes(EVENT, after=REST / 4)
    line.connection.abort()
    line.wire.loop.wait(2 * REST)
    assert not line.transport.reading


def test_an_answer_that_ends_within_its_first_pieces_leaves_a_connection_that_reads() -> None:
    line = Streaming()
    timers = len(line.wire.loop._later)
    line.comes(EVENT + b"0\r\n\r\n", after=REST / 4)
    assert line.transport.reading
    assert len(line.wire.loop._later) == timers


# -- connecting


class Rude(asyncio.Protocol):
    """A server that says something before it is asked, or leaves."""

    def __init__(self, said: bytes):
        self._said = said

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._said:
            transport.write(self._said)
        else:
            transport.close()


@asynccontextmanager
async def serving(w: World, protocol: Callable[[], asyncio.Protocol], host: str = "127.0.0.1", **options: object):
    """One more worker of a world, ready, behind any protocol."""
    server = await asyncio.get_running_loop().create_server(protocol, host, 0, **options)
    port = server.sockets[0].getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    url = f"{'https' if options else 'http'}://{name}:{port}"
    w.fleet.add(Worker(w.fleet.next_id(), url, lifecycle=State.READY, native_generate=True, models=("m",)))
    yield url
    server.close()


@pytest.mark.parametrize("said", [b"", FINE, b"220 smtp ready\r\n"], ids=["leaves", "an answer", "a greeting"])
async def test_a_worker_that_does_not_wait_for_its_request_is_passed_over(world, said):
    w = await world(0)
    async with serving(w, lambda: Rude(said)):
        await w.add()
        for _ in range(3):
            assert (await w.post()).status == 200
        assert w.fleet.workers["w0"].failures == 3
        assert w.tried() == [3]
        await w.quiet()


async def test_workers_are_reached_over_ipv6_by_the_name_in_their_url(world):
    w = await world(0)
    fault = FaultWorker()
    fault.port = 0
    try:
        async with serving(w, lambda: Serving(fault), "::1") as url:
            for _ in range(2):
                assert (await w.post()).status == 200
            assert fault.connections == 1
            assert fault.requests[0].headers["host"] == url.removeprefix("http://")
            w.plane.pool.close()
            await fault.until(lambda: fault.open_connections == 0)
    except OSError:
        pytest.skip("no IPv6 here")


class Roomy(Serving):
    """uvloop forgets to resume who writes over TLS and may leave nothing unsent."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits()


@pytest.fixture
async def encrypted(world, tmp_path) -> AsyncIterator[tuple[World, FaultWorker]]:
    """A world with a worker behind TLS."""
    w = await world(0)
    cert, key = certificate(tmp_path, "-nodes")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    fault = FaultWorker()
    fault.port = 0
    async with serving(w, lambda: Roomy(fault), ssl=context):
        w.cert = cert
        yield w, fault
        w.plane.pool.close()
        await fault.until(lambda: fault.open_connections == 0)


async def test_connections_to_workers_over_tls_are_kept_and_streams_flow(encrypted):
    w, fault = encrypted
    w.plane.pool._tls = ssl.create_default_context(cafile=w.cert)
    gate = asyncio.Semaphore(0)
    fault.script(Stream([b"data: %d\n\n" % number for number in range(3)], gate=gate))
    client = await w.connect()
    client.post("/generate", STREAM)
    for number in range(3):
        gate.release()
        assert b"data: %d\n\n" % number in await client.reader.readuntil(b"\n\n\r\n")
    await client.reader.readuntil(b"0\r\n\r\n")
    fault.script(Status(200, {}, b"x" * 1_000_000))
    client.post("/generate", b'{"text":"' + b"y" * 1_000_000 + b'"}')
    assert len((await client.answer()).body) == 1_000_000
    assert len(fault.requests[1].body) == 1_000_011
    assert fault.connections == 1


async def test_a_worker_whose_certificate_is_not_trusted_gets_no_request(encrypted):
    w, fault = encrypted
    answer = await w.post()
    assert answer.status == 502
    assert "certificate" in answer.json()["error"]["message"]
    assert fault.requests == []


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "name"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1", 8000, False, b"127.0.0.1:8000"),
        ("http://[::1]:8000", "::1", 8000, False, b"[::1]:8000"),
        ("https://[2001:db8::1]", "2001:db8::1", 443, True, b"[2001:db8::1]"),
        ("http://gpu1", "gpu1", 80, False, b"gpu1"),
    ],
)
def test_a_workers_url_says_where_it_is_and_what_it_is_called(url, host, port, tls, name):
    assert address(url) == (host, port, tls)
    assert authority(url) == name


def test_between_turns_that_pass_little_of_much_on_the_loop_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr("time.sleep", naps.append)
    loop = Loop()
    pool = Pool(loop)  # type: ignore[arg-type]
    pool.clock = loop.time
    for _ in range(1000):
        pool.passed()
        loop.turn()
        loop.wait(1 / 8000)
    assert set(naps) == {NAP}
