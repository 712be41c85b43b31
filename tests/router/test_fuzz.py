"""Both protocols under any bytes, in any pieces, in any order of events.

Every run is the same, unless FUZZ says how many thousand examples of each property to try, from a random start.
"""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

import h11
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.errors import BadRequest
from router.http1 import ResponseHead
from router.request import parse
from router.retry import Fault
from router.upstream import Connection
from tests.router.test_smuggling import ANSWERS, CORPUS, CUT, GLUE, OPEN, h11_reads
from tests.router.wire import Transport, Wire

LONG = float(os.environ.get("FUZZ", "0"))
fuzz = settings(
    max_examples=int(LONG * 1000) or 150,
    derandomize=not LONG,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

# -- bytes

# What framing is made of: mutations swap these, so that most results are nearly valid.
TOKENS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"=", b'"', b"0", b"2", b"f", b"-", b"+", b"x",
    b"\xff", b"\x0b", b"HTTP/1.1", b"HTTP/1.0", b"POST ", b"GET ", b"/generate", b"?", b"Host: r\r\n",
    b"Content-Length: 2\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n", b"chunked", b"identity", b"\r\n\r\n", b"{}",
    b"2\r\n{}\r\n", b"0\r\n\r\n", b"close",
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"204", b"ok",
]  # fmt: skip
SHORT = 2000  # bytes; the longest of the corpora are about limits


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A few of the seeds, one after another, with up to three pieces put in, taken out or written over."""
    data = b"".join(draw(st.lists(st.sampled_from(seeds), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.integers(0, 3))
        data = data[:at] + draw(st.sampled_from([b"", *TOKENS])) + data[at + gone :]
    return data


@st.composite
def split(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in pieces: a few, or one each."""
    if draw(st.booleans()):
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


REQUESTS = [raw for raw, _ in CORPUS.values() if len(raw) < SHORT] + [GLUE] * 20
RESPONSES = [raw for raw, _, _ in ANSWERS.values() if 0 < len(raw) < SHORT]
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

# -- what the router makes of a client's bytes


class Seen(NamedTuple):
    reached: list[tuple[bytes, bytes]]  # target and body of each request that a worker got
    statuses: list[int]
    end: str


