"""How a worker's body becomes the client's: framing, held-back events, translation, and how a broken one ends. Pure.

A relay gets the worker's body in pieces and returns what may be written now. Raw relays see the bytes as they came,
chunk framing included, so that a body crosses the router untouched; decoded ones see the body alone.
"""

from __future__ import annotations

from typing import Protocol

from router.generate import Translation

CHUNKED = b"transfer-encoding: chunked\r\n"
LAST_CHUNK = b"0\r\n\r\n"

# An event that is torn when the worker dies must not reach the client: glued to the error event it would be garbage.
# So the tail of a stream is held back until its event is complete, but never more than this many bytes: an event of a
# megabyte is passed on as it comes.
HELD_AT_MOST = 64 * 1024
EVENT_END = (b"\n\n", b"\r\n\r\n", b"\r\r")
EVENT_END_OF_CHUNK = tuple(end + b"\r\n" for end in EVENT_END)


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


def _whole_events(data: bytes) -> int:
    """How many bytes of a chunked event stream are whole events in whole chunks."""
    return max((at + len(end) for end in EVENT_END_OF_CHUNK if (at := data.rfind(end)) >= 0), default=0)


class RawEvents:
    """A chunked event stream as it comes, less the tail of a piece that ends inside an event or a chunk."""

    decoded = False
    framing = CHUNKED

    def __init__(self) -> None:
        self._held = b""
        self._torn = False  # part of an event is out: an error event can no longer be told from its rest

    def feed(self, data: bytes) -> bytes:
        if self._held:
            data, self._held = self._held + data, b""
        if data.endswith(EVENT_END_OF_CHUNK):
            self._torn = False
            return data
        whole = _whole_events(data)
        if len(data) - whole > HELD_AT_MOST:
            self._torn = True
            return data
        self._torn = self._torn and not whole
        self._held = data[whole:]
        return data[:whole]

    def finish(self) -> bytes:
        return self._held

    def cut(self, event: bytes) -> bytes:
        return b"" if self._torn else frame(event)


class Decoded:
    """The body in the router's own framing: for clients or workers that do not chunk, and for translated streams."""

    decoded = True

    def __init__(self, http10: bool, translation: Translation | None = None, events: bool = False):
        self._frame = bytes if http10 else frame
        self._last = b"" if http10 else LAST_CHUNK
        self._translation = translation
        self._events = events
        self.framing = b"" if http10 else CHUNKED

    def feed(self, data: bytes) -> bytes:
        return self._frame(self._translation.feed(data) if self._translation else data)

    def finish(self) -> bytes:
        rest = self._translation.finish() if self._translation else b""
        return self._frame(rest) + self._last

    def cut(self, event: bytes) -> bytes:
        return self._frame(event) if self._events else b""


class Whole:
    """A complete answer, translated at its end."""

    decoded = True
    framing = b""

    def __init__(self, translation: Translation):
        self._translation = translation
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        self._parts.append(data)
        return b""

    def finish(self) -> bytes:
        body = self._translation.whole(b"".join(self._parts))
        self.framing = b"content-length: %d\r\n" % len(body)
        return body

    def cut(self, event: bytes) -> bytes:
        return b""


def choose(
    *, chunked: bool, sized: bool, events: bool, http10: bool, ok: bool, translation: Translation | None
) -> Relay:
    """The relay for an answer: `chunked` or `sized` as the worker framed it, `events` for text/event-stream."""
    if translation is not None and ok:
        return Decoded(http10, translation, events=True) if translation.stream else Whole(translation)
    if chunked and not http10:
        return RawEvents() if events else Raw(CHUNKED)
    return Raw() if sized else Decoded(http10, events=events)
