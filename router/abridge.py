"""A long JSON body without the insides of its longest strings, for a parser that only looks for fields. Pure.

A JSON parser looks at every byte: 0.25 ms for 1 MB, a fifth of what such a request costs in all, where the next quote
is found in 0.03 ms. Images come as base64, megabytes without a quote; and in some texts nobody speaks.

Whether a cut lies within a string is not known when it is made, but afterwards: there is a mark in its place, which is
valid nowhere else. So what is JSON with its marks has the fields of the whole body. What is not must be read in full.
"""

from __future__ import annotations

from typing import Final

LONG: Final = 32 * 1024  # bytes of a body; in a shorter one there is little to be saved
GAP: Final = 16 * 1024  # bytes between two quotes that are worth a cut: they save more than FEW searches cost
FEW: Final = 32  # quotes without a cut after which the search ends; they cost 3 us
TAIL: Final = 64  # bytes before a quote that are looked at for backslashes
MARK: Final = b"\xff"  # stands on either side of a cut's number; no part of UTF-8


def abridge(body: bytes) -> tuple[bytes, list[memoryview]]:
    """The body with a number for each cut, and what was cut out; no cuts where that is not worth it."""
    view, cuts = memoryview(body), list[memoryview]()
    kept: list[bytes] = []
    start = quotes = 0
    quote = body.find(b'"')
    while quote >= 0 and quotes < FEW:
        following = body.find(b'"', quote + 1)
        # Backslashes stay with the quote that they may escape, as far as they go.
        rest = body[following - TAIL : following].rstrip(b"\\") if following - quote > GAP else b""
        if rest:
            kept += (body[start : quote + 1], MARK, b"%d" % len(cuts), MARK)
            start = following - TAIL + len(rest)
            cuts.append(view[quote + 1 : start])
            quotes = 0
        quote = following
        quotes += 1
    if not cuts:
        return body, []
    kept.append(body[start:])
    short = b"".join(kept)
    return (short, cuts) if short.count(MARK) == 2 * len(cuts) else (body, [])


def restore(part: bytes, cuts: list[memoryview]) -> bytes:
    """A part of an abridged body as it was."""
    pieces: list[bytes | memoryview] = [*part.split(MARK)]
    pieces[1::2] = [cuts[int(number)] for number in pieces[1::2]]
    return b"".join(pieces)
