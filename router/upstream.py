"""The worker's side of a connection: sends one request at a time, finds the end of its answer; and the pool of them.

A body with a Content-Length is only counted, a chunked one is parsed to find its end. Either way its bytes are passed
on as they came.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import time
from collections import deque
from typing import Protocol
from urllib.parse import urlsplit

from router import sockets
from router.crowd import Crowd
from router.fleet import Worker
from router.http1 import Chunks, ResponseHead, response_head
from router.retry import Fault

# Engines close a connection that was idle for 5 s (uvicorn's default), so the pool must be done with it well before.
IDLE_AT_MOST = 3.0  # seconds
CONNECT_TIMEOUT = 5.0  # seconds
GONE = 30  # seconds after which a worker whose machine is silent has lost its requests: no reset comes from there
MAX_HEAD = 64 * 1024  # bytes of an answer's head
REST = 0.001  # seconds; engines make a token in 5 to 50 ms
WORTH_A_READ = 16 * 1024  # bytes


class Listener(Protocol):
    """Who asked. The calls come in this order: on_head, on_body until `last`; on_lost may end it at any time."""

    def on_head(self, head: ResponseHead) -> bool:
        """An answer has begun; return whether its body is wanted without the worker's chunk framing."""

    def on_body(self, data: bytes, last: bool) -> None:
        """A piece of the body, possibly empty. After `last` the connection no longer belongs to the listener."""

    def on_lost(self, fault: Fault, reason: str) -> None:
        """The answer will not come, or not to its end; the connection is gone."""


