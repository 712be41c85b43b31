"""The client's side of a connection: finds whole requests, hands inference to an exchange, all else to aiohttp.

A connection goes round: head -> body (sized or chunked) -> exchange -> head. Bytes that come during an exchange wait
for its end, so pipelined requests are answered in order. A head is cut off at its blank line and parsed by llhttp on
its own, one parser a request (0.3 us): what llhttp says and where we cut cannot disagree, and a sized body is only
counted. The first request that is not inference takes the whole connection to aiohttp, with all that was read of it.
"""

from __future__ import annotations

import asyncio
import enum
import hmac
import socket
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

import httptools

from router.errors import BadRequest, HeadersTooLarge, PayloadTooLarge, RequestTimeout, RouterError, Unauthorized
from router.exchange import Exchange
from router.request import INFERENCE_PATHS, parse
from router.upstream import HOP_BY_HOP, listed, without

if TYPE_CHECKING:
    from router.exchange import Plane

MAX_HEAD = 64 * 1024  # bytes; nginx allows 32 KB by default, uvicorn 64 KB
MAX_PIPELINED = 1024 * 1024  # bytes that may wait behind a request under way
HEAD_TIMEOUT = 10.0  # seconds for a head to become complete
BODY_TIMEOUT = 30.0  # seconds without a byte of an unfinished body
LINGER = 2.0  # seconds to read on after an early refusal, so that the client gets to see it

ROUTES = {path.encode(): path for path in INFERENCE_PATHS}
DROPPED = HOP_BY_HOP | {b"host", b"content-length", b"expect"}


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
        self.id_headers = frozenset(name.lower().encode() for name in config.request_id_headers)
        self.origins = frozenset(origin.encode() for origin in config.cors_allowed_origins)
        self.fronts: set[Front] = set()

    def __call__(self) -> Front:
        return Front(self)

    def authorized(self, keys: list[bytes]) -> bool:
        return self.key is None or any(hmac.compare_digest(key, self.key) for key in keys)

    def allows(self, origin: bytes) -> bool:
        """Whether pages from there may read answers."""
        return origin in self.origins or b"*" in self.origins

    def close(self) -> None:
        """Cut every connection."""
        for front in list(self.fronts):
            front.hang_up()

    def request_id(self) -> bytes:
        return b"%032x" % self.plane.rng.getrandbits(128)