def responses(raw: bytes, whole: bool = True) -> list[tuple[h11.Response, bytes]]:
    """The answers that a client got, as h11 reads them, without interim ones. The last may be torn, unless `whole`."""
    read = []
    while raw:
        peer = h11.Connection(h11.CLIENT)
        peer.send(h11.Request(method="POST", target="/", headers=[("host", "r"), ("content-length", "0")]))
        peer.send(h11.EndOfMessage())
        peer.receive_data(raw)
        response, body = None, b""
        while not isinstance(event := peer.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif not isinstance(event, h11.InformationalResponse):
                assert response is None or not whole, f"{event} within {raw!r}"
                return read if response is None else [*read, (response, body)]
        assert response is not None
        read.append((response, body))
        raw = peer.trailing_data[0]
    return read


class Echo:
    """The workers of a Wire: each request they get whole is answered, at once."""

    def __init__(self, wire: Wire):
        self.wire = wire
        self.reached: list[tuple[bytes, bytes]] = []
        self._answered: dict[int, int] = {}

    def answer(self) -> None:
        """Answer what has come since the last call, and let that have its effects."""
        self.wire.loop.turn()
        for number, upstream in enumerate(self.wire.upstreams):
            read = h11_reads(bytes(upstream.written))
            assert read.end == OPEN
            for request in read.requests[self._answered.get(number, 0) :]:
                self.reached.append(request)
                self._answered[number] = len(read.requests)
                upstream.arrive(FINE)
                self.wire.loop.turn()


def served(pieces: list[bytes], patient: bool = True) -> Seen:
    """Send the pieces. A patient client's requests are answered before its next piece comes."""
    wire = Wire()
    echo = Echo(wire)
    client = wire.client()
    for piece in pieces:
        client.arrive(piece)
        if patient:
            echo.answer()
    while True:
        before = len(echo.reached)
        echo.answer()
        if len(echo.reached) == before:
            break
    statuses = [response.status_code for response, _ in responses(bytes(client.written))]
    if wire.handed_over:
        end = "elsewhere"
    elif client.protocol._phase.name == "REFUSED":
        end = CUT
    else:
        end = "closed" if client.closing else "waits"
    wire.close()
    return Seen(echo.reached, statuses, end)


def is_object(path: bytes, body: bytes) -> bool:
    try:
        parse("/generate", body)
    except BadRequest:
        return False
    return True


# -- the properties


@fuzz
@given(mutated(REQUESTS))
def test_a_worker_gets_what_h11_reads_in_a_clients_bytes_and_no_more(raw: bytes) -> None:
    ours = served([raw])
    theirs = [request for request in h11_reads(raw).requests if is_object(*request)]
    assert ours.reached == theirs[: len(ours.reached)]
    assert ours.statuses.count(200) == len(ours.reached)


@fuzz
@given(st.data())
def test_pieces_make_no_difference_to_a_client(data: st.DataObject) -> None:
    raw = data.draw(mutated(REQUESTS))
    whole, parts = served([raw]), served(data.draw(split(raw)), patient=data.draw(st.booleans()))
    less, more = sorted((whole, parts), key=lambda seen: len(seen.statuses))
    if less != more:  # but for this: what comes in one piece with the end of chunks is not served
        assert b"chunked" in raw.lower()
        assert less.end == "closed"
        assert less.reached == more.reached[: len(less.reached)]
        assert less.statuses == more.statuses[: len(less.statuses)]


# -- what the router makes of a worker's bytes


class Heard(NamedTuple):
    """What a listener was told, and what became of the connection."""

    heads: list[ResponseHead]
    body: bytes
    end: str  # "whole", "lost" or "waits"
    kept: bool


class Listener:
    """Keeps what a connection says of an answer, and holds it to the order of the calls."""

    def __init__(self, decode: bool):
        self._decode = decode
        self.heads: list[ResponseHead] = []
        self.body = b""
        self.end = "waits"

    def on_head(self, head: ResponseHead) -> bool:
        assert (self.heads, self.end) == ([], "waits")
        self.heads.append(head)
        return self._decode

    def on_body(self, data: bytes, last: bool) -> None:
        assert (len(self.heads), self.end) == (1, "waits")
        self.body += data
        self.end = "whole" if last else "waits"

    def on_lost(self, fault: Fault, reason: str) -> None:
        assert self.end == "waits"
        self.end = "lost"


def heard(pieces: list[bytes], closes: bool, decode: bool) -> Heard:
    wire = Wire()
    worker = wire.fleet.workers["w0"]
    connection = Connection(worker, wire.plane.pool)
    transport = Transport(wire.loop, connection)
    listener = Listener(decode)
    connection.send(listener, b"", b"")
    for piece in pieces:
        transport.arrive(piece)
        wire.loop.turn()
    if closes:
        transport.leave()
    wire.loop.wait(0.1)
    kept = wire.plane.pool.take(worker) is connection
    assert not (kept and transport.closing)
    return Heard(listener.heads, listener.body, listener.end, kept)


@fuzz
@given(st.data())
def test_pieces_make_no_difference_to_an_answer(data: st.DataObject) -> None:
    raw, closes, decode = data.draw(mutated(RESPONSES)), data.draw(st.booleans()), data.draw(st.booleans())
    whole, parts = heard([raw], closes, decode), heard(data.draw(split(raw)), closes, decode)
    assert (parts.end, parts.kept) in ((whole.end, whole.kept), ("whole", False))
    if parts.end == whole.end:
        assert parts.heads == whole.heads
    if parts.end == whole.end != "lost":
        assert parts.body == whole.body
    else:  # of an answer that fails, pieces may have been passed on; what follows chunks spoils them only in one piece
        assert parts.body.startswith(whole.body)
        assert decode or parts.body in raw


@fuzz
@given(mutated(RESPONSES), st.booleans())
def test_an_answer_is_what_h11_reads(raw: bytes, closes: bool) -> None:
    ours = heard([raw], closes, decode=True)
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method="POST", target="/", headers=[("host", "r"), ("content-length", "0")]))
    peer.send(h11.EndOfMessage())
    peer.receive_data(raw)
    if closes:
        peer.receive_data(b"")
    if ours.end != "whole":
        return
    status, body = None, b""
    while not isinstance(event := peer.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            assert isinstance(event, h11.InformationalResponse)
    assert (ours.heads[0].status, ours.body) == (status, body)
    assert not (ours.kept and peer.trailing_data[0])


# -- everything at once

COMPLETION = b'{"choices":[{"index":0,"text":"%b","finish_reason":"stop"}]}'
EVENTS = b"Content-Type: text/event-stream\r\n"
SAID = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n%b",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n%b",
    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(COMPLETION) + 3) + COMPLETION,
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n%b\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + EVENTS + b"Transfer-Encoding: chunked\r\n\r\nd\r\ndata: %b\n\n\r\n"
    b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + EVENTS + b"\r\ndata: %b\n\ndata: [DONE]\n\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n%b and more",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n%b\r\nno chunk\r\n",
    b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 5\r\n\r\n%b",
    b"HTTP/1.1 502 Bad\r\nContent-Length: 5\r\n\r\n%b",
    b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\n%b",
    b"HTTP/1.1 204 No\r\nX: %b\r\n\r\n",
    b"hello %b\r\n\r\n",
]  # each is filled in with the request's name
NAME = re.compile(rb"r\d{4}")


