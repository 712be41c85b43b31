"""What a client gets of a worker's body, however it is chunked and split, and what it gets of a broken one."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import relay
from router.generate import Translation
from router.relay import CHUNKED, HELD_AT_MOST, LAST_CHUNK, Decoded, Events, Raw, RawEvents, Relay, Whole, choose, frame

ERROR = b'data: {"error": {}}\n\n'
properly = settings(max_examples=60, deadline=None)


# -- what a client makes of it


def dechunk(data: bytes) -> tuple[bytes, bool]:
    """The body, and whether its end has come. Fails unless `data` is whole chunks, perhaps with the end."""
    body, at = b"", 0
    while at < len(data):
        line = re.compile(rb"([0-9A-Fa-f]+)(?:;[^\r\n]*)?\r\n").match(data, at)
        assert line, f"no chunk begins at {data[at : at + 20]!r}"
        size, at = int(line[1], 16), line.end()
        if not size:
            assert re.compile(rb"(?:[^\r\n]+\r\n)*\r\n").fullmatch(data, at), f"no end: {data[at:]!r}"
            return body, True
        body += data[at : at + size]
        at += size
        assert data[at : at + 2] == b"\r\n", f"a chunk that does not end: {data[at : at + 2]!r}"
        at += 2
    return body, False


def events(body: bytes) -> list[bytes]:
    """The data of each event, as a client reads them. Fails if the last one is torn."""
    found: list[bytes] = []
    lines: list[bytes] = []
    *whole, rest = re.split(rb"\r\n|\n|\r", body)
    assert rest == b"", f"a torn line: {rest!r}"
    for line in whole:
        if line:
            lines.append(line)
            continue
        data = [each.removeprefix(b"data:").removeprefix(b" ") for each in lines if each.startswith(b"data:")]
        found += [b"\n".join(data)] if data else []
        lines.clear()
    assert not lines, f"a torn event: {lines!r}"
    return found


# -- what a worker sends

text = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8)
field = st.one_of(
    text.map(lambda value: f"data: {value}"),
    text.map(lambda value: f": {value}"),
    st.sampled_from(["event: delta", "id: 7", "data: [DONE]", "data:", "data: 1", "0", ":"]),
)
eol = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def event(draw: st.DrawFn) -> bytes:
    """An event or a comment, of lines that all end alike."""
    end = draw(eol)
    return (end.join(draw(st.lists(field, min_size=1, max_size=3))) + end + end).encode()


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces, none of them empty."""
    places = sorted({0, len(data), *(cut % len(data) for cut in cuts)}) if data else []
    return [data[low:high] for low, high in itertools.pairwise(places)]


cuts = st.lists(st.integers(0, 10_000), max_size=12)


@st.composite
def chunked(draw: st.DrawFn, pieces: st.SearchStrategy[bytes]) -> tuple[list[bytes], list[bytes]]:
    """A stream's events, and its chunks: one per event, per line end, or cut anywhere. The last ends the body."""
    stream = draw(st.lists(pieces, max_size=6))
    body = b"".join(stream)
    payloads = draw(st.sampled_from([stream, split(body, draw(cuts)), re.findall(rb"[^\r\n]+|[\r\n]", body)]))
    extensions = st.sampled_from([b"", b"", b";x=1"])
    chunks = [b"%x%b\r\n%b\r\n" % (len(payload), draw(extensions), payload) for payload in payloads]
    return stream, [*chunks, draw(st.sampled_from([b"0\r\n\r\n", b"000\r\n\r\n", b"0\r\nx-trailer: 1\r\n\r\n"]))]


def pieces_of(chunks: list[bytes], cuts: list[int] | None) -> list[bytes]:
    """The chunks as they arrive: one by one, or cut anywhere."""
    return chunks if cuts is None else split(b"".join(chunks), cuts)


arrivals = st.none() | cuts


def whole_at(stream: list[bytes], chunks: list[bytes], received: int) -> int:
    """How many of the received bytes are whole events in whole chunks."""
    ends = set(itertools.accumulate((len(each) for each in stream), initial=0))
    best = at = body = 0
    for chunk in chunks[:-1]:
        at += len(chunk)
        body += len(dechunk(chunk)[0])
        if at <= received and body in ends:
            best = at
    return best


# -- chunked streams of events


@properly
@given(chunked(event()), arrivals)
def test_a_chunked_stream_arrives_whole(made: tuple[list[bytes], list[bytes]], arrival: list[int] | None) -> None:
    pieces = pieces_of(made[1], arrival)
    stream = RawEvents()
    assert b"".join(stream.feed(piece) for piece in pieces) + stream.finish() == b"".join(pieces)