class Front(asyncio.Protocol):
    """One client connection."""

    __slots__ = (
        "_body",
        "_chunked",
        "_exchange",
        "_expect",
        "_gate",
        "_head_done",
        "_hosts",
        "_id",
        "_keys",
        "_last",
        "_left",
        "_length",
        "_lines",
        "_message_done",
        "_named",
        "_parser",
        "_phase",
        "_rest",
        "_route",
        "_session",
        "_target",
        "_timer",
        "_transport",
        "close",
        "cors",
        "http10",
    )  # fmt: skip

    def __init__(self, gate: Gate):
        self._gate = gate
        self._transport: asyncio.Transport | None = None
        self._phase = Phase.HEAD
        self._rest = b""  # bytes not yet taken: the beginning of a head, or what was pipelined
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0.0  # when the body last grew
        self._exchange: Exchange | None = None
        self._parser: httptools.HttpRequestParser | None = None
        self._reset()

    def _reset(self) -> None:
        """Before each request."""
        self._route = ""
        self._target = b""
        self._lines: list[bytes] = []
        self._named: list[bytes] = []
        self._hosts = 0
        self._length = 0
        self._chunked = self._expect = self._head_done = self._message_done = False
        self._keys: list[bytes] = []
        self._session: str | None = None
        self._id = b""
        self.cors = b""
        self._body: list[bytes] = []
        self._left = 0  # body bytes still to come, or for a chunked body still allowed
        self.http10 = self.close = False

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
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
            self._read_head(self._rest + data if self._rest else data)
        elif phase is Phase.SIZED_BODY:
            self._read_sized(data)
        elif phase is Phase.CHUNKED_BODY:
            self._read_chunked(data)
        elif phase is Phase.EXCHANGE:
            self._pipeline(data)

    def pause_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.resume()

    # -- the head

    def _read_head(self, data: bytes) -> None:
        data = data.lstrip(b"\r\n") if data[:1] in b"\r\n" else data  # RFC 9112 2.2: empty lines before a request
        end = data.find(b"\r\n\r\n", max(0, len(self._rest) - 3)) + 4
        if end < 4 or end > MAX_HEAD:
            self._rest = data
            if len(data) > MAX_HEAD:
                self.refuse(HeadersTooLarge(f"the request's headers are longer than {MAX_HEAD} bytes"))
            elif data and self._timer is None:
                self._wait(HEAD_TIMEOUT)
            return
        self._rest = b""
        path = ROUTES.get(self._path(data))
        if path is None:
            self._hand_over(data)
            return
        self._reset()
        self._route = path
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(data[:end])
        except httptools.HttpParserUpgrade:
            pass  # an upgrade may be ignored
        except httptools.HttpParserError as error:
            self.refuse(BadRequest(f"the request is not valid HTTP: {error}"))
            return
        self._begin(data[end:])

    @staticmethod
    def _path(head: bytes) -> bytes:
        """The path of a POST; b"" for all else."""
        if not head.startswith(b"POST "):
            return b""
        return head[5 : head.find(b" ", 5)].partition(b"?")[0]

    def _begin(self, rest: bytes) -> None:
        """The head is read: judge it, then wait for the body."""
        self._stop_waiting()
        self.http10 = self._parser.get_http_version() == "1.0"
        self.close = self.http10 or not self._parser.should_keep_alive()
        error = self._objection()
        if error is not None:
            self.close = self.close or isinstance(error, BadRequest)
            if not self._chunked and len(rest) >= self._length:  # nothing of this request is still to come
                self._phase, self._rest = Phase.EXCHANGE, rest[self._length :]
            self.refuse(error)
            return
        if self._named:
            self._lines = without(self._lines, self._named)
        if self._expect and not rest:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._chunked:
            self._phase, self._left = Phase.CHUNKED_BODY, self._gate.plane.config.max_payload_size
            if rest:
                self._read_chunked(rest)
        else:
            self._phase, self._left = Phase.SIZED_BODY, self._length
            self._read_sized(rest)

    def _objection(self) -> RouterError | None:
        if not self._head_done:
            return BadRequest("the request is not valid HTTP")
        if self._hosts > 1 or (self._hosts == 0 and not self.http10):
            return BadRequest("the request must have exactly one Host header")
        if not self._gate.authorized(self._keys):
            return Unauthorized("the API key is missing or wrong: send it as 'Authorization: Bearer KEY'")
        limit = self._gate.plane.config.max_payload_size
        if self._length > limit:
            return PayloadTooLarge(f"the body has {self._length} bytes: at most {limit} are taken (--max-payload-size)")
        return None

    def _hand_over(self, data: bytes) -> None:
        """The rest of this connection is aiohttp's."""
        self._stop_waiting()
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
            self._rest, data = data[left:], data[:left]
        self._body.append(data)
        self._complete()

    def _read_chunked(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._message_done:
                self.refuse(BadRequest(f"the body is not validly chunked: {error}"))
                return
        if self._left < 0:
            limit = self._gate.plane.config.max_payload_size
            self.refuse(PayloadTooLarge(f"the body is longer than {limit} bytes (--max-payload-size)"))
        elif self._message_done:
            self._complete()
        else:
            self._grow()

    def _grow(self) -> None:
        self._last = self._gate.plane.clock()
        if self._timer is None:
            self._wait(BODY_TIMEOUT)

    def _complete(self) -> None:
        """The whole request is here."""
        if self._timer is not None:
            self._stop_waiting()
        gate = self._gate
        self._phase = Phase.EXCHANGE
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._id = self._id or gate.request_id()
        try:
            request = parse(self._route, body, self._session)
        except RouterError as error:
            self.refuse(error)
            return
        self._lines.append(b"x-request-id: %b\r\n" % self._id)
        self._exchange = Exchange(gate.plane, self, request, self._target, b"".join(self._lines), body, self._id)
        self._exchange.start()

    def _pipeline(self, data: bytes) -> None:
        if len(self._rest) + len(data) <= MAX_PIPELINED:
            self._rest += data
        else:  # no client of an inference API does this; the response under way is the last one
            self._rest, self.close = b"", True
            self._transport.pause_reading()

    def hang_up(self) -> None:
        self._transport.abort()

    # -- the response (exchange.Client)

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def done(self, close: bool) -> None:
        self._exchange = None
        if close:
            self._transport.close()
            return
        self._phase = Phase.HEAD
        if self._rest:
            self._gate.plane.loop.call_soon(self._next)

    def _next(self) -> None:
        """Take up what was pipelined. Not from within done(): a thousand requests would be as many stack frames."""
        if self._phase is Phase.HEAD and not self._transport.is_closing():
            data, self._rest = self._rest, b""
            self._read_head(data)

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

    # -- httptools callbacks

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:  # a trailer: it ends here
            return
        lower = name.lower()
        if lower not in DROPPED:
            if lower in self._gate.id_headers:
                self._id = self._id or value
                return
            self._lines.append(b"%b: %b\r\n" % (name, value))
            if lower == b"authorization" and value[:7].lower() == b"bearer ":
                self._keys.append(value[7:].strip())
            elif lower == b"x-api-key":  # Anthropic's clients
                self._keys.append(value)
            elif lower == b"x-session-id":
                self._session = value.decode("latin-1")
            elif lower == b"origin" and self._gate.allows(value):
                self.cors = b"access-control-allow-origin: %b\r\nvary: origin\r\n" % value
        elif lower == b"host":
            self._hosts += 1
        elif lower == b"content-length":
            self._length = int(value)
        elif lower == b"transfer-encoding":
            self._chunked = True
        elif lower == b"connection":
            self._named += listed(value)
        elif lower == b"expect":
            self._expect = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        self._head_done = True

    def on_body(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left >= 0 and not self._message_done:
            self._body.append(data)

    def on_message_begin(self) -> None:
        if self._message_done:  # something follows a chunked body in one piece with it: this response is the last one
            self.close = True

    def on_message_complete(self) -> None:
        self._message_done = True
