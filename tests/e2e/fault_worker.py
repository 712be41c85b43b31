"""A worker that misbehaves on request: bare HTTP/1.1 on asyncio, one scripted behaviour for each POST.

In a test: `worker = await FaultWorker.start()`, `worker.script(ResetBeforeHead(), Status(503))`; a POST takes the next
scripted behaviour, or `worker.default` when the script is used up. GETs (probes) never use up the script: their answers
are the table `worker.gets`. By itself: `python -m tests.e2e.fault_worker --port 0` prints its port and serves the
default until SIGTERM. No HTTP library is used, so that every byte, close and reset is the test's own.
"""

from __future__ import annotations

import argparse
import asyncio
import http
import json
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, cast

How = Literal["close", "reset"]

# struct linger {on, 0 seconds}: close() drops what is unsent and sends RST instead of FIN.
LINGER_RESET = struct.pack("ii", 1, 0)
LAST_CHUNK = b"0\r\n\r\n"
JSON = {"content-type": "application/json"}
SSE = {"content-type": "text/event-stream"}
CHUNKED = {"transfer-encoding": "chunked"}


class Request(NamedTuple):
    """A request as it arrived. Header names are lower-case; repeated ones are joined with ', '. `body` is unchunked."""

    path: str
    headers: dict[str, str]
    body: bytes


# --- bytes in -------------------------------------------------------------------------------------------------------


def take_request(buffer: bytearray) -> tuple[str, Request] | None:
    """Take one whole request off the front of `buffer`: (method, request), or None while it is incomplete.

    Raises ValueError when the bytes are not HTTP/1.1. Chunk trailers are not supported.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    method, path, headers = _parse_head(buffer[:end].decode("latin-1"))
    if "chunked" in headers.get("transfer-encoding", "").lower():
        found = _chunked_body(buffer, end + 4)
    else:
        found = _counted_body(buffer, end + 4, int(headers.get("content-length", "0")))
    if found is None:
        return None
    body, end = found
    del buffer[:end]
    return method, Request(path, headers, body)


def _parse_head(text: str) -> tuple[str, str, dict[str, str]]:
    first, *lines = text.split("\r\n")
    method, path, _version = first.split(" ")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError("a header line without a colon")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return method, path, headers


def _counted_body(buffer: bytearray, start: int, length: int) -> tuple[bytes, int] | None:
    end = start + length
    return (bytes(buffer[start:end]), end) if len(buffer) >= end else None


def _chunked_body(buffer: bytearray, at: int) -> tuple[bytes, int] | None:
    spans: list[tuple[int, int]] = []
    while (line_end := buffer.find(b"\r\n", at)) >= 0:
        start = line_end + 2
        end = start + int(buffer[at:line_end].split(b";")[0], 16)
        at = end + 2
        if len(buffer) < at:
            return None
        if start == end:
            return b"".join(buffer[a:b] for a, b in spans), at
        spans.append((start, end))
    return None


# --- bytes out ------------------------------------------------------------------------------------------------------


def head(code: int, headers: Mapping[str, str]) -> bytes:
    """A response head, with its blank line."""
    reason = http.HTTPStatus(code).phrase if code in set(http.HTTPStatus) else "Unknown"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {code} {reason}\r\n{lines}\r\n".encode("latin-1")


def counted(code: int, headers: Mapping[str, str], body: bytes) -> bytes:
    """A whole response with a content-length."""
    return head(code, {**headers, "content-length": str(len(body))}) + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def wants_stream(request: Request) -> bool:
    """Whether the body is a JSON object with "stream": true."""
    try:
        body = json.loads(request.body)
    except ValueError:
        return False
    return isinstance(body, dict) and body.get("stream") is True


def answer_json(port: int) -> bytes:
    """An answer that reads as /generate, /v1/completions and /v1/chat/completions alike, with the worker's port."""
    choice = {"index": 0, "text": "ok", "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return _json({"port": port, "model": "m", "text": "ok", "choices": [choice], "usage": usage})


def answer_events(port: int, count: int) -> list[bytes]:
    """`count` server-sent events in the same mixed shape, without the closing [DONE]."""
    return [b"data: %b\n\n" % _json(_delta(port, f"t{number} ")) for number in range(count)]


def _delta(port: int, text: str) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "delta": {"content": text}, "finish_reason": None}
    return {"port": port, "model": "m", "text": text, "choices": [choice]}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


# --- behaviours -----------------------------------------------------------------------------------------------------


class Behaviour(Protocol):
    """What is done with one request. Returning means: the answer is complete, or was deliberately cut."""

    async def answer(self, connection: Connection, request: Request) -> None: ...


