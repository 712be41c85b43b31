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
from router.relay import CHUNKED, HELD_AT_MOST, LAST_CHUNK, Decoded, Events, Raw, Relay, Whole, choose, frame

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
            lines += [line] if lines or not line.startswith(b":") else []
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


@st.composite
def heartbeat(draw: st.DrawFn) -> bytes:
    """A comment between events that no blank line follows, or a blank line more than is needed."""
    return draw(st.sampled_from([":", ": ping", ": größer 😀", ""])).encode() + draw(eol).encode()


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces, none of them empty."""
    places = sorted({0, len(data), *(cut % len(data) for cut in cuts)}) if data else []
    return [data[low:high] for low, high in itertools.pairwise(places)]


cuts = st.lists(st.integers(0, 10_000), max_size=12)


# -- streams of events


@properly
@given(st.lists(event(), max_size=6), cuts)
def test_a_stream_arrives_whole(stream: list[bytes], cuts: list[int]) -> None:
    relay = Decoded(False, Events())
    out = b"".join(relay.feed(piece) for piece in split(b"".join(stream), cuts)) + relay.finish()
    assert dechunk(out) == (b"".join(stream), True)


@properly
@given(st.lists(event() | heartbeat(), max_size=6), cuts)
def test_a_stream_may_break_at_any_time_and_the_client_reads_whole_events_and_the_error(
    stream: list[bytes], cuts: list[int]
) -> None:
    expected = events(b"".join(stream))
    relay, out = Decoded(False, Events()), b""
    for piece in split(b"".join(stream), cuts):
        out += relay.feed(piece)
        body, ended = dechunk(out + relay.cut(ERROR))
        *told, error = events(body)
        assert not ended
        assert error == b'{"error": {}}'
        assert told == expected[: len(told)]


@properly
@given(st.lists(event() | heartbeat(), max_size=6), cuts)
def test_what_is_whole_is_passed_on_at_once(stream: list[bytes], cuts: list[int]) -> None:
    ends = list(itertools.accumulate((len(each) for each in stream), initial=0))
    held, out, received = Events(), 0, 0
    for piece in split(b"".join(stream), cuts):
        out += len(held.feed(piece))
        received += len(piece)
        assert out >= max(end for end in ends if end <= received)


@pytest.mark.parametrize(
    "body",
    [
        "data: a\n\ndata: b\n\n",
        "data: a\r\n\r\ndata: b\r\n\r\n",
        "data: a\r\rdata: b\r\r",
        "data: a\n\n\r\ndata: b\n\n",
        "data: é€😀\n\ndata: 😀",
        ": ping\n\n:\n\n",
        ": ping\n:\r\ndata: a\n\r: ping\rdata: b\n\n",
        "\ufeffdata: a\n\nid: 1\nevent: x\n\nretry: 5\n\n",
    ],
    ids=repr,
)
def test_no_byte_of_these_streams_is_a_bad_place_to_break(body: str) -> None:
    raw = body.encode()
    for first, second in itertools.combinations(range(len(raw) + 1), 2):
        relay = Decoded(False, Events())
        out = relay.feed(raw[:first]) + relay.feed(raw[first:second])
        assert events(dechunk(out + relay.cut(ERROR))[0])[-1] == b'{"error": {}}'


# -- events that are too long to be held


@properly
@given(st.lists(event(), max_size=6), cuts, st.integers(20, 60))
def test_no_more_than_so_much_is_held_and_what_is_torn_is_not_glued_to_the_error(
    stream: list[bytes], cuts: list[int], most: int
) -> None:
    with patch.object(relay, "HELD_AT_MOST", most):
        made, out, received = Decoded(False, Events()), b"", 0
        for piece in split(b"".join(stream), cuts):
            out += made.feed(piece)
            received += len(piece)
            assert received - len(dechunk(out)[0]) <= most
            if end := made.cut(ERROR):
                assert events(dechunk(out + end)[0])[-1] == b'{"error": {}}'
        assert dechunk(out + made.finish()) == (b"".join(stream), True)


def test_a_long_event_passes_and_the_next_one_can_be_told_from_an_error_again() -> None:
    body = b"data: " + b"x" * (1 << 20) + b"\n\n"
    made = Decoded(False, Events())
    out = made.feed(body[: 1 << 18]) + made.feed(body[1 << 18 : 1 << 19])
    assert len(out) > (1 << 19) - HELD_AT_MOST
    assert made.cut(ERROR) == b""
    out += made.feed(body[1 << 19 :])
    assert made.cut(ERROR) == frame(ERROR)
    assert dechunk(out + made.finish()) == (body, True)


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
    whole = Whole(translation().whole)
    for piece in split(json.dumps(answer).encode(), cuts):
        assert whole.feed(piece) == b""
        assert whole.cut(ERROR) == b""
    body = whole.finish()
    assert json.loads(body)["text"] == "é"
    assert whole.framing == b"content-length: %d\r\n" % len(body)


def test_a_whole_answer_that_is_garbage_is_an_error() -> None:
    whole = Whole(translation().whole)
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
        # In our own framing, when not, or when an error event may have to follow.
        ("chunked", True, False, True, None, (Decoded, CHUNKED)),
        ("chunked", True, False, False, None, (Decoded, CHUNKED)),
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
        assert told == (chosen[0] is Decoded and (events or (translation is STREAM and ok)))
