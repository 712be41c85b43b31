"""The worker's side of a connection, over a transport that only notes what is asked of it."""

from __future__ import annotations

import pytest

from router.fleet import Worker
from router.retry import Fault
from router.upstream import MAX_HEAD, REST, WORTH_A_READ, Connection, Pool

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"b\r\ndata: one\n\n\r\n"


class Transport:
    def __init__(self) -> None:
        self.reading, self.closed = True, False

    def write(self, data: bytes) -> None: ...

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.closed
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    close = abort


class Timers:
    """The loop, as far as the pool needs it."""

    def __init__(self) -> None:
        self.due: list[tuple[float, object]] = []

    def call_later(self, delay: float, call: object) -> None:
        self.due.append((delay, call))

    def fire(self) -> None:
        due, self.due = self.due, []
        for _, call in due:
            call()


class Listener:
    def __init__(self) -> None:
        self.body = b""
        self.lost: list[Fault] = []

    def on_head(self, head: object) -> bool:
        return True

    def on_body(self, data: bytes, last: bool) -> None:
        self.body += data

    def on_lost(self, fault: Fault, reason: str) -> None:
        self.lost.append(fault)


class Upstream:
    """A request is out on one connection; `now` is what the clock says."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers, self.listener, self.transport = Timers(), Listener(), Transport()
        pool = Pool(self.timers)
        pool.clock = lambda: self.now
        self.connection = Connection(Worker("w0", "http://127.0.0.1:1"), pool)
        self.connection.connection_made(self.transport)
        self.connection.send(self.listener, b"POST / HTTP/1.1\r\n\r\n", b"")

    def comes(self, data: bytes, after: float) -> None:
        self.now += after
        assert self.transport.reading
        self.connection.data_received(data)


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


def test_events_that_come_one_by_one_are_read_as_they_come(upstream: Upstream) -> None:
    upstream.comes(HEAD, after=0.5)
    for _ in range(5):
        upstream.comes(EVENT, after=REST)
        assert upstream.transport.reading
    assert upstream.listener.body == b"data: one\n\n" * 5


def test_events_that_come_all_at_once_gather_in_the_socket(upstream: Upstream) -> None:
    upstream.comes(HEAD, after=0.5)
    upstream.comes(EVENT, after=REST / 4)
    assert upstream.listener.body == b"data: one\n\n"  # the first is out
    assert not upstream.transport.reading
    assert [delay for delay, _ in upstream.timers.due] == [REST]
    upstream.timers.fire()
    upstream.comes(EVENT * 50, after=REST)
    assert upstream.transport.reading
    assert upstream.listener.body == b"data: one\n\n" * 51


def test_one_timer_serves_all_streams_that_rest(upstream: Upstream) -> None:
    other = Connection(upstream.connection.worker, upstream.connection._pool)
    other.connection_made(Transport())
    other.send(Listener(), b"", b"")
    for connection in (upstream.connection, other):
        connection.data_received(HEAD)
        connection.data_received(EVENT)
    assert [upstream.transport.reading, other.transport.reading] == [False, False]
    assert len(upstream.timers.due) == 1
    upstream.timers.fire()
    assert [upstream.transport.reading, other.transport.reading] == [True, True]


def test_large_pieces_do_not_wait(upstream: Upstream) -> None:
    upstream.comes(HEAD, after=0.5)
    upstream.comes(b"%x\r\n%b\r\n" % (WORTH_A_READ, b"x" * WORTH_A_READ), after=REST / 4)
    assert upstream.transport.reading


def test_a_body_that_is_no_event_stream_does_not_wait(upstream: Upstream) -> None:
    upstream.comes(HEAD.replace(b"event-stream", b"plain"), after=0.5)
    upstream.comes(EVENT, after=REST / 4)
    assert upstream.transport.reading


def test_a_client_that_reads_slowly_keeps_a_rested_stream_waiting(upstream: Upstream) -> None:
    upstream.comes(HEAD, after=0.5)
    upstream.comes(EVENT, after=REST / 4)
    upstream.connection.pause()
    upstream.timers.fire()
    assert not upstream.transport.reading
    upstream.connection.resume()
    assert upstream.transport.reading


def test_a_client_that_reads_on_does_not_wake_a_stream_that_rests(upstream: Upstream) -> None:
    upstream.comes(HEAD, after=0.5)
    upstream.comes(EVENT, after=REST / 4)
    upstream.connection.pause()
    upstream.connection.resume()
    assert not upstream.transport.reading
    upstream.timers.fire()
    assert upstream.transport.reading


def test_a_stream_that_was_given_up_while_it_rested_is_left_alone(upstream: Upstream) -> None:
    upstream.comes(HEAD, after=0.5)
    upstream.comes(EVENT, after=REST / 4)
    upstream.connection.abort()
    upstream.timers.fire()
    assert not upstream.transport.reading


def test_an_answer_that_ends_within_its_first_pieces_leaves_a_connection_that_reads(upstream: Upstream) -> None:
    upstream.comes(HEAD, after=0.5)
    upstream.comes(EVENT + b"0\r\n\r\n", after=REST / 4)
    assert upstream.transport.reading
    assert upstream.timers.due == []


def test_a_head_beyond_the_limit_is_refused_though_it_comes_in_one_piece(upstream: Upstream) -> None:
    upstream.comes(b"HTTP/1.1 200 OK\r\nx: " + b"x" * MAX_HEAD + b"\r\n\r\n", after=0.5)
    assert upstream.listener.lost == [Fault.GATEWAY]
    assert upstream.transport.closed