@properly
@given(chunked(event()), arrivals)
def test_a_stream_may_break_at_any_time_and_the_client_reads_whole_events_and_the_error(
    made: tuple[list[bytes], list[bytes]], arrival: list[int] | None
) -> None:
    expected = events(b"".join(made[0]))
    stream, out = RawEvents(), b""
    for piece in pieces_of(made[1], arrival):
        out += stream.feed(piece)
        body, ended = dechunk(out + stream.cut(ERROR))
        *told, error = events(body)
        assert not ended
        assert error == b'{"error": {}}'
        assert told == expected[: len(told)]


@properly
@given(chunked(event()), arrivals)
def test_what_is_whole_is_passed_on_at_once(made: tuple[list[bytes], list[bytes]], arrival: list[int] | None) -> None:
    stream, out, received = RawEvents(), 0, 0
    for piece in pieces_of(made[1], arrival):
        out += len(stream.feed(piece))
        received += len(piece)
        assert out == whole_at(*made, received)


@properly
@given(chunked(event() | eol.map(str.encode)), arrivals)
def test_stray_blank_lines_tear_nothing(made: tuple[list[bytes], list[bytes]], arrival: list[int] | None) -> None:
    stream, out = RawEvents(), b""
    for piece in pieces_of(made[1], arrival):
        out += stream.feed(piece)
        assert events(dechunk(out + stream.cut(ERROR))[0])[-1] == b'{"error": {}}'
    assert out + stream.finish() == b"".join(made[1])


@pytest.mark.parametrize(
    "chunks",
    [
        ["data: a", "\n", "data: b\n\n"],
        ["data: a", "\r\n", "data: b\r\n\r\n"],
        ["data: a\r\n", "\r\n"],
        ["data: a\n", "\n"],
        ["data: a\r\n\r", "\n"],
        ["data: a\n\n\r\ndata: b\n\n"],
        ["data: a\r\n\r\n\r\ndata: b\r\n\r\n"],
        ["data: é€😀\n\n", "data: 😀"],
        [": ping\n\n", ":\n\n"],
        ["data: 2\r\n\r\n", "data: 2"],
    ],
    ids=repr,
)
def test_no_byte_of_these_streams_is_a_bad_place_to_break(chunks: list[str]) -> None:
    raw = b"".join(frame(chunk.encode()) for chunk in chunks)
    for first, second in itertools.combinations(range(len(raw) + 1), 2):
        stream = RawEvents()
        out = stream.feed(raw[:first]) + stream.feed(raw[first:second])
        assert events(dechunk(out + stream.cut(ERROR))[0])[-1] == b'{"error": {}}'


def test_each_event_goes_out_as_it_comes() -> None:
    stream = RawEvents()
    for size in [*range(8, 600, 7), 4000, 4095, 4096, 5000]:
        chunk = frame(b"data: " + b"x" * (size - 8) + b"\n\n")
        assert stream.feed(chunk) == chunk
        assert stream.feed(chunk * 2) == chunk * 2


# -- events that are too long to be held


@properly
@given(chunked(event()), arrivals, st.integers(20, 60))
def test_no_more_than_so_much_is_held_and_what_is_torn_is_not_glued_to_the_error(
    made: tuple[list[bytes], list[bytes]], arrival: list[int] | None, most: int
) -> None:
    with patch.object(relay, "HELD_AT_MOST", most):
        stream, out, received = RawEvents(), b"", 0
        for piece in pieces_of(made[1], arrival):
            out += stream.feed(piece)
            received += len(piece)
            assert received - len(out) <= most
            if end := stream.cut(ERROR):
                assert events(dechunk(out + end)[0])[-1] == b'{"error": {}}'
        assert out + stream.finish() == b"".join(made[1])


@pytest.mark.parametrize("chunk_size", [1 << 20, 1000], ids=["one chunk", "many"])
def test_a_long_event_passes_and_the_next_one_can_be_told_from_an_error_again(chunk_size: int) -> None:
    body = b"data: " + b"x" * (1 << 20) + b"\n\n"
    raw = b"".join(frame(body[at : at + chunk_size]) for at in range(0, len(body), chunk_size))
    stream = RawEvents()
    head, tail = raw[: 1 << 19], raw[1 << 19 :]
    out = stream.feed(head[: 1 << 18]) + stream.feed(head[1 << 18 :])
    assert len(out) > len(head) - HELD_AT_MOST
    assert stream.cut(ERROR) == b""
    out += stream.feed(tail) + stream.feed(frame(b"data: a\n\n"))
    assert stream.cut(ERROR) == frame(ERROR)
    assert out == raw + frame(b"data: a\n\n")