class Connection:
    """One connection to a worker. It belongs to its listener from send() until the answer's last byte.

    An asyncio.Protocol, which it does not inherit from so that it can be compiled.
    """

    __slots__ = (
        "_buffer", "_chunks", "_clock", "_decode", "_endless", "_head", "_left", "_listener", "_passed", "_paused",
        "_pool", "_resting", "_silent", "idle_since", "reused", "transport", "worker",
    )  # fmt: skip

    def __init__(self, worker: Worker, pool: Pool):
        self.worker = worker
        self.transport: asyncio.Transport | None = None
        self.reused = False
        self.idle_since = 0.0
        self._pool = pool
        self._clock = pool.clock
        self._listener: Listener | None = None
        self._buffer = b""  # the beginning of a head
        self._head: ResponseHead | None = None
        self._chunks: Chunks | None = None  # of a chunked body
        self._left = 0  # bytes of a sized body still to come
        self._endless = False  # a body without length has begun: it ends with the connection
        self._decode = False
        self._paused = False  # the client reads slower than the worker writes
        self._resting = False  # until the pool says so
        self._passed = 0.0  # when a piece last came
        self._silent = True  # no interim answer has come

    # -- for the listener

    def send(self, listener: Listener, request: bytes, body: bytes) -> None:
        """Send a whole request in one system call: two of them cost a 16 KB request a tenth more.

        A long body is not copied to be joined with the head.
        """
        self._listener = listener
        self._silent = True
        if len(body) < 4096:
            self.transport.write(request + body)
        else:
            self.transport.writelines((request, body))

    def abort(self) -> None:
        """Close at once; the listener hears nothing more."""
        self._listener = None
        self.transport.abort()

    def pause(self) -> None:
        self._paused = True
        self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if not self._resting:
                self.transport.resume_reading()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._listener is None:  # nobody asked: whatever it is, this connection cannot be trusted any more
            self.transport.abort()
            return
        now = self.worker.heard = self._clock()
        if self._head is None:
            self._read_head(self._buffer + data if self._buffer else data)
        else:
            self._read_body(data)
        if self._listener is not None and self._head is not None and self._head.events:
            self._pace(len(data), now)

    def _pace(self, size: int, now: float) -> None:
        """Let a stream that comes in faster than REST gather in its socket: its bytes then cost one read for many.

        A piece that comes alone is never held up, and there is no buffer but the kernel's. 64 events sent at once made
        40 reads and writes, 360 us of CPU, and make 3, 200 us: each is a system call or two, and wakes the client.
        """
        if now - self._passed < REST and size < WORTH_A_READ and not self._paused:
            self._resting = True
            self.transport.pause_reading()
            self._pool.rest(self)
        self._passed = now
        self._pool.passed()

    def rested(self) -> None:
        """For the pool."""
        self._resting = False
        if not self._paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.discard(self)
        listener, self._listener = self._listener, None
        if listener is None:
            return
        if self._endless and exc is None:
            listener.on_body(b"", True)
            return
        silent = self._silent and self._head is None and not self._buffer
        fault = Fault.STALE if silent and self.reused else Fault.DIED
        listener.on_lost(fault, f"the worker closed the connection{f' ({exc})' if exc else ''}")

    def eof_received(self) -> None:
        """The transport closes itself, and says so."""

    def pause_writing(self) -> None:
        """A request is written at once, however slowly its worker reads: it is here in full."""

    def resume_writing(self) -> None: ...

    # -- the answer

    def _read_head(self, data: bytes) -> None:
        self._buffer = b""
        while 4 <= (end := data.find(b"\r\n\r\n") + 4) <= MAX_HEAD:
            try:
                head = response_head(data[:end])
            except ValueError as error:
                self._garbage(str(error))
                return
            data = data[end:]
            if head.status >= 200:
                self._begin(head, data)
                return
            self._silent = False  # an interim answer: the real one follows
        self._buffer = data
        if len(data) > MAX_HEAD:
            self._garbage(f"the answer's head is longer than {MAX_HEAD} bytes")
        elif not b"HTTP/1.1 ".startswith(data[:9].replace(b"/1.0", b"/1.1")):
            self._garbage("the answer is not HTTP")

    def _begin(self, head: ResponseHead, rest: bytes) -> None:
        self._head = head
        self._left = head.length or 0
        self._chunks = Chunks() if head.chunked else None
        self._endless = False
        self._decode = self._listener.on_head(head)
        if self._listener is not None and (rest or head.length == 0):
            self._read_body(rest)

    def _read_body(self, data: bytes) -> None:
        if self._chunks is not None:
            self._read_chunks(self._chunks, data)
        elif self._head.length is None:
            self._endless = True
            self._listener.on_body(data, False)
        elif len(data) < self._left:
            self._left -= len(data)
            self._listener.on_body(data, False)
        else:
            excess = len(data) > self._left
            self._finish(data[: self._left] if excess else data, reusable=not excess)

    def _read_chunks(self, chunks: Chunks, data: bytes) -> None:
        try:
            chunks.feed(data)
        except ValueError as error:
            self._garbage(str(error))
            return
        if chunks.excess:  # its place in `data` is not known, and none of it may reach the client
            self._garbage("bytes follow the end of the answer")
            return
        body = chunks.take()
        if self._decode:
            data = body
        if chunks.ended:
            self._finish(data, reusable=True)
        else:
            self._listener.on_body(data, False)

    def _finish(self, data: bytes, reusable: bool) -> None:
        """The answer is complete: the connection is free before the listener, who may want the next one, is told."""
        listener, self._listener = self._listener, None
        reusable = reusable and not self._head.close
        if self.transport.get_write_buffer_size():
            reusable = False  # it did not wait for all of its request: the rest of that would come before the next one
        self._head = self._chunks = None
        self.resume()
        if reusable:
            self._pool.put(self)
        else:
            self.transport.close()
        listener.on_body(data, True)

    def _garbage(self, reason: str) -> None:
        listener, self._listener = self._listener, None
        self.transport.abort()
        listener.on_lost(Fault.GATEWAY, reason)