@dataclass(frozen=True)
class Answer:
    """Serve properly: JSON, or `events` server-sent events and [DONE] when the body says "stream": true."""

    events: int = 3

    async def answer(self, connection: Connection, request: Request) -> None:
        port = connection.worker.port
        if not wants_stream(request):
            await connection.write(counted(200, JSON, answer_json(port)))
            return
        await Stream([*answer_events(port, self.events), b"data: [DONE]\n\n"]).answer(connection, request)


@dataclass(frozen=True)
class Stream:
    """Send `events` with one write each, byte for byte; every write first takes a permit of `gate`, where there is one.

    framing: "chunked" makes each write one chunk; "raw" says chunked and leaves the framing, the last chunk included,
    to the bytes given; "close" has no framing: the end of the connection ends the body.
    """

    events: Iterable[bytes]
    gate: asyncio.Semaphore | None = None
    framing: Literal["chunked", "raw", "close"] = "chunked"

    async def answer(self, connection: Connection, request: Request) -> None:
        await connection.write(head(200, {**SSE, "connection": "close"} if self.framing == "close" else SSE | CHUNKED))
        for event in self.events:
            if self.gate is not None:
                await self.gate.acquire()
            await connection.write(chunk(event) if self.framing == "chunked" else event)
        if self.framing == "chunked":
            await connection.write(LAST_CHUNK)
        if self.framing == "close":
            connection.end()


@dataclass(frozen=True)
class Status:
    """A whole answer with this status; content-length is added."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    async def answer(self, connection: Connection, request: Request) -> None:
        await connection.write(counted(self.code, self.headers, self.body))


@dataclass(frozen=True)
class Raw:
    """Exactly these bytes; the connection stays open."""

    data: bytes

    async def answer(self, connection: Connection, request: Request) -> None:
        await connection.write(self.data)


@dataclass(frozen=True)
class Garbage:
    """Bytes that are no HTTP answer, then the end of the connection."""

    data: bytes = b"\x00\xffnot http\r\n\r\n"

    async def answer(self, connection: Connection, request: Request) -> None:
        await connection.write(self.data)
        connection.end()


class CloseBeforeHead:
    """Read the request, close without a byte."""

    async def answer(self, connection: Connection, request: Request) -> None:
        connection.end()


class ResetBeforeHead:
    """Read the request, send RST without a byte."""

    async def answer(self, connection: Connection, request: Request) -> None:
        connection.end("reset")


class CloseAfterHead:
    """Send the head of a chunked answer, close before the first byte of its body."""

    async def answer(self, connection: Connection, request: Request) -> None:
        await connection.write(stream_head(request))
        connection.end()


@dataclass(frozen=True)
class BreakStream:
    """Send `after_events` whole events, with `torn` also half of the next (inside its chunk), then break off."""

    after_events: int
    torn: bool = False
    how: How = "close"

    async def answer(self, connection: Connection, request: Request) -> None:
        *whole, last = [chunk(event) for event in answer_events(connection.worker.port, self.after_events + 1)]
        await connection.write(head(200, SSE | CHUNKED))
        for event in whole:
            await connection.write(event)
        if self.torn:
            await connection.write(last[: len(last) // 2])
        connection.end(self.how)


@dataclass(frozen=True)
class TruncateBody:
    """Declare `declared` bytes of body, send `sent` of them, close."""

    sent: int
    declared: int

    async def answer(self, connection: Connection, request: Request) -> None:
        await connection.write(head(200, JSON | {"content-length": str(self.declared)}) + b"x" * self.sent)
        connection.end()


class Hang:
    """Send nothing until the peer leaves."""

    async def answer(self, connection: Connection, request: Request) -> None:
        await asyncio.Event().wait()


class HangAfterHead:
    """Send the head of a chunked answer, then nothing until the peer leaves."""

    async def answer(self, connection: Connection, request: Request) -> None:
        await connection.write(stream_head(request))
        await asyncio.Event().wait()


@dataclass(frozen=True)
class SlowHead:
    """Send nothing until `event` is set; then do as `then` does."""

    event: asyncio.Event
    then: Behaviour = field(default_factory=Answer)

    async def answer(self, connection: Connection, request: Request) -> None:
        await self.event.wait()
        await self.then.answer(connection, request)


@dataclass(frozen=True)
class CloseIdleKeepAlive:
    """Answer properly as if to keep the connection, then end it: provokes the race on a reused connection.

    when: "at once" ends it as soon as the answer is sent; "next request" at the first bytes of the next request, which
    is then neither recorded nor taken from the script.
    """

    when: Literal["at once", "next request"] = "next request"
    how: How = "close"

    async def answer(self, connection: Connection, request: Request) -> None:
        await Answer().answer(connection, request)
        if self.when == "at once":
            connection.end(self.how)
        else:
            connection.end_on_next = self.how


def stream_head(request: Request) -> bytes:
    """The head of a chunked answer of the type asked for."""
    return head(200, (SSE if wants_stream(request) else JSON) | CHUNKED)


# --- the worker -----------------------------------------------------------------------------------------------------


class Connection(asyncio.Protocol):
    """One connection: reads requests one after another and has the worker's behaviours answer them."""

    def __init__(self, worker: FaultWorker) -> None:
        self.worker = worker
        self.end_on_next: How | None = None
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._answering = False
        self._ended_here = False
        self._transport: asyncio.Transport
        self.task: asyncio.Task[None]

    async def write(self, data: bytes) -> None:
        """Send `data`; returns once the kernel has all of it, so a peer that does not read holds the answer up."""
        self._transport.write(data)
        await self._drained.wait()

    def end(self, how: How = "close") -> None:
        """End the connection from this side: FIN, or RST."""
        self._ended_here = True
        if how == "reset":
            sock = cast(socket.socket, self._transport.get_extra_info("socket"))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            self._transport.abort()
        else:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(0)
        self.worker.opened(self)
        self.task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        if self.end_on_next is not None:
            self.end(self.end_on_next)
            return
        self._buffer += data
        self._arrived.set()

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def connection_lost(self, exc: Exception | None) -> None:
        unanswered = self._answering or bool(self._buffer)
        self.worker.closed(self, aborted=unanswered and not self._ended_here)
        self.task.cancel()

    async def _serve(self) -> None:
        try:
            while not self._transport.is_closing():
                await self._serve_one()
        except ValueError:
            await self.write(counted(400, {"connection": "close"}, b""))
        finally:
            self.end()

    async def _serve_one(self) -> None:
        method, request = await self._next_request()
        self._answering = True
        await self.worker.behaviour(method, request).answer(self, request)
        self._answering = False
        if request.headers.get("connection", "").lower() == "close":
            self.end()

    async def _next_request(self) -> tuple[str, Request]:
        while (taken := take_request(self._buffer)) is None:
            self._arrived.clear()
            await self._arrived.wait()
        return taken