class Chaos:
    """Clients and workers that do anything, at any time. Each answer names its request, so that none is mixed up."""

    def __init__(self, data: st.DataObject):
        self.data = data
        limit = self.pick([0, 1])
        self.wire = Wire(
            2,
            max_total_retries=self.pick([0, 1, 3]),
            max_worker_retries=100,
            max_concurrent_requests=limit,
            queue_size=1,
        )
        self.wire.fleet.workers["w1"].native_generate = self.pick([True, False])
        self.sent: dict[Transport, list[bytes]] = {}  # by client: the ids of its requests, in order
        self.number = 0
        self.left: dict[Transport, bytes] = {}  # by upstream: what is still to be said
        self.answered: dict[Transport, int] = {}

    def pick(self, among: list[Any]) -> Any:
        return self.data.draw(st.sampled_from(among))

    # -- events

    def connect(self) -> None:
        if len(self.wire.clients) < 3:
            self.sent[self.wire.client()] = []

    def ask(self) -> None:
        client = self.pick([client for client in self.wire.clients if not client.closing] or [None])
        if client is None:
            return
        self.number += 1
        name = b"r%04d" % self.number
        body = self.pick([b"{}", b"{}", b'{"stream":true}', b'{"stream":true}', b"{"])
        sized, chunks = b"Content-Length: %d\r\n\r\n%b", b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        line, framed = self.pick([(b"1.1", sized), (b"1.1", sized), (b"1.1", chunks), (b"1.0", sized)])
        self.sent[client].append(name)
        lines = b"HTTP/%b\r\nHost: r\r\nX-Request-Id: %b\r\n" % (line, name)
        raw = b"POST /generate " + lines + framed % (len(body), body)
        for piece in self.pick([[raw], [raw[:20], raw[20:-1], raw[-1:]]]):
            client.arrive(piece)

    def answer(self) -> None:
        """A worker says a piece of its answer to the last request it got."""
        upstream = self.pick([each for each in self.wire.upstreams if self.busy(each)] or [None])
        if upstream is None:
            return
        if not self.left.get(upstream):
            names = NAME.findall(bytes(upstream.written))
            self.answered[upstream] = len(names)
            self.left[upstream] = self.pick(SAID) % names[-1]
        piece, self.left[upstream] = self.left[upstream], b""
        if self.pick([False, False, True]):
            cut = self.data.draw(st.integers(1, len(piece)))
            piece, self.left[upstream] = piece[:cut], piece[cut:]
        upstream.arrive(piece)

    def busy(self, upstream: Transport) -> bool:
        """Whether its worker has something to say."""
        if upstream.closing:
            return False
        read = h11_reads(bytes(upstream.written))
        assert read.end == OPEN
        return bool(self.left.get(upstream)) or len(read.requests) > self.answered.get(upstream, 0)

    def turn(self) -> None:
        self.wire.loop.turn()

    def wait(self) -> None:
        self.wire.loop.wait(self.pick([0.001, 0.2, 4.0, 31.0]))
        self.wire.plane.tick(self.wire.loop.now)

    def fill(self) -> None:
        if self.wire.clients:
            self.pick(self.wire.clients).fill()

    def drain(self) -> None:
        if self.wire.clients:
            self.pick(self.wire.clients).drain()

    def client_leaves(self) -> None:
        if self.wire.clients:
            self.pick(self.wire.clients).leave(self.pick([None, ConnectionResetError()]))

    def worker_leaves(self) -> None:
        if self.wire.upstreams:
            self.pick(self.wire.upstreams).leave(self.pick([None, ConnectionResetError()]))

    def connecting_fails(self) -> None:
        self.wire.refuse = self.pick([None, "before", "after"])

    # -- what must be so at the end

    def check(self) -> None:
        for client in self.wire.clients:
            names = []
            for head, body in responses(bytes(client.written), whole=False):
                names += [value for name, value in head.headers if name == b"x-request-id"]
                assert set(NAME.findall(body)) <= {names[-1]}
            assert names == self.sent[client][: len(names)]
        self.wire.close()


HAPPENINGS = [
    *[Chaos.turn] * 8, *[Chaos.ask] * 4, *[Chaos.answer] * 8, Chaos.connect, Chaos.wait, Chaos.fill, Chaos.drain,
    Chaos.client_leaves, Chaos.worker_leaves, Chaos.connecting_fails,
]  # fmt: skip


@fuzz
@given(st.data())
def test_whatever_happens_answers_are_not_mixed_up_and_nothing_is_left_behind(data: st.DataObject) -> None:
    chaos = Chaos(data)
    chaos.connect()
    chaos.connect()
    for happening in data.draw(st.lists(st.sampled_from(HAPPENINGS), min_size=30, max_size=60)):
        happening(chaos)
    chaos.check()
