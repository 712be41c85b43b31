"""The client's side of a connection: finds whole requests, hands inference to an exchange, all else to aiohttp.

A connection goes round: head -> body (sized or chunked) -> exchange -> head. Bytes that come during an exchange wait
for its end, so pipelined requests are answered in order. The first request that is not inference takes the whole
connection to aiohttp, with all that was read of it.
"""

from __future__ import annotations

import asyncio
import enum
import hmac
import itertools
import logging
import re
import socket
import struct
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from router.errors import BadRequest, HeadersTooLarge, PayloadTooLarge, RequestTimeout, RouterError, Unauthorized
from router.exchange import Exchange
from router.http1 import Chunks, RequestHead, request_head
from router.pairs import PairExchange
from router.request import INFERENCE_PATHS, parse

if TYPE_CHECKING:
    from router.exchange import Plane

log = logging.getLogger("router")

MAX_HEAD = 64 * 1024  # bytes; nginx allows 32 KB by default, uvicorn 64 KB
MAX_PIPELINED = 1024 * 1024  # bytes that may wait behind a request under way
HEAD_TIMEOUT = 10.0  # seconds for a head to become complete
BODY_TIMEOUT = 30.0  # seconds without a byte of an unfinished body
HELD_AT_MOST = 64 * 1024  # bytes that a client leaves unread, then its worker waits; over TLS uvloop would take 512 KB
RECORD = 16 * 1024  # bytes of a TLS record: what is written at once over TLS
LINGER = 2.0  # seconds to read on after an early refusal, so that the client gets to see it
SAY_AGAIN = 60.0  # seconds between two lines in the log that say the same

ROUTES = {path.encode(): path for path in INFERENCE_PATHS}
EMPTY_LINES = re.compile(rb"[\r\n]*")  # RFC 9112 section 2.2: to be skipped before a request


class Phase(enum.Enum):
    HEAD = enum.auto()
    SIZED_BODY = enum.auto()
    CHUNKED_BODY = enum.auto()
    EXCHANGE = enum.auto()
    REFUSED = enum.auto()  # answered early; what still comes is thrown away


class Gate:
    """What every front of a listener shares: the plane, the key, and who takes other requests."""

    elsewhere: Callable[[], asyncio.Protocol]  # makes aiohttp's protocol for one connection

    def __init__(self, plane: Plane):
        config = plane.config
        self.plane = plane
        self.key = config.api_key.encode() if config.api_key else None
        self.secure = bool(config.ssl_certfile)
        self.id_headers = frozenset(name.lower().encode() for name in config.request_id_headers)
        self.origins = frozenset(origin.encode() for origin in config.cors_allowed_origins)
        self.fronts: set[Front] = set()
        self.most = sys.maxsize  # clients at once
        self.others: Callable[[], int] = lambda: 0  # how many of them were handed over
        self._said = -SAY_AGAIN  # when it was last told that no more are taken
        self._series = b"%016x" % plane.rng.getrandbits(64)
        self._numbers = itertools.count(1)

    def __call__(self) -> Front:
        return Front(self)

    def authorized(self, head: RequestHead) -> bool:
        return self.key is None or any(hmac.compare_digest(key, self.key) for key in head.keys)

    def cors(self, head: RequestHead) -> bytes:
        """Header lines that let the page that asks read the answer, if its origin is allowed."""
        if not head.origin or (head.origin not in self.origins and b"*" not in self.origins):
            return b""
        return b"access-control-allow-origin: %b\r\nvary: origin\r\n" % head.origin

    def close(self) -> None:
        """Cut every connection."""
        for front in list(self.fronts):
            front.hang_up()

    def full(self) -> bool:
        """Whether one more client is one too many."""
        if len(self.fronts) + self.others() < self.most:
            return False
        now = self.plane.clock()
        if now - self._said >= SAY_AGAIN:
            self._said = now
            log.warning("%d clients are connected, no more are taken: raise the limit on open files", self.most)
        return True

    def request_id(self) -> bytes:
        """A new one: random for this router, counted within it."""
        return b"%b-%x" % (self._series, next(self._numbers))


