"""Heads and chunks: what they say, what is refused, and that another strict parser sees it the same way."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import BadRequest
from router.http1 import Chunks, parse_request, parse_response, request_head, response_head, without

IDS = frozenset((b"x-request-id",))
POST = b"POST /generate?a=b HTTP/1.1\r\nHost: r\r\n"


def test_a_requests_head_says_all_that_is_needed_of_it() -> None:
    head = parse_request(
        POST + b"Content-Length: 12\r\nAuthorization: Bearer  k1 \r\nX-API-Key: k2\r\nX-Session-Id: s\r\n"
        b"X-Request-Id: r1\r\nOrigin: http://o\r\nExpect: 100-Continue\r\nX-Kept: 1\r\n\r\n",
        IDS,
    )
    assert (head.target, head.length, head.chunked, head.expect) == (b"/generate?a=b", 12, False, True)
    assert (head.keys, head.session, head.id, head.origin) == ((b"k1", b"k2"), "s", b"r1", b"http://o")
    assert (head.http10, head.close) == (False, False)
    assert b"X-Kept: 1\r\n" in head.lines
    assert b"X-API-Key: k2\r\n" in head.lines
    for name in (b"host", b"content-length", b"expect", b"x-request-id"):
        assert name not in head.lines.lower()


def test_hop_by_hop_headers_and_those_that_connection_names_are_left_out() -> None:
    lines = (
        b"Connection: X-Mine, close\r\nX-Mine: 1\r\nTE: trailers\r\nUpgrade: h2c\r\nKeep-Alive: 5\r\nX-Kept: 1\r\n\r\n"
    )
    head = parse_request(POST + lines, IDS)
    assert (head.lines, head.close) == (b"X-Kept: 1\r\n", True)
    answer = parse_response(b"HTTP/1.1 200 OK\r\n" + lines)
    assert (answer.lines, answer.close) == (b"X-Kept: 1\r\n", True)


@pytest.mark.parametrize(
    ("line", "close"), [(b"", False), (b"Connection: close\r\n", True), (b"Connection: keep-alive\r\n", False)]
)
def test_a_connection_ends_when_its_client_says_so(line: bytes, close: bool) -> None:
    assert parse_request(POST + line + b"\r\n", IDS).close is close


def test_an_http_1_0_client_needs_no_host_and_its_connection_ends() -> None:
    head = parse_request(b"POST /generate HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", IDS)
    assert (head.http10, head.close) == (True, True)


@pytest.mark.parametrize(
    ("raw", "length", "chunked", "close"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 5, False, False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None, True, False),
        (b"HTTP/1.1 200 OK\r\n\r\n", None, False, True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", 5, False, True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n", 5, False, False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 0, False, False),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 0, False, True),
        (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", 0, False, True),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 0, False, False),
    ],
)
def test_where_an_answers_body_ends(raw: bytes, length: int | None, chunked: bool, close: bool) -> None:
    head = parse_response(raw)
    assert (head.length, head.chunked, head.close) == (length, chunked, close)


def test_an_answers_head_says_what_kind_it_is() -> None:
    head = parse_response(
        b"HTTP/1.1 503 Busy Now\r\nContent-Type: text/event-stream; charset=utf-8\r\nRetry-After: 1\r\n\r\n"
    )
    assert (head.status, head.reason, head.events, head.retry_after) == (503, b"Busy Now", True, True)


@pytest.mark.parametrize(("coding", "events"), [(b"identity", True), (b"gzip", False), (b"br", False)])
def test_the_events_of_a_compressed_stream_cannot_be_told_apart(coding: bytes, events: bool) -> None:
    lines = b"Content-Type: text/event-stream\r\nContent-Encoding: %b\r\nTransfer-Encoding: chunked\r\n" % coding
    assert parse_response(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n").events == events


def test_a_worker_cannot_forge_what_the_router_writes() -> None:
    assert parse_response(b"HTTP/1.1 200 OK\r\nX-Worker-Id: w9\r\nX-Request-Id: r\r\n\r\n").lines == b""


AMBIGUOUS = {
    "length of a thousand zeros": b"Content-Length: " + b"0" * 5000 + b"2\r\n",
    "length and chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "two lengths": b"Content-Length: 2\r\nContent-Length: 3\r\n",
    "signed length": b"Content-Length: +2\r\n",
    "length list": b"Content-Length: 2, 3\r\n",
    "huge length": b"Content-Length: 99999999999999999999999\r\n",
    "unknown coding": b"Transfer-Encoding: xchunked\r\n",
    "coding after chunked": b"Transfer-Encoding: chunked, gzip\r\n",
    "coding before chunked": b"Transfer-Encoding: gzip, chunked\r\n",
    "coding in a line before": b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
    "nothing before chunked": b"Transfer-Encoding: ,chunked\r\n",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "space before colon": b"Content-Length : 2\r\n",
    "folded line": b"X: a\r\n b\r\n",
    "bare LF": b"X: a\nContent-Length: 2\r\n",
    "bare CR": b"X: a\rb\r\n",
    "NUL": b"X: a\0b\r\n",
    "no colon": b"nonsense\r\n",
    "empty name": b": a\r\n",
    "two hosts": b"Host: other\r\n",
}


@pytest.mark.parametrize("lines", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_an_ambiguous_request_is_refused(lines: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_request(POST + lines + b"\r\n", IDS)
    with pytest.raises(BadRequest):  # and not remembered as anything else
        request_head(POST + lines + b"\r\n", IDS)


@pytest.mark.parametrize(
    "line",
    [b"POST /generate HTTP/0.9", b"POST /generate HTTP/2.0", b"POST /generate", b"POST  /generate HTTP/1.1",
     b"POST /generate  HTTP/1.1", b"POST /generate HTTP/1.1 ", b"POST /generate RTSP/1.0", b"GET /generate HTTP/1.1",
     b"POST /generate\tHTTP/1.1", b"POST /generate?\xe9 HTTP/1.1", b"POST /generate http/1.1"],
)  # fmt: skip
def test_another_first_line_is_refused(line: bytes) -> None:
    with pytest.raises(BadRequest, match="not valid HTTP"):
        parse_request(line + b"\r\nHost: r\r\n\r\n", IDS)


def test_http_1_0_knows_neither_chunks_nor_100_continue() -> None:
    with pytest.raises(BadRequest, match="chunked"):
        parse_request(b"POST /generate HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", IDS)
    with pytest.raises(ValueError, match="chunked"):
        parse_response(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert not parse_request(b"POST /generate HTTP/1.0\r\nExpect: 100-continue\r\n\r\n", IDS).expect


def test_white_space_around_a_value_is_no_part_of_it() -> None:
    head = parse_response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \t chunked \t \r\nX: \t1 \t\r\n\r\n")
    assert (head.chunked, head.lines) == (True, b"X: 1\r\n")


def test_an_answer_cannot_have_its_length_dropped_on_the_way() -> None:
    head = parse_response(b"HTTP/1.1 200 OK\r\nConnection: content-length, x\r\nContent-Length: 2\r\nX: 1\r\n\r\n")
    assert (head.length, head.lines) == (2, b"Content-Length: 2\r\n")


def test_a_length_that_no_body_follows_is_not_passed_on_with_204() -> None:
    assert parse_response(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n").lines == b""


@pytest.mark.parametrize(
    "raw",
    [b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: a\0\r\n\r\n", b"hello\r\n\r\n", b"HTTP/1.1 101 Switching\r\n\r\n",
     b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", b"HTTP/2.0 200 OK\r\n\r\n",
     b"RTSP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 099 Early\r\n\r\n", b"HTTP/1.1 200 O\0K\r\n\r\n",
     b"\r\nHTTP/1.1 200 OK\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n"],
)  # fmt: skip
def test_an_answer_that_is_not_http_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not valid HTTP"):
        response_head(raw)


TOKEN = st.text("abcXYZ09!#$%&'*+-.^_`|~", min_size=1, max_size=8)
VALUE = st.text('abc XYZ,;="/\t:()[]\x80\xff', max_size=12)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(TOKEN, VALUE), max_size=5),
    st.sampled_from(["", "Content-Length: 7", "Transfer-Encoding: chunked"]),
)
def test_what_passes_reads_the_same_to_h11(headers: list[tuple[str, str]], framing: str) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers) + (framing + "\r\n" if framing else "")
    raw = POST + lines.encode("latin-1") + b"\r\n"
    ours = parse_request(raw, IDS)
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(raw)
    event = peer.next_event()
    assert isinstance(event, h11.Request)
    assert event.target == ours.target
    theirs = {bytes(name): bytes(value) for name, value in event.headers}
    assert int(theirs.get(b"content-length", b"0")) == ours.length
    assert (b"transfer-encoding" in theirs) == ours.chunked


def test_a_head_seen_before_says_the_same_again() -> None:
    raw = POST + b"Content-Length: 3\r\n\r\n"
    assert request_head(raw, IDS) is request_head(raw, IDS)
    assert request_head(raw, IDS) == parse_request(raw, IDS)
    assert request_head(raw + b"", frozenset()) == parse_request(raw, frozenset())


def test_a_long_head_is_read_and_not_remembered() -> None:
    raw = POST + b"X: " + b"y" * 5000 + b"\r\n\r\n"
    assert request_head(raw, IDS) == parse_request(raw, IDS)
    assert request_head(raw, IDS) is not request_head(raw, IDS)


def test_a_header_is_taken_out_whatever_its_case() -> None:
    assert without(b"A: 1\r\nContent-Length: 2\r\nB: 3\r\n", b"content-length") == b"A: 1\r\nB: 3\r\n"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.data())
def test_chunks_read_in_any_pieces_give_the_body(parts: list[bytes], data: st.DataObject) -> None:
    raw = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nTrailer: x\r\n\r\n"
    chunks, body = Chunks(), b""
    while raw:
        assert not chunks.ended
        cut = data.draw(st.integers(1, len(raw)))
        chunks.feed(raw[:cut])
        body += chunks.take()
        raw = raw[cut:]
    assert (body, chunks.ended, chunks.excess, chunks.size) == (b"".join(parts), True, False, len(body))


SECOND = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "more",
    [b"POST / HTTP/1.1\r\n", b"garbage", b"HTTP/1.1 200 OK\r\n", b"x", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"x\r\n\r\n",
     SECOND + b"Content-Length: 4\r\n\r\nEVIL", SECOND + b"Transfer-Encoding: chunked\r\n\r\n4\r\nEVIL\r\n0\r\n\r\n"],
)  # fmt: skip
@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n"], ids=["", "after a trailer"])
def test_what_follows_the_last_chunk_in_one_piece_is_noticed(end: bytes, more: bytes) -> None:
    raw = b"2\r\nok\r\n" + end
    for cut in range(len(raw)):
        chunks = Chunks()
        chunks.feed(raw[:cut])
        chunks.feed(raw[cut:] + more)
        assert (chunks.take(), chunks.ended, chunks.excess) == (b"ok", True, True)


def test_an_end_that_comes_in_two_pieces_is_followed_by_nothing() -> None:
    raw = b"2\r\nok\r\n0\r\n\r\n"
    for cut in range(len(raw)):
        chunks = Chunks()
        chunks.feed(raw[:cut])
        assert not chunks.ended
        chunks.feed(raw[cut:])
        assert (chunks.take(), chunks.ended, chunks.excess) == (b"ok", True, False)


@pytest.mark.parametrize("raw", [b"-1\r\n", b"zz\r\n", b"2\r\nokX", b"f" * 20 + b"\r\n", b"2\nok\n", b"+2\r\nok\r\n"])
def test_what_is_no_chunk_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not validly chunked"):
        Chunks().feed(raw)


@pytest.mark.parametrize("start", [b"2;" + b"x", b"2\r\nok\r\n0\r\nX: "], ids=["extension", "trailer"])
def test_chunks_that_are_all_framing_are_refused(start: bytes) -> None:
    chunks = Chunks()
    chunks.feed(start + b"y" * 60_000)
    with pytest.raises(ValueError, match="too long"):
        chunks.feed(b"y" * 6000)


def test_chunks_of_a_byte_each_are_no_trouble_and_take_no_more_memory_than_their_body() -> None:
    chunks = Chunks()
    for _ in range(10):
        chunks.feed(b"00000001\r\nx\r\n" * 1000)
    assert chunks.size == 10_000
    assert len(chunks._pieces) == 10
    chunks.feed(b"0\r\n\r\n")
    assert (chunks.take(), chunks.ended) == (b"x" * 10_000, True)


@pytest.mark.parametrize(("zeros", "h11_too"), [(3, True), (30, False)])
def test_zeros_before_a_chunks_size_mean_nothing_though_h11_takes_no_more_than_twenty(
    zeros: int, h11_too: bool
) -> None:
    raw = b"0" * zeros + b"2\r\nok\r\n0\r\n\r\n"
    chunks = Chunks()
    chunks.feed(raw)
    assert (chunks.take(), chunks.ended) == (b"ok", True)
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(POST + b"Transfer-Encoding: chunked\r\n\r\n" + raw)
    peer.next_event()
    if h11_too:
        assert isinstance(peer.next_event(), h11.Data)
    else:
        with pytest.raises(h11.RemoteProtocolError):
            peer.next_event()