class Pool:
    """Idle connections by worker, last in first out: the warmest is used, the others grow old and are closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.clock = time.monotonic
        self._loop = loop
        self._idle: dict[str, deque[Connection]] = {}  # by worker id
        self._resting: list[Connection] = []
        self._crowd = Crowd()
        self._pieces = 0  # of streams, in this turn of the loop
        self._tls: ssl.SSLContext | None = None  # made when it is needed: it reads the system's certificates, in 26 ms

    def take(self, worker: Worker) -> Connection | None:
        """An idle connection to the worker, young enough not to race with the worker's own idle timeout."""
        idle = self._idle.get(worker.id)
        if not idle:
            return None
        connection = idle.pop()
        if self.clock() - connection.idle_since > IDLE_AT_MOST or connection.transport.is_closing():
            idle.append(connection)
            self._close(idle)
            return None
        connection.reused = True
        connection.idle_since = 0.0
        return connection

    async def connect(self, worker: Worker) -> Connection:
        """A fresh connection. Raises OSError, which TimeoutError is, when there is none to be had."""
        host, port, tls = address(worker.url)
        if tls and self._tls is None:
            self._tls = ssl.create_default_context()
        connecting = self._loop.create_connection(
            lambda: Connection(worker, self), host, port, ssl=self._tls if tls else None
        )
        try:
            transport, connection = await asyncio.wait_for(connecting, CONNECT_TIMEOUT)
        except asyncio.TimeoutError:  # no OSError before Python 3.11
            raise OSError(f"no connection within {CONNECT_TIMEOUT:g} s") from None
        except UnicodeError:  # of the lookup, for a label of more than 63 letters
            raise OSError("there can be no host of this name") from None
        watched = None if transport.is_closing() else transport.get_extra_info("socket")
        if watched is not None:
            sockets.keep_watch(watched, GONE)
            sockets.give_up(watched, GONE)
        return connection

    def rest(self, connection: Connection) -> None:
        """Have a connection read on after REST. One timer does for all that rest meanwhile."""
        if not self._resting:
            self._loop.call_later(REST, self._rested)
        self._resting.append(connection)

    def _rested(self) -> None:
        resting, self._resting = self._resting, []
        for connection in resting:
            connection.rested()

    def passed(self) -> None:
        """A piece of a stream was passed on."""
        if not self._pieces:
            self._loop.call_soon(self._turn)  # before the loop next asks what has come
        self._pieces += 1

    def _turn(self) -> None:
        pieces, self._pieces = self._pieces, 0
        nap = self._crowd.turn(pieces, self.clock())
        if nap:
            time.sleep(nap)

    def put(self, connection: Connection) -> None:
        connection.idle_since = self.clock()
        self._idle.setdefault(connection.worker.id, deque()).append(connection)

    def discard(self, connection: Connection) -> None:
        """The connection is closed."""
        if connection.idle_since:
            with contextlib.suppress(KeyError, ValueError):
                self._idle[connection.worker.id].remove(connection)

    def drop(self, worker: Worker) -> None:
        """The worker left, or its process is another one now."""
        self._close(self._idle.pop(worker.id, deque()))

    def reap(self) -> None:
        """Close what has been idle for too long."""
        limit = self.clock() - IDLE_AT_MOST
        for idle in self._idle.values():
            while idle and idle[0].idle_since < limit:
                self._close_one(idle.popleft())

    def close(self) -> None:
        for idle in self._idle.values():
            self._close(idle)

    def _close(self, idle: deque[Connection]) -> None:
        while idle:
            self._close_one(idle.pop())

    def _close_one(self, connection: Connection) -> None:
        connection.idle_since = 0.0
        connection.transport.close()


@functools.lru_cache(maxsize=1024)
def address(url: str) -> tuple[str, int, bool]:
    """Host, port and whether TLS is spoken, of a worker's URL."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    return parts.hostname or "", parts.port or (443 if tls else 80), tls


@functools.lru_cache(maxsize=1024)
def authority(url: str) -> bytes:
    """A worker's URL as the value of a Host header."""
    return urlsplit(url).netloc.encode("ascii")
