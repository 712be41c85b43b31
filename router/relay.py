"""How a worker's body becomes the client's: framing, held-back events, translation, and how a broken one ends. Pure.

A relay gets the worker's body in pieces and returns what may be written now. A raw one sees the bytes as they came,
chunk framing included, so that a body crosses the router untouched. Decoded ones see the body alone and frame what they
let through, one chunk a piece: where an error event may still follow, the router must own the framing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from router.generate import Translation

CHUNKED = b"transfer-encoding: chunked\r\n"
LAST_CHUNK = b"0\r\n\r\n"

# An event that is torn when the worker dies must not reach the client: glued to the error event it would be garbage.
# So the tail of a stream is held back until its event is complete, but never more than this many bytes: an event of a
# megabyte is passed on as it comes.
HELD_AT_MOST = 64 * 1024
# A blank line ends an event, whatever ends a line; the LF of a CRLF that was cut in two is a blank line more.
EVENT_END = (b"\n\n", b"\n\r", b"\r\r")
WHOLE = (*EVENT_END, b"\n\r\n")
# Comments between events, with or without a blank line: heartbeats, which must not wait for the next event.
BETWEEN = re.compile(rb"(?:(?::[^\r\n]*)?[\r\n])+")


class Relay(Protocol):
    decoded: bool  # whether feed() wants the body without the worker's chunk framing
    framing: bytes  # the header line that says where the body ends; b"": the worker's Content-Length, or its close

    def feed(self, data: bytes) -> bytes:
        """Take a piece of the worker's body, return what the client gets now."""

    def finish(self) -> bytes:
        """The worker's body is complete: return the rest. Raises ValueError when the body turns out to be garbage."""

    def cut(self, event: bytes) -> bytes:
        """The worker broke off: return what the client still gets before its connection is cut, `event` or nothing."""


def frame(data: bytes) -> bytes:
    """One HTTP/1.1 chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


class Raw:
    """Bytes as they come."""

    decoded = False

    def __init__(self, framing: bytes = b""):
        self.framing = framing

    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""

    def cut(self, event: bytes) -> bytes:
        return b""


class Events:
    """An event stream less its torn end: whole events come out, and more than may be held."""

    def __init__(self) -> None:
        self._held = b""  # begins where an event begins, unless `torn`
        self.torn = False  # part of an event is out: an error event can no longer be told from its rest

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the stream, return those that may go out."""
        if self._held:
            data = self._held + data
            self._held = b""
        if data.endswith(WHOLE):
            self.torn = False
            return data
        out = max((at + len(end) for end in EVENT_END if (at := data.rfind(end)) >= 0), default=0)
        if len(data) - out > HELD_AT_MOST:
            self.torn = True
            return data
        self.torn = self.torn and not out
        if between := BETWEEN.match(data, out):
            out = between.end()
        self._held = data[out:]
        return data[:out]

    def finish(self) -> bytes:
        return self._held


class Decoded:
    """The body in the router's own framing: streams of events, and clients or workers that do not chunk."""

    decoded = True

    def __init__(self, http10: bool, events: Translation | Events | None = None):
        self._frame = bytes if http10 else frame
        self._last = b"" if http10 else LAST_CHUNK
        self._events = events  # None: not a stream of events
        self.framing = b"" if http10 else CHUNKED

    def feed(self, data: bytes) -> bytes:
        return self._frame(self._events.feed(data) if self._events else data)

    def finish(self) -> bytes:
        rest = self._events.finish() if self._events else b""
        return self._frame(rest) + self._last

    def cut(self, event: bytes) -> bytes:
        if self._events is None or (isinstance(self._events, Events) and self._events.torn):
            return b""
        return self._frame(event)


class Whole:
    """A complete answer, made another one at its end by a function that raises ValueError when it cannot."""

    decoded = True
    framing = b""

    def __init__(self, change: Callable[[bytes], bytes]):
        self._change = change
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        self._parts.append(data)
        return b""

    def finish(self) -> bytes:
        body = self._change(b"".join(self._parts))
        self.framing = b"content-length: %d\r\n" % len(body)
        return body

    def cut(self, event: bytes) -> bytes:
        return b""


def choose(
    *, chunked: bool, sized: bool, events: bool, http10: bool, ok: bool, translation: Translation | None
) -> Relay:
    """The relay for an answer: `chunked` or `sized` as the worker framed it, `events` for text/event-stream."""
    if translation is not None and ok:
        return Decoded(http10, translation) if translation.stream else Whole(translation.whole)
    if sized:
        return Raw()
    if events:
        return Decoded(http10, Events())
    return Raw(CHUNKED) if chunked and not http10 else Decoded(http10)