def test_text_in_a_long_chunk_is_not_taken_for_framing() -> None:
    inner = frame(b"data: " + b"x" * 20 + b"\n\n")  # what the next piece looks like
    stream = RawEvents()
    first, second = b"%x\r\ndata: " % (6 + HELD_AT_MOST + len(inner)) + b"x" * HELD_AT_MOST, inner
    assert stream.feed(first) == first
    out = stream.feed(second) + stream.feed(b"\r\n")
    assert stream.cut(ERROR) == b""
    out += stream.feed(frame(b"\n\n"))
    assert out == second + b"\r\n" + frame(b"\n\n")
    assert stream.cut(ERROR) == frame(ERROR)


def test_a_line_that_ends_after_a_long_chunk_is_not_the_end_of_the_event() -> None:
    stream = RawEvents()
    stream.feed(frame(b"data: a\n"))
    stream.feed(b"%x\r\n" % (HELD_AT_MOST + 1) + b"x" * HELD_AT_MOST)
    stream.feed(b"x\r\n" + frame(b"\n"))
    assert stream.cut(ERROR) == b""


def test_trailers_may_follow_a_long_event() -> None:
    stream = RawEvents()
    pieces = [frame(b"data: " + b"x" * HELD_AT_MOST) + b"0\r\nx-tra", b"iler: 1\r\n", b"\r\n"]
    assert b"".join(stream.feed(piece) for piece in pieces) + stream.finish() == b"".join(pieces)


@pytest.mark.parametrize("endless", [b"5;" + b"x" * HELD_AT_MOST, b"0\r\nx: " + b"x" * HELD_AT_MOST])
def test_framing_without_end_is_an_error_and_is_not_held(endless: bytes) -> None:
    stream = RawEvents()
    stream.feed(frame(b"data: a\n\n"))
    with pytest.raises(ValueError, match="too long"):
        stream.feed(endless)


# -- bodies without chunks


@properly
@given(st.lists(event(), max_size=6), cuts)
def test_events_that_were_not_chunked_are_held_just_so(stream: list[bytes], cuts: list[int]) -> None:
    body, held, out = b"".join(stream), Events(), b""
    for piece in split(body, cuts):
        out += held.feed(piece)
        assert events(out) == events(body)[: len(events(out))]
    assert out == body
    assert held.finish() == b""