class Front:
    """One client connection: an asyncio.Protocol, which it does not inherit from so that it can be compiled."""

    __slots__ = (
        "_body", "_chunks", "_exchange", "_gate", "_head", "_id", "_last", "_left", "_paused", "_phase", "_rest",
        "_route", "_searched", "_timer", "_transport", "close", "cors", "http10",
    )  # fmt: skip

    def __init__(self, gate: Gate):
        self._gate = gate
        self._transport: asyncio.Transport | None = None
        self._phase = Phase.HEAD
        self._rest = bytearray()  # bytes not yet taken: the beginning of a head, or what was pipelined
        self._searched = 0  # bytes of the rest in which no head ends
        self._paused = False  # the client does not read what was written
        self._timer: asyncio.TimerHandle | None = None
        self._exchange: Exchange | None = None
        # Of the request under way:
        self._route = ""
        self._head: RequestHead | None = None
        self._id = b""
        self._body: list[bytes] = []
        self._left = 0  # bytes of a sized body still to come
        self._chunks: Chunks | None = None
        self._last = 0.0  # when the body last grew
        self.http10 = self.close = False
        self.cors = b""

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        if self._gate.full():
            transport.abort()
            return
        transport.set_write_buffer_limits(HELD_AT_MOST)
        self._gate.fronts.add(self)
        self._wait(HEAD_TIMEOUT)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gate.fronts.discard(self)
        self._stop_waiting()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase is Phase.HEAD:
            if self._rest:
                self._rest += data
                self._read_rest()
            else:
                self._read_head(data)
        elif phase is Phase.SIZED_BODY:
            self._read_sized(data)
        elif phase is Phase.CHUNKED_BODY:
            self._read_chunked(data)
        elif phase is Phase.EXCHANGE:
            self._pipeline(data)

    def eof_received(self) -> None:
        """A client that sends no more is gone, as nginx and the engines' servers see it: it may not read, either."""
        if self._exchange is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._paused = True
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        self._paused = False
        if self._exchange is not None:
            self._exchange.resume()
        elif self._phase is Phase.EXCHANGE and not self._transport.is_closing():
            self._ready()

    # -- the head

    def _read_head(self, data: bytes) -> None:
        """The usual way: a head comes in one piece."""
        if data[:1] in b"\r\n":
            data = data.lstrip(b"\r\n")
        end = data.find(b"\r\n\r\n") + 4
        if not 4 <= end <= MAX_HEAD:
            self._rest += data
            self._await_head()
            return
        head = self._take(data, end)
        if head is not None:
            self._begin(head, data[end:])

    def _read_rest(self) -> None:
        """The way for what came in pieces or was pipelined: its time grows with the bytes, not with their square."""
        rest = self._rest
        if not self._searched:
            del rest[: EMPTY_LINES.match(rest).end()]
        end = rest.find(b"\r\n\r\n", max(0, self._searched - 3)) + 4
        if not 4 <= end <= MAX_HEAD:
            self._await_head()
            return
        self._searched = 0
        head = self._take(rest, end)
        if head is not None:
            size = len(rest) - end if head.chunked else head.length
            body = bytes(rest[end : end + size])
            del rest[: end + size]
            self._begin(head, body)

    def _await_head(self) -> None:
        self._id, self.cors = b"", b""  # those of the request before
        self._searched = len(self._rest)
        if self._searched > MAX_HEAD:
            self.refuse(HeadersTooLarge(f"the request's headers are longer than {MAX_HEAD} bytes"))
        elif self._rest and self._timer is None:
            self._wait(HEAD_TIMEOUT)

    def _take(self, data: bytes | bytearray, end: int) -> RequestHead | None:
        """The head that ends at `end`. None when it was refused, or is not of an inference request: aiohttp's, then."""
        path = data[5 : data.find(b" ", 5)].partition(b"?")[0] if data.startswith(b"POST ") else b""
        route = ROUTES.get(bytes(path))
        if route is None:
            self._hand_over(bytes(data))
            return None
        self._route = route
        try:
            return request_head(bytes(data[:end]), self._gate.id_headers)
        except BadRequest as error:
            self._id, self.cors, self.close = b"", b"", True
            self.refuse(error)
            return None

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        """The head is read: judge it, then wait for the body."""
        self._head = head
        self._id = head.id
        self.http10, self.close = head.http10, head.close
        self.cors = self._gate.cors(head) if head.origin else b""
        if self._timer is not None:
            self._stop_waiting()
        error = self._objection(head)
        if error is not None:
            if not head.chunked and len(rest) >= head.length:  # nothing of this request is still to come
                self._phase = Phase.EXCHANGE
                self._rest += rest[head.length :]
            self.refuse(error)
            return
        if head.expect and not rest and (head.chunked or head.length):
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if head.chunked:
            self._phase, self._chunks = Phase.CHUNKED_BODY, Chunks()
            self._read_chunked(rest)
        else:
            self._phase, self._left = Phase.SIZED_BODY, head.length
            self._read_sized(rest)

    def _objection(self, head: RequestHead) -> RouterError | None:
        if not self._gate.authorized(head):
            return Unauthorized("the API key is missing or wrong: send it as 'Authorization: Bearer KEY'")
        limit = self._gate.plane.config.max_payload_size
        if head.length > limit:
            return PayloadTooLarge(f"the body has {head.length} bytes: at most {limit} are taken (--max-payload-size)")
        return None

    def _hand_over(self, data: bytes) -> None:
        """The rest of this connection is aiohttp's."""
        self._stop_waiting()
        self._rest.clear()
        self._gate.fronts.discard(self)
        handler = self._gate.elsewhere()
        self._transport.set_protocol(handler)
        handler.connection_made(self._transport)
        handler.data_received(data)

    # -- the body

    def _read_sized(self, data: bytes) -> None:
        left = self._left
        if len(data) < left:
            self._left = left - len(data)
            self._body.append(data)
            self._grow()
            return
        if len(data) > left:
            self._rest += data[left:]
            data = data[:left]
        if self._body:
            self._body.append(data)
            data = b"".join(self._body)
            self._body.clear()
        self._complete(data)

    def _read_chunked(self, data: bytes) -> None:
        chunks, limit = self._chunks, self._gate.plane.config.max_payload_size
        try:
            chunks.feed(data)
        except ValueError as error:
            self.refuse(BadRequest(str(error)))
            return
        if chunks.size > limit:
            self.refuse(PayloadTooLarge(f"the body is longer than {limit} bytes (--max-payload-size)"))
        elif chunks.ended:
            self.close = self.close or chunks.excess  # what follows in one piece with it is not served
            self._complete(chunks.take())
        else:
            self._grow()

    def _grow(self) -> None:
        self._last = self._gate.plane.clock()
        if self._timer is None:
            self._wait(BODY_TIMEOUT)

    def _complete(self, body: bytes) -> None:
        """The whole request is here."""
        if self._timer is not None:
            self._stop_waiting()
        gate, head = self._gate, self._head
        self._phase = Phase.EXCHANGE
        self._id = self._id or gate.request_id()
        try:
            request = parse(self._route, body, head.session)
        except RouterError as error:
            self.refuse(error)
            return
        lines = b"%bx-request-id: %b\r\n" % (head.lines, self._id)
        if gate.plane.decode_policy is None:
            self._exchange = Exchange(gate.plane, self, request, head.target, lines, body, self._id)
        else:
            self._exchange = PairExchange(gate.plane, self, request, head.target, lines, body, self._id)
        self._exchange.start()

    def _pipeline(self, data: bytes) -> None:
        """Keep what comes during an exchange. What will not be served is still read, to see the client leave."""
        if self.close:
            return
        self._rest += data
        if len(self._rest) > MAX_PIPELINED:  # no client of an inference API does this
            self._rest.clear()
            self.close = True

    def hang_up(self) -> None:
        self._transport.abort()

    # -- the response (exchange.Client)

    def write(self, data: bytes) -> None:
        """Pass it on. Over TLS by the record: whole reads cost a client that does not read 0.8 MB, records 0.33."""
        if len(data) > RECORD and self._gate.secure:
            for start in range(0, len(data), RECORD):
                self._transport.write(data[start : start + RECORD])
        else:
            self._transport.write(data)

    def done(self, close: bool) -> None:
        self._exchange = None
        if close:
            self._transport.close()
        elif not self._paused:  # else the next request waits until the client has read this response
            self._ready()

    def _ready(self) -> None:
        """On to the next request."""
        self._phase = Phase.HEAD
        if self._rest:
            self._gate.plane.loop.call_soon(self._next)

    def _next(self) -> None:
        """Take up what was pipelined. Not from within done(): a thousand requests would be as many stack frames."""
        if self._phase is Phase.HEAD and self._rest and not self._transport.is_closing():
            self._read_rest()

    def cut(self) -> None:
        self._exchange = None
        if self.http10:  # only a reset tells this client that the end is not the end
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._transport.abort()
        else:
            self._transport.close()

    def refuse(self, error: RouterError) -> None:
        self._exchange = None
        early = self._phase is not Phase.EXCHANGE  # what is still to come of the request is not wanted
        self.close = self.close or early
        self._transport.write(self._error(error))
        if early:
            self._phase = Phase.REFUSED
            self._rest.clear()
            self._body.clear()
            self._chunks = None
            self._wait(LINGER)
        else:
            self.done(self.close)

    def _error(self, error: RouterError) -> bytes:
        body = error.body()
        head = (
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b%b%bx-request-id: %b\r\n\r\n"
            % (
                error.status,
                HTTPStatus(error.status).phrase.encode(),
                len(body),
                self.cors,
                b"" if error.retry_after is None else b"retry-after: %d\r\n" % error.retry_after,
                b"connection: close\r\n" if self.close else b"",
                self._id or self._gate.request_id(),
            )
        )
        return head + body

    # -- clients that take too long

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._timer = self._gate.plane.loop.call_later(seconds, self._waited)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _waited(self) -> None:
        self._timer = None
        if self._phase is Phase.REFUSED or (self._phase is Phase.HEAD and not self._rest):
            self._transport.close()
            return
        if self._phase is not Phase.HEAD:
            quiet = self._gate.plane.clock() - self._last
            if quiet < BODY_TIMEOUT:
                self._wait(BODY_TIMEOUT - quiet)
                return
        self.refuse(RequestTimeout("the request did not become complete in time"))
