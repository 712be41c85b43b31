"""Where a request stands in a trace, by the W3C's Trace Context, and what is told of it in the end. Pure.

The router is one span of a trace: the client's `traceparent` names its parent, and the worker's is replaced by one that
names the router's. A client that sends none, or one that is not valid, begins a trace here.
https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import random
import re
from typing import Final, NamedTuple

from router.http1 import without

# version, trace id, parent id, flags; versions to come may have more behind that, and `ff` is none
_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

SAMPLED: Final = 0x01
_KNOWN: Final = 0x03  # flags: sampled, and that the trace id is random; others are not passed on


class Parent(NamedTuple):
    """The span that a request came from. Ids are not 0."""

    trace_id: int  # 128 bits
    span_id: int  # 64 bits
    flags: int


class Span:
    """One request in the router: its ids, then what became of it. Sole writer: the request's exchange."""

    __slots__ = (
        "attempts", "cached", "code", "first_byte", "flags", "model", "parent_id", "path", "predicted", "seconds",
        "span_id", "trace_id", "worker",
    )  # fmt: skip

    def __init__(self, trace_id: int, span_id: int, parent_id: int | None, flags: int):
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id  # None: the trace begins here
        self.flags = flags
        self.path = ""
        self.model: str | None = None  # as the client named it
        self.worker: str | None = None  # the last one's id; None when it came to none
        self.attempts = 0  # tries to have it answered by a worker
        self.code = 0  # status of the answer; 499 when the client left
        self.seconds = 0.0  # from the request's last byte to the answer's
        self.first_byte: float | None = None  # seconds to the worker's first body byte; None when none came
        self.predicted: int | None = (
            None  # prompt tokens that the policy took to be cached there; None: it has no index
        )
        self.cached: int | None = None  # prompt tokens that the engine says it had cached; None: it does not say

    @property
    def sampled(self) -> bool:
        """Whether it is to be kept: whoever began the trace decides."""
        return bool(self.flags & SAMPLED)

    def traceparent(self) -> bytes:
        """The header's value that names this span."""
        return b"00-%032x-%016x-%02x" % (self.trace_id, self.span_id, self.flags)


def parse(value: bytes) -> Parent | None:
    """A traceparent's value; None when it is not valid, which is as if there was none."""
    found = _TRACEPARENT.fullmatch(value)
    if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5] is not None):
        return None
    parent = Parent(int(found[2], 16), int(found[3], 16), int(found[4], 16) & _KNOWN)
    return parent if parent.trace_id and parent.span_id else None


def begin(lines: bytes, rng: random.Random) -> tuple[Span, bytes]:
    """The span of a request with these header lines, and the lines for its worker, which name that span."""
    values = _values(lines, b"traceparent")
    parent = parse(values[0]) if len(values) == 1 else None
    span_id = rng.getrandbits(64) or 1
    if parent is not None:
        span = Span(parent.trace_id, span_id, parent.span_id, parent.flags)
    else:  # the vendors' part belongs to a traceparent
        span, lines = Span(rng.getrandbits(128) or 1, span_id, None, SAMPLED), without(lines, b"tracestate")
    return span, without(lines, b"traceparent") + b"traceparent: %b\r\n" % span.traceparent()


def _values(lines: bytes, wanted: bytes) -> list[bytes]:
    fields = [line.partition(b":") for line in lines.splitlines()]
    return [value.strip() for name, _, value in fields if name.lower() == wanted]
