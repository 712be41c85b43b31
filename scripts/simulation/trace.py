"""Trace files in Mooncake's format: read, checked line by line, and cut into parts."""

from __future__ import annotations

import functools
import itertools
import statistics
from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec

BLOCK = 512  # tokens of a block in Mooncake's traces


class Part(str, Enum):
    """Which part of a workload is meant: settings are tuned on the first third and scored on the rest."""

    WHOLE = "whole"
    FIRST = "first"
    REST = "rest"


class TraceError(ValueError):
    """One line for a person: which file, which line of it, and what is wrong there."""


class Row(msgspec.Struct, frozen=True):
    """One line: `timestamp` in ms, lengths in tokens, an id for each block of the prompt.

    Equal ids at equal places are equal text. The format: github.com/kvcache-ai/Mooncake, FAST25-release/traces.
    """

    timestamp: Annotated[float, msgspec.Meta(ge=0)]
    input_length: Annotated[int, msgspec.Meta(ge=1)]
    output_length: Annotated[int, msgspec.Meta(ge=0)]
    hash_ids: tuple[int, ...]


@functools.lru_cache(maxsize=2)
def read(path: Path) -> list[Row]:
    """The requests in order of arrival. Raises TraceError."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
    rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise TraceError(f"{path} is empty: one JSON object a line is expected")
    return sorted(rows, key=lambda row: row.timestamp)


def _row(path: Path, number: int, line: bytes) -> Row:
    try:
        row = msgspec.json.decode(line, type=Row)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TraceError(f"{path} line {number}: {error}") from None
    if len(row.hash_ids) < row.input_length // BLOCK:
        said = f"{len(row.hash_ids)} hash_ids for {row.input_length} tokens"
        raise TraceError(f"{path} line {number}: {said}: one for each {BLOCK} tokens is expected")
    return row


def cut(rows: list[Row], part: Part) -> list[Row]:
    """The first third of the requests, or the rest of them."""
    third = max(1, len(rows) // 3)
    return {Part.WHOLE: rows, Part.FIRST: rows[:third], Part.REST: rows[third:] or rows}[part]


def gaps(rows: list[Row]) -> dict[float, float]:
    """How many ms lie behind each stamp until the next, but no more than usually do.

    Stamps that were rounded down (Mooncake's conversations: to 3 s) stand for a request anywhere in between.
    """
    stamps = sorted({row.timestamp for row in rows})
    after = [later - earlier for earlier, later in itertools.pairwise(stamps)]
    usual = statistics.median(after) if after else 0.0
    return {stamp: min(gap, usual) for stamp, gap in zip(stamps, [*after, usual], strict=True)}