@properly
@given(st.lists(event(), min_size=1, max_size=6), cuts)
def test_a_torn_last_event_is_kept_back_until_the_body_ends(stream: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(stream)
    body, held = whole + b"data: torn", Events()
    out = b"".join(held.feed(piece) for piece in split(body, cuts))
    assert out == whole
    assert out + held.finish() == body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("http10", [False, True])
def test_a_decoded_body_gets_the_framing_that_the_client_knows(http10: bool, stream: bool) -> None:
    decoded = Decoded(http10, Events() if stream else None)
    out = decoded.feed(b"data: a\n\n") + decoded.feed(b"") + decoded.feed(b"data: b")
    out += decoded.finish()
    assert decoded.framing == (b"" if http10 else CHUNKED)
    assert (out, http10) == (b"data: a\n\ndata: b", True) if http10 else dechunk(out) == (b"data: a\n\ndata: b", True)


@pytest.mark.parametrize("http10", [False, True])
def test_a_broken_decoded_stream_ends_with_the_error_event_and_no_last_chunk(http10: bool) -> None:
    decoded = Decoded(http10, Events())
    out = decoded.feed(b"data: a\n\ndata: to") + decoded.cut(ERROR)
    body, ended = (out, False) if http10 else dechunk(out)
    assert (body, ended) == (b"data: a\n\n" + ERROR, False)


def test_a_torn_decoded_event_that_is_out_is_followed_by_nothing() -> None:
    decoded = Decoded(False, Events())
    assert decoded.feed(b"data: " + b"x" * HELD_AT_MOST) != b""
    assert decoded.cut(ERROR) == b""


@pytest.mark.parametrize("body", [Decoded(True), Decoded(False), Raw(), Raw(CHUNKED)])
def test_a_broken_body_that_is_no_stream_of_events_just_ends(body: Relay) -> None:
    body.feed(b"half of it")
    assert body.cut(ERROR) == b""


def test_raw_bytes_are_left_alone() -> None:
    raw = Raw()
    assert [raw.feed(b"5\r\nhel"), raw.feed(b""), raw.finish()] == [b"5\r\nhel", b"", b""]


def test_nothing_makes_no_chunk_for_an_empty_one_would_end_the_body() -> None:
    assert frame(b"") == b""
    assert dechunk(frame(b"x" * 300) + LAST_CHUNK) == (b"x" * 300, True)


# -- translated bodies


def translation(**body: object) -> Translation:
    return Translation(json.dumps({"text": "Hi", **body}).encode(), "m")


def completions() -> Iterator[bytes]:
    """A worker's stream of /v1/completions."""
    for piece, reason in [("ä", None), ("b", None), ("", "stop")]:
        choice = {"index": 0, "text": piece, "finish_reason": reason}
        yield b"data: " + json.dumps({"id": "c", "choices": [choice]}, ensure_ascii=False).encode() + b"\n\n"
    yield b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\ndata: [DONE]\n\n'


def texts(body: bytes) -> list[str]:
    return [json.loads(data)["text"] for data in events(body) if data != b"[DONE]"]


@properly
@given(cuts, st.booleans())
def test_a_translated_stream_is_framed_anew_and_breaks_between_events(cuts: list[int], http10: bool) -> None:
    decoded, out = Decoded(http10, translation(stream=True)), b""
    for piece in split(b"".join(completions()), cuts):
        out += decoded.feed(piece)
        broken = out + decoded.cut(b'data: {"text": "error"}\n\n')
        told = texts(broken if http10 else dechunk(broken)[0])
        assert told == [*["ä", "äb", "äb"][: len(told) - 1], "error"]
    out += decoded.finish()
    body, ended = (out, True) if http10 else dechunk(out)
    assert ended
    assert texts(body) == ["ä", "äb", "äb"]
    assert events(body)[-1] == b"[DONE]"


@properly
@given(cuts)
def test_a_whole_answer_is_translated_at_its_end_with_its_own_length(cuts: list[int]) -> None:
    answer = {"id": "c", "choices": [{"index": 0, "text": "é", "finish_reason": "stop"}]}
    whole = Whole(translation())
    for piece in split(json.dumps(answer).encode(), cuts):
        assert whole.feed(piece) == b""
        assert whole.cut(ERROR) == b""
    body = whole.finish()
    assert json.loads(body)["text"] == "é"
    assert whole.framing == b"content-length: %d\r\n" % len(body)


def test_a_whole_answer_that_is_garbage_is_an_error() -> None:
    whole = Whole(translation())
    whole.feed(b"<html>")
    with pytest.raises(ValueError, match="not a completion"):
        whole.finish()


# -- the choice

ONE, STREAM = translation(), translation(stream=True)


@pytest.mark.parametrize(
    ("worker", "events", "http10", "ok", "translation", "chosen"),
    [
        # As it came, when the client can read that.
        ("sized", False, False, True, None, (Raw, b"")),
        ("sized", False, True, True, None, (Raw, b"")),
        ("sized", True, False, True, None, (Raw, b"")),
        ("chunked", False, False, True, None, (Raw, CHUNKED)),
        ("chunked", True, False, True, None, (RawEvents, CHUNKED)),
        ("chunked", True, False, False, None, (RawEvents, CHUNKED)),
        # In our own framing, when not.
        ("chunked", False, True, True, None, (Decoded, b"")),
        ("chunked", True, True, True, None, (Decoded, b"")),
        ("until close", False, False, True, None, (Decoded, CHUNKED)),
        ("until close", True, False, True, None, (Decoded, CHUNKED)),
        ("until close", False, True, True, None, (Decoded, b"")),
        ("until close", True, True, True, None, (Decoded, b"")),
        # Translated, however it came.
        ("sized", False, False, True, ONE, (Whole, b"")),
        ("chunked", False, False, True, ONE, (Whole, b"")),
        ("until close", False, True, True, ONE, (Whole, b"")),
        ("chunked", True, False, True, STREAM, (Decoded, CHUNKED)),
        ("until close", True, False, True, STREAM, (Decoded, CHUNKED)),
        ("chunked", True, True, True, STREAM, (Decoded, b"")),
        # An error is not translated.
        ("sized", False, False, False, ONE, (Raw, b"")),
        ("sized", False, False, False, STREAM, (Raw, b"")),
        ("chunked", False, False, False, STREAM, (Raw, CHUNKED)),
        ("chunked", False, True, False, ONE, (Decoded, b"")),
    ],
)
def test_the_relay_fits_what_the_worker_sends_and_the_client_reads(
    worker: str, events: bool, http10: bool, ok: bool, translation: Translation | None, chosen: tuple[type, bytes]
) -> None:
    found = choose(
        chunked=worker == "chunked",
        sized=worker == "sized",
        events=events,
        http10=http10,
        ok=ok,
        translation=translation,
    )
    assert (type(found), found.framing) == chosen
    assert found.decoded == isinstance(found, (Decoded, Whole))
    if not isinstance(found, Whole):
        told = found.cut(ERROR) != b""
        assert told == (chosen[0] is RawEvents or (chosen[0] is Decoded and (events or translation is STREAM) and ok))