class FaultWorker:
    """A worker on a loopback port, and what it saw. Made by `await FaultWorker.start()`, ended by `await stop()`.

    requests  POSTs, as read in full       probes  paths of the GETs
    connections  accepted so far           aborts  those the peer ended before the answer was complete
    """

    host: str
    port: int

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.probes: list[str] = []
        self.connections = 0
        self.aborts = 0
        self.default: Behaviour = Answer()
        self.gets: dict[str, Behaviour] = {
            "/health": Status(200),
            "/v1/models": Status(200, JSON, _json({"object": "list", "data": [{"id": "m", "object": "model"}]})),
            "/generate": Status(405, {"allow": "POST"}),
        }
        self._script: deque[Behaviour] = deque()
        self._open: set[Connection] = set()
        self._changed = asyncio.Event()
        self._server: asyncio.Server

    @classmethod
    async def start(cls, port: int = 0, host: str = "127.0.0.1") -> FaultWorker:
        """Listen on this loopback port; 0 takes a free one. Raises OSError when the port is taken."""
        worker = cls()
        await worker.listen(port, host=host)
        return worker

    async def listen(self, port: int, backlog: int = 100, host: str = "127.0.0.1") -> None:
        """Begin to serve; `backlog` connections may wait to be accepted. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port, backlog=backlog)
        self.host, self.port = self._server.sockets[0].getsockname()

    async def stop(self) -> None:
        """Stop listening and reset every open connection. Raises what a behaviour raised on one of them."""
        self._server.close()
        tasks = [connection.task for connection in self._open]
        for connection in list(self._open):
            connection.end("reset")
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def script(self, *behaviours: Behaviour) -> None:
        """Add to the behaviours of the next POSTs, one each, in the order in which they are read in full."""
        self._script.extend(behaviours)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return once `holds()`; it is asked after each connection opened or closed and each request read."""
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    def behaviour(self, method: str, request: Request) -> Behaviour:
        """Record the request and choose what is done with it."""
        self._changed.set()
        if method == "GET":
            self.probes.append(request.path)
            return self.gets.get(request.path, Status(404))
        self.requests.append(request)
        return self._script.popleft() if self._script else self.default

    def opened(self, connection: Connection) -> None:
        self.connections += 1
        self._open.add(connection)
        self._changed.set()

    def closed(self, connection: Connection, *, aborted: bool) -> None:
        self.aborts += aborted
        self._open.discard(connection)
        self._changed.set()


async def serve(port: int) -> None:
    """Serve the default behaviour until SIGTERM; the port is the first line printed."""
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    worker = await FaultWorker.start(port)
    print(worker.port, flush=True)
    await terminated.wait()
    await worker.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An inference worker without a model, for tests.")
    parser.add_argument("--port", type=int, default=0, help="loopback port; 0 takes a free one")
    asyncio.run(serve(parser.parse_args().port))
