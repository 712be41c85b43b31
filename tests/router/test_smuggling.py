"""Request and response smuggling: what bytes mean to the router, to the worker behind it and to h11 is the same.

Each client's bytes in CORPUS are sent alone and with a second request glued on. A worker keeps what reaches its socket,
and an independent parser (h11) reads it: there is exactly the request that was sent, whole, and nothing else. On the
client's bytes the router and h11 come to the same verdict, but for STRICTER. ANSWERS is the other way round.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import h11
import pytest

from router import front
from router.fleet import State, Worker
from tests.e2e.fault_worker import Garbage, Raw, Status
from tests.router.world import Answer, Client

LINE = b"POST /generate HTTP/1.1\r\n"
HEAD = LINE + b"Host: r\r\n"
SIZED = b"Content-Length: 2\r\n\r\n{}"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"2\r\n{}\r\n0\r\n\r\n"
GLUE = b"POST /generate?glued HTTP/1.1\r\nHost: r\r\n" + SIZED


class Outcome(NamedTuple):
    """What becomes of a client's bytes."""

    served: int  # requests that reach a worker, and are answered
    end: str  # of the connection
    unserved: int = 0  # errors before its end


OPEN = "open"  # for the next request
CLOSED = "closed"  # after the last answer
CUT = "refused"  # an error, then closed
MORE = "waits"  # for more bytes, and says so when they do not come
AIOHTTP = "elsewhere"  # no inference

REFUSED = Outcome(0, CUT)
ONE = Outcome(1, OPEN)
TWO = Outcome(2, OPEN)
LAST = Outcome(1, CLOSED)
NO_JSON = Outcome(0, OPEN, 1)
WAITS = Outcome(0, MORE)
ELSEWHERE = Outcome(0, AIOHTTP)


def coded(value: bytes) -> bytes:
    """A chunked body under this Transfer-Encoding."""
    return HEAD + b"Transfer-Encoding:" + value + b"\r\n\r\n" + CHUNKS


def sized(value: bytes) -> bytes:
    """A body of two bytes under this Content-Length."""
    return HEAD + b"Content-Length:" + value + b"\r\n\r\n{}"


def line(first: bytes) -> bytes:
    return first + b"\r\nHost: r\r\n" + SIZED


def chunks(body: bytes) -> bytes:
    return HEAD + CHUNKED + b"\r\n" + body


def header(line: bytes) -> bytes:
    return HEAD + line + b"\r\n" + SIZED


CORPUS: dict[str, tuple[bytes, Outcome]] = {
    # Two framings in one head
    "CL.TE": (HEAD + b"Content-Length: 4\r\n" + CHUNKED + b"\r\n" + CHUNKS, REFUSED),
    "TE.CL": (HEAD + CHUNKED + b"Content-Length: 4\r\n\r\n" + CHUNKS, REFUSED),
    "CL.0": (HEAD + b"Content-Length: 0\r\n" + CHUNKED + b"\r\n" + CHUNKS, REFUSED),
    "CL.TE in HTTP/1.0": (b"POST /generate HTTP/1.0\r\nContent-Length: 4\r\n" + CHUNKED + b"\r\n" + CHUNKS, REFUSED),
    "TE in HTTP/1.0": (b"POST /generate HTTP/1.0\r\n" + CHUNKED + b"\r\n" + CHUNKS, REFUSED),
    "CL and identity": (HEAD + b"Transfer-Encoding: identity\r\n" + SIZED, REFUSED),
    "CL and empty TE": (HEAD + b"Transfer-Encoding:\r\n" + SIZED, REFUSED),
    "CL and TE named with _": (HEAD + b"Transfer_Encoding: chunked\r\n" + SIZED, ONE),
    "CL and TE named with a tab": (HEAD + b"Transfer-Encoding\t: chunked\r\n" + SIZED, REFUSED),
    "CL and TE after a bare CR": (HEAD + b"X: y\rTransfer-Encoding: chunked\r\n" + SIZED, REFUSED),
    "CL and TE after a bare LF": (HEAD + b"X: y\nTransfer-Encoding: chunked\r\n" + SIZED, REFUSED),
    "CL and TE after a vertical tab": (HEAD + b"X: y\x0bTransfer-Encoding: chunked\r\n" + SIZED, REFUSED),
    "CL and TE after NUL": (HEAD + b"X: y\0Transfer-Encoding: chunked\r\n" + SIZED, REFUSED),
    "CL and TE with a leading space": (HEAD + b"X: y\r\n Transfer-Encoding: chunked\r\n" + SIZED, REFUSED),
    "CL that Connection names": (HEAD + b"Connection: content-length\r\n" + SIZED, ONE),
    "TE that Connection names": (HEAD + b"Connection: transfer-encoding\r\n" + CHUNKED + b"\r\n" + CHUNKS, ONE),
    "Host that Connection names": (HEAD + b"Connection: host\r\n" + SIZED, ONE),
    # Transfer-Encoding
    "TE": (coded(b" chunked"), ONE),
    "TE in capitals": (coded(b" CHUNKED"), ONE),
    "TE in mixed case": (coded(b" cHuNkEd"), ONE),
    "TE without space": (coded(b"chunked"), ONE),
    "TE after a tab": (coded(b"\tchunked"), ONE),
    "TE before a space": (coded(b" chunked "), ONE),
    "TE before a tab": (coded(b" chunked\t"), REFUSED),
    "TE after a vertical tab": (coded(b" \x0bchunked"), REFUSED),
    "TE before a vertical tab": (coded(b" chunked\x0b"), REFUSED),
    "TE after a form feed": (coded(b" \x0cchunked"), REFUSED),
    "TE before NUL": (coded(b" chunked\0"), REFUSED),
    "TE after NBSP": (coded(b" \xa0chunked"), REFUSED),
    "TE folded": (coded(b"\r\n chunked"), REFUSED),
    "TE empty": (coded(b""), REFUSED),
    "TE xchunked": (coded(b" xchunked"), REFUSED),
    "TE x chunked": (coded(b" x chunked"), REFUSED),
    "TE chunkedx": (coded(b" chunkedx"), REFUSED),
    "TE chunk": (coded(b" chunk"), REFUSED),
    "TE quoted": (coded(b' "chunked"'), REFUSED),
    "TE with a parameter": (coded(b" chunked;q=1"), REFUSED),
    "TE chunked,": (coded(b" chunked,"), REFUSED),
    "TE ,chunked": (coded(b" ,chunked"), REFUSED),
    "TE chunked, identity": (coded(b" chunked, identity"), REFUSED),
    "TE identity, chunked": (coded(b" identity, chunked"), REFUSED),
    "TE gzip, chunked": (coded(b" gzip, chunked"), REFUSED),
    "TE chunked, chunked": (coded(b" chunked, chunked"), REFUSED),
    "TE identity": (coded(b" identity"), REFUSED),
    "TE doubled": (HEAD + CHUNKED * 2 + b"\r\n" + CHUNKS, REFUSED),
    "TE doubled, other first": (HEAD + b"Transfer-Encoding: x\r\n" + CHUNKED + b"\r\n" + CHUNKS, REFUSED),
    "TE doubled, other last": (HEAD + CHUNKED + b"Transfer-Encoding: x\r\n\r\n" + CHUNKS, REFUSED),
    "TE before the colon a space": (HEAD + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKS, REFUSED),
    "TE without a colon": (HEAD + b"Transfer-Encoding chunked\r\n\r\n" + CHUNKS, REFUSED),
    # Content-Length
    "CL": (sized(b" 2"), ONE),
    "CL none": (HEAD + b"\r\n", NO_JSON),
    "CL of zero": (HEAD + b"Content-Length: 0\r\n\r\n", NO_JSON),
    "CL between tabs": (sized(b"\t2\t"), ONE),
    "CL with a leading zero": (sized(b" 02"), ONE),
    "CL with 30 leading zeros": (sized(b" " + b"0" * 30 + b"2"), REFUSED),
    "CL with 5000 leading zeros": (sized(b" " + b"0" * 5000 + b"2"), REFUSED),
    "CL doubled, equal": (HEAD + b"Content-Length: 2\r\n" + SIZED, REFUSED),
    "CL doubled, different": (HEAD + b"Content-Length: 60\r\n" + SIZED, REFUSED),
    "CL doubled, other case": (HEAD + b"content-length: 60\r\n" + SIZED, REFUSED),
    "CL doubled, first empty": (HEAD + b"Content-Length:\r\n" + SIZED, REFUSED),
    "CL +2": (sized(b" +2"), REFUSED),
    "CL -2": (sized(b" -2"), REFUSED),
    "CL -0": (sized(b" -0"), REFUSED),
    "CL 0x2": (sized(b" 0x2"), REFUSED),
    "CL 2e0": (sized(b" 2e0"), REFUSED),
    "CL 2.0": (sized(b" 2.0"), REFUSED),
    "CL 1_0": (sized(b" 1_0"), REFUSED),
    "CL 2 2": (sized(b" 2 2"), REFUSED),
    "CL 2, 2": (sized(b" 2, 2"), REFUSED),
    "CL 2, 60": (sized(b" 2, 60"), REFUSED),
    "CL 2,": (sized(b" 2,"), REFUSED),
    "CL quoted": (sized(b' "2"'), REFUSED),
    "CL empty": (sized(b""), REFUSED),
    "CL folded": (sized(b"\r\n 60"), REFUSED),
    "CL after a vertical tab": (sized(b" \x0b2"), REFUSED),
    "CL before a form feed": (sized(b" 2\x0c"), REFUSED),
    "CL in other digits": (sized(" \u0662".encode()), REFUSED),
    "CL superscript": (sized(b" \xb2"), REFUSED),
    "CL of 2^64": (sized(b" 18446744073709551616"), REFUSED),
    "CL of 2^64 + 2": (sized(b" 18446744073709551618"), REFUSED),
    "CL too short for its body": (HEAD + SIZED + b"POST /generate?x", Outcome(1, MORE)),
    "CL too long for its body": (HEAD + b"Content-Length: 1000\r\n\r\n{}", WAITS),
    # Line ends
    "LF after the request line": (b"POST /generate HTTP/1.1\nHost: r\r\n" + SIZED, REFUSED),
    "LF everywhere": (b"POST /generate HTTP/1.1\nHost: r\nContent-Length: 2\n\n{}", WAITS),
    "LF LF before a blank line": (HEAD + b"Content-Length: 2\n\n{}\r\n\r\n", REFUSED),
    "LF CRLF": (HEAD + b"Content-Length: 2\n\r\n{}\r\n\r\n", REFUSED),
    "CRLF LF": (HEAD + b"Content-Length: 2\r\n\n{}\r\n\r\n", REFUSED),
    "CR after the request line": (b"POST /generate HTTP/1.1\rHost: r\r\n" + SIZED, REFUSED),
    "CR CR LF": (HEAD + b"X: y\r\r\n" + SIZED, REFUSED),
    "CR in a value": (header(b"X: a\rb"), REFUSED),
    "CR before a colon": (header(b"X\r: a"), REFUSED),
    "CR alone in a line": (header(b"\r"), REFUSED),
    "obs-fold": (header(b"X: a\r\n b"), REFUSED),
    "obs-fold with a tab": (header(b"X: a\r\n\tb"), REFUSED),
    "obs-fold of nothing": (header(b"X: a\r\n "), REFUSED),
    "obs-fold of the first line": (LINE + b" Host: r\r\n" + SIZED, REFUSED),
    "empty lines first": (b"\r\n\r\n" + HEAD + SIZED, ONE),
    "LF first": (b"\n\n" + HEAD + SIZED, ONE),
    # Names and values
    "name with a space": (header(b"X Y: a"), REFUSED),
    "name before a space": (header(b"X : a"), REFUSED),
    "name before a tab": (header(b"X\t: a"), REFUSED),
    "name with NUL": (header(b"X\0: a"), REFUSED),
    "name in 8 bits": (header(b"X\xe9: a"), REFUSED),
    "name in brackets": (header(b"(X): a"), REFUSED),
    "name with a quote": (header(b'X": a'), REFUSED),
    "name empty": (header(b": a"), REFUSED),
    "no colon": (header(b"hello"), REFUSED),
    "value with NUL": (header(b"X: a\0b"), REFUSED),
    "value with SOH": (header(b"X: a\x01b"), REFUSED),
    "value with ESC": (header(b"X: \x1b[31m"), REFUSED),
    "value with DEL": (header(b"X: a\x7f"), REFUSED),
    "value with a vertical tab": (header(b"X: a\x0bb"), REFUSED),
    "value in 8 bits": (header(b"X: \x80\xe9\xff"), ONE),
    "value empty": (header(b"X:"), ONE),
    "Host missing": (LINE + SIZED, REFUSED),
    "Host missing in HTTP/1.0": (b"POST /generate HTTP/1.0\r\n" + SIZED, LAST),
    "Host doubled": (header(b"Host: r"), REFUSED),
    "Host doubled in HTTP/1.0": (b"POST /generate HTTP/1.0\r\nHost: a\r\nHost: b\r\n" + SIZED, REFUSED),
    "Host empty": (LINE + b"Host:\r\n" + SIZED, ONE),
    "upgrade to h2c": (header(b"Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA"), ONE),
    "upgrade to WebSocket": (header(b"Connection: upgrade\r\nUpgrade: websocket"), ONE),
    # Request lines
    "space before the method": (line(b" POST /generate HTTP/1.1"), ELSEWHERE),
    "method in lower case": (line(b"post /generate HTTP/1.1"), ELSEWHERE),
    "two spaces before the path": (line(b"POST  /generate HTTP/1.1"), ELSEWHERE),
    "two spaces before the version": (line(b"POST /generate  HTTP/1.1"), REFUSED),
    "space after the version": (line(b"POST /generate HTTP/1.1 "), REFUSED),
    "tab before the version": (line(b"POST /generate\tHTTP/1.1"), ELSEWHERE),
    "two versions": (line(b"POST /generate HTTP/1.1 HTTP/1.1"), REFUSED),
    "HTTP/0.9": (line(b"POST /generate HTTP/0.9"), REFUSED),
    "HTTP/0.9 without version": (b"POST /generate?x\r\nHost: r\r\n" + SIZED, REFUSED),
    "HTTP/1.2": (line(b"POST /generate HTTP/1.2"), REFUSED),
    "HTTP/1.10": (line(b"POST /generate HTTP/1.10"), REFUSED),
    "HTTP/2.0": (line(b"POST /generate HTTP/2.0"), REFUSED),
    "http/1.1": (line(b"POST /generate http/1.1"), REFUSED),
    "RTSP/1.0": (line(b"POST /generate RTSP/1.0"), REFUSED),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ELSEWHERE),
    "absolute form": (line(b"POST http://r/generate HTTP/1.1"), ELSEWHERE),
    "authority form": (b"CONNECT r:80 HTTP/1.1\r\nHost: r\r\n\r\n", ELSEWHERE),
    "asterisk form": (line(b"POST * HTTP/1.1"), ELSEWHERE),
    "path with a dot segment": (line(b"POST /v1/../generate HTTP/1.1"), ELSEWHERE),
    "path percent-encoded": (line(b"POST /gener%61te HTTP/1.1"), ELSEWHERE),
    "path with NUL": (line(b"POST /generate\0 HTTP/1.1"), ELSEWHERE),
    "query with NUL": (line(b"POST /generate?\0 HTTP/1.1"), REFUSED),
    "query with a tab": (line(b"POST /generate?a\tb HTTP/1.1"), REFUSED),
    "query with CR": (line(b"POST /generate?a\rb HTTP/1.1"), REFUSED),
    "query with LF": (line(b"POST /generate?a\nb HTTP/1.1"), REFUSED),
    "query with a form feed": (line(b"POST /generate?a\x0cb HTTP/1.1"), REFUSED),
    "query with DEL": (line(b"POST /generate?\x7f HTTP/1.1"), REFUSED),
    "query with a space": (line(b"POST /generate?a b HTTP/1.1"), REFUSED),
    "query in 8 bits": (line(b"POST /generate?\xe9 HTTP/1.1"), REFUSED),
    "query with a request line": (line(b"POST /generate?HTTP/1.1%0d%0aX: HTTP/1.1"), ONE),
    "query of punctuation": (line(b"POST /generate?\"<>\\^`{|}'#?/: HTTP/1.1"), ONE),
    # Chunks
    "chunk extension": (chunks(b"2;a=b\r\n{}\r\n0;c\r\n\r\n"), ONE),
    "chunk extension quoted": (chunks(b'2;a="b c;d"\r\n{}\r\n0\r\n\r\n'), ONE),
    "chunk extension empty": (chunks(b"2;\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk extension after a space": (chunks(b"2; a=b\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk extension before a space": (chunks(b"2 ;a=b\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk extension with LF": (chunks(b"2;a\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk extension with LF in its value": (chunks(b"2;a=\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk extension with LF in quotes": (chunks(b'2;a="\n{}\r\n0\r\n\r\n'), REFUSED),
    "chunk extension with CR": (chunks(b"2;a\rb\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk extension with CRLF in quotes": (chunks(b'2;a="\r\n{}\r\n0\r\n\r\n'), REFUSED),
    "chunk extension with NUL": (chunks(b"2;\0\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk extension in 8 bits": (chunks(b"2;a=\xe9\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk extension of 60 KB": (chunks(b"2;" + b"a" * 60_000 + b"\r\n{}\r\n0\r\n\r\n"), ONE),
    "chunk extension of 300 KB": (chunks(b"2;" + b"a" * 300_000 + b"\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk size with zeros": (chunks(b"0002\r\n{}\r\n000\r\n\r\n"), ONE),
    "chunk size 0x2": (chunks(b"0x2\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk size +2": (chunks(b"+2\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk size -2": (chunks(b"-2\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk size 0_2": (chunks(b"0_2\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk size g": (chunks(b"g\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk size empty": (chunks(b"\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk size after a space": (chunks(b" 2\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk size before a space": (chunks(b"2 \r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk size before a tab": (chunks(b"2\t\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk size of 2^64 + 2": (chunks(b"10000000000000002\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk size of 2^68 + 2": (chunks(b"100000000000000002\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk size before LF": (chunks(b"2\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk size before CR": (chunks(b"2\r{}\r\n0\r\n\r\n"), REFUSED),
    "chunk size before CR CR LF": (chunks(b"2\r\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk too long for its size": (chunks(b"2\r\n{}}\r\n0\r\n\r\n"), REFUSED),
    "chunk too short for its size": (chunks(b"5\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "chunk without CRLF": (chunks(b"2\r\n{}0\r\n\r\n"), REFUSED),
    "chunk before LF": (chunks(b"2\r\n{}\n0\r\n\r\n"), REFUSED),
    "chunk before CR": (chunks(b"2\r\n{}\r0\r\n\r\n"), REFUSED),
    "chunk before other bytes": (chunks(b"2\r\n{}XX0\r\n\r\n"), REFUSED),
    "last chunk before LF": (chunks(b"2\r\n{}\r\n0\n\r\n"), REFUSED),
    "last chunk before CRLF LF": (chunks(b"2\r\n{}\r\n0\r\n\n"), REFUSED),
    "last chunk twice": (chunks(b"2\r\n{}\r\n0\r\n0\r\n\r\n"), REFUSED),
    "last chunk missing": (chunks(b"2\r\n{}\r\n"), WAITS),
    "last chunk without blank line": (chunks(b"2\r\n{}\r\n0\r\n"), WAITS),
    # Trailers
    "trailer": (chunks(b"2\r\n{}\r\n0\r\nX: y\r\n\r\n"), ONE),
    "trailer Host": (chunks(b"2\r\n{}\r\n0\r\nHost: evil\r\n\r\n"), ONE),
    "trailer X-API-Key": (chunks(b"2\r\n{}\r\n0\r\nX-API-Key: evil\r\n\r\n"), ONE),
    "trailer Content-Length": (chunks(b"2\r\n{}\r\n0\r\nContent-Length: 60\r\n\r\n"), REFUSED),
    "trailer Transfer-Encoding": (chunks(b"2\r\n{}\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"), REFUSED),
    "trailer upgrade": (chunks(b"2\r\n{}\r\n0\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), ONE),
    "trailer with LF": (chunks(b"2\r\n{}\r\n0\r\nX: y\nZ: z\r\n\r\n"), REFUSED),
    "trailer folded": (chunks(b"2\r\n{}\r\n0\r\nX: y\r\n z\r\n\r\n"), REFUSED),
    "trailer with NUL": (chunks(b"2\r\n{}\r\n0\r\nX: \0\r\n\r\n"), REFUSED),
    "trailer without a colon": (chunks(b"2\r\n{}\r\n0\r\nX\r\n\r\n"), REFUSED),
    "trailer of 300 KB": (chunks(b"2\r\n{}\r\n0\r\nX: " + b"y" * 300_000 + b"\r\n\r\n"), REFUSED),
    # Expect
    "Expect": (header(b"Expect: 100-continue"), ONE),
    "Expect in capitals": (header(b"EXPECT: 100-CONTINUE"), ONE),
    "Expect something else": (header(b"Expect: a miracle"), ONE),
    "Expect twice": (header(b"Expect: 100-continue\r\nExpect: 100-continue"), ONE),
    "Expect and chunks": (HEAD + b"Expect: 100-continue\r\n" + CHUNKED + b"\r\n" + CHUNKS, ONE),
    "Expect obfuscated": (header(b"Expect: y 100-continue"), ONE),
    # Other methods with bodies, on an inference path
    "GET with a body": (line(b"GET /generate HTTP/1.1"), ELSEWHERE),
    "GET with chunks": (b"GET /generate HTTP/1.1\r\nHost: r\r\n" + CHUNKED + b"\r\n" + CHUNKS, ELSEWHERE),
    "HEAD with a body": (line(b"HEAD /generate HTTP/1.1"), ELSEWHERE),
    "OPTIONS with a body": (line(b"OPTIONS /generate HTTP/1.1"), ELSEWHERE),
    "a request in a GET's body": (
        b"GET /generate HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n" % len(GLUE) + GLUE,
        ELSEWHERE,
    ),
    # More than one
    "two sized": ((HEAD + SIZED) * 2, TWO),
    "two, empty lines between": (HEAD + SIZED + b"\r\n\r\n" + HEAD + SIZED, TWO),
    "sized, then chunked": (HEAD + SIZED + chunks(CHUNKS), TWO),
    "the second refused": (HEAD + SIZED + HEAD + b"Content-Length: +2\r\n\r\n{}", Outcome(1, CUT)),
    "a request in a body": (HEAD + b"Content-Length: %d\r\n\r\n{" % (len(GLUE) + 1) + GLUE, NO_JSON),
    "nothing served after Connection: close": (HEAD + b"Connection: close\r\n" + SIZED + HEAD + SIZED, LAST),
    "nothing served after HTTP/1.0": (b"POST /generate HTTP/1.0\r\n" + SIZED + HEAD + SIZED, LAST),
    "nothing served after HTTP/1.0 keep-alive": (
        b"POST /generate HTTP/1.0\r\nConnection: keep-alive\r\n" + SIZED + HEAD + SIZED,
        LAST,
    ),
}

# Where the router refuses what h11 takes, and why.
FOLD = "obs-fold must be refused or replaced (RFC 9112 section 5.2)"
BARE_LF = "h11 ends a line at a bare LF, as RFC 9112 section 2.2 permits; the router never does"
CONTROLS = "h11 lets control characters through for the sake of old cookies"
EXTENSION = "h11 reads any bytes up to CRLF as an extension; RFC 9112 section 7.1.1 says which may be in it"
PADDED = "white space after a chunk's size is in no RFC"
VERSION = "h11 takes any version of one digit each"
BOUNDED = "h11 bounds no chunk's framing"
ENORMOUS = "h11 counts on, and waits"
REPEATED = "RFC 9110 section 8.6 permits equal lengths to be taken as one; no client sends them"
TRAILER = "h11 ignores framing in trailers, where RFC 9110 section 6.5.1 forbids it"
STRICTER = {
    "TE in HTTP/1.0": "faulty framing (RFC 9112 section 6.1)",
    "CL.TE": "h11 takes the chunks, as RFC 9112 section 6.1 permits",
    "TE.CL": "as CL.TE",
    "CL.0": "as CL.TE",
    "CL.TE in HTTP/1.0": "as CL.TE",
    "TE before a tab": "llhttp drops spaces there, but not tabs",
    "TE folded": FOLD,
    "CL and TE after a bare LF": BARE_LF,
    "CL and TE with a leading space": FOLD,
    "CL doubled, equal": REPEATED,
    "CL 2, 2": REPEATED,
    "CL folded": FOLD,
    "LF after the request line": BARE_LF,
    "LF everywhere": BARE_LF,
    "LF LF before a blank line": BARE_LF,
    "LF CRLF": BARE_LF,
    "CRLF LF": BARE_LF,
    "obs-fold": FOLD,
    "obs-fold with a tab": FOLD,
    "obs-fold of nothing": FOLD,
    "value with SOH": CONTROLS,
    "value with ESC": CONTROLS,
    "value with DEL": CONTROLS,
    "HTTP/0.9": VERSION,
    "HTTP/1.2": VERSION,
    "HTTP/2.0": VERSION,
    "chunk extension empty": EXTENSION,
    "chunk extension after a space": EXTENSION,
    "chunk extension with CR": EXTENSION,
    "chunk extension with CRLF in quotes": EXTENSION,
    "chunk extension with NUL": EXTENSION,
    "chunk extension in 8 bits": EXTENSION,
    "chunk extension of 300 KB": BOUNDED,
    "CL of 2^64": ENORMOUS,
    "CL of 2^64 + 2": ENORMOUS,
    "chunk size of 2^64 + 2": ENORMOUS,
    "chunk size of 2^68 + 2": ENORMOUS,
    "chunk size before a space": PADDED,
    "chunk size before a tab": PADDED,
    "last chunk before CRLF LF": BARE_LF,
    "trailer Content-Length": TRAILER,
    "trailer Transfer-Encoding": TRAILER,
    "trailer with LF": BARE_LF,
    "trailer folded": FOLD,
    "trailer of 300 KB": BOUNDED,
}


class Read(NamedTuple):
    """What h11 made of a client's bytes."""

    requests: list[tuple[bytes, bytes]]  # target and body
    end: str


def h11_reads(raw: bytes) -> Read:
    requests: list[tuple[bytes, bytes]] = []
    while raw := raw.lstrip(b"\r\n"):  # h11 leaves empty lines before a request to its user
        peer = h11.Connection(h11.SERVER, max_incomplete_event_size=1_000_000)
        peer.receive_data(raw)
        try:
            request, body = _one(peer)
        except h11.RemoteProtocolError:
            return Read(requests, CUT)
        if request is None:
            return Read(requests, MORE)
        requests.append((bytes(request.target), body))
        raw = peer.trailing_data[0]
        if peer.their_state is h11.MUST_CLOSE:
            return Read(requests, CLOSED)
    return Read(requests, OPEN)


def _one(peer: h11.Connection) -> tuple[h11.Request | None, bytes]:
    request, body = None, b""
    while True:
        event = peer.next_event()
        if isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            return (request if isinstance(event, h11.EndOfMessage) else None), body


class Recorder(asyncio.Protocol):
    """A worker that keeps what reaches its sockets, and answers what h11 takes for a request."""

    connections: list[Recorder]

    def __init__(self) -> None:
        self.raw = b""
        self.peer = h11.Connection(h11.SERVER, max_incomplete_event_size=1_000_000)
        self.connections.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.raw += data
        self.peer.receive_data(data)
        while (event := self.peer.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.EndOfMessage):
                headers = [("content-length", "2")]
                self.transport.write(self.peer.send(h11.Response(status_code=200, headers=headers)))
                self.transport.write(self.peer.send(h11.Data(data=b"ok")) + self.peer.send(h11.EndOfMessage()))
                self.peer.start_next_cycle()


@pytest.fixture
async def recorded(world, monkeypatch):
    """A data plane, and the connections of its one worker."""
    monkeypatch.setattr(front, "LINGER", 0.01)
    kind = type("Kept", (Recorder,), {"connections": []})
    server = await asyncio.get_running_loop().create_server(kind, "127.0.0.1", 0)
    w = await world(0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    w.fleet.add(Worker(w.fleet.next_id(), url, lifecycle=State.READY, native_generate=True, models=("m",)))
    yield w, kind.connections
    server.close()
    for connection in kind.connections:
        connection.transport.abort()


def arrived(connections: list[Recorder]) -> list[tuple[bytes, bytes]]:
    """The requests that reached the worker, as h11 reads them: the only ones, whole, each framed in one plain way."""
    requests = []
    for connection in connections:
        read = h11_reads(connection.raw)
        assert read.end == OPEN
        requests += read.requests
        lower = connection.raw.lower()
        for once in (b" http/1.1\r\n", b"\ncontent-length:", b"\nhost:"):
            assert lower.count(once) == len(read.requests)
        for never in (b"\ntransfer-encoding:", b"\nexpect:", b"\nupgrade:", b"\nconnection:"):
            assert never not in lower
    return requests


async def answers(client: Client, at_most: int) -> list[Answer]:
    """Read so many answers, or up to the one that says it is the last."""
    read: list[Answer] = []
    while len(read) < at_most:
        read.append(await client.answer())
        assert read[-1].complete
        if "connection" in read[-1].headers:
            assert await client.closed()
            break
    return read


@pytest.mark.parametrize("glue", [b"", GLUE], ids=["alone", "glued"])
@pytest.mark.parametrize("name", CORPUS)
async def test_no_worker_hears_of_a_request_that_others_would_not_see(recorded, monkeypatch, name, glue):
    w, connections = recorded
    raw, outcome = CORPUS[name]
    if outcome.end == MORE:
        monkeypatch.setattr(front, "HEAD_TIMEOUT", 0.02)
        monkeypatch.setattr(front, "BODY_TIMEOUT", 0.02)
    client = await w.connect()
    client.send(raw + glue)
    if outcome.end == AIOHTTP:
        await w.until(lambda: bool(w.handed_over) and w.handed_over[0].data == raw + glue)
        assert arrived(connections) == []
        return

    expected = [200] * outcome.served + [400] * outcome.unserved
    if outcome.end == OPEN:
        expected += [200] * bool(glue)
    elif outcome.end != CLOSED:
        expected += [408 if outcome.end == MORE else 400]
    read = await answers(client, len(expected))
    statuses = [answer.status for answer in read]
    end = CLOSED if "connection" in read[-1].headers else OPEN
    if end == CLOSED and outcome.end == OPEN:
        assert glue  # behind chunks: it is not served, and the client is told so
        assert b"\r\n0" in raw
        assert statuses == expected[:-1]
    elif outcome.end == MORE and glue:
        assert statuses[:-1] == expected[:-1]
        assert statuses[-1] in (400, 408)
    else:
        assert statuses == expected
        assert (end == OPEN) == (outcome.end == OPEN)
    await w.quiet()
    ours = arrived(connections)
    assert len(ours) == statuses.count(200)
    if end == OPEN:  # and in step: the next request gets its own answer
        client.post("/generate", b"{}", {"x-request-id": "next"})
        assert (await client.answer()).headers["x-request-id"] == "next"
        assert len(arrived(connections)) == len(ours) + 1

    theirs = h11_reads(raw + glue)
    served = [request for request in theirs.requests if request[1] == b"{}"]
    assert ours == served[: len(ours)]
    if name in STRICTER:
        assert glue or (len(ours), outcome.end) != (len(served), theirs.end), "no stricter than h11 any more"
    elif end == OPEN or not glue:
        assert ours == served
        assert outcome.end == theirs.end


# -- the other direction

OK = b"HTTP/1.1 200 OK\r\n"
OK_SIZED = OK + b"Content-Length: 2\r\n"
OK_CHUNKED = OK + CHUNKED
OK_CHUNKS = b"2\r\nok\r\n0\r\n\r\n"
EVIL = b"HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 4\r\n\r\nEVIL"


class Answered(NamedTuple):
    """What the client of an answer gets, and whether the worker's connection is used again."""

    status: int
    body: bytes = b"ok"
    again: bool = False
    whole: bool = True


KEPT = Answered(200, again=True)
USED = Answered(200)
BAD = Answered(502, b"")  # an error of the router's own
NOTHING = Answered(204, b"", again=True)
TORN = Answered(200, whole=False)


def answer(line: bytes) -> bytes:
    return OK_SIZED + line + b"\r\n\r\nok"


def told(length: bytes) -> bytes:
    return OK + b"Content-Length:" + length + b"\r\n\r\nok"


def chunked_as(coding: bytes) -> bytes:
    return OK + b"Transfer-Encoding:" + coding + b"\r\n\r\n" + OK_CHUNKS


def in_chunks(body: bytes) -> bytes:
    return OK_CHUNKED + b"\r\n" + body


# Bytes of a worker, whether it closes after them, and what comes of them.
ANSWERS: dict[str, tuple[bytes, bool, Answered]] = {
    "sized": (OK_SIZED + b"\r\nok", False, KEPT),
    "chunked": (in_chunks(OK_CHUNKS), False, KEPT),
    "up to its close": (OK + b"\r\nok", True, USED),
    "up to its close, empty": (OK + b"\r\n", True, BAD),  # not to be told from a death
    "Connection: close": (answer(b"Connection: close"), False, USED),
    "Connection: close, in a list": (answer(b"Connection: x, Close"), False, USED),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False, USED),
    "HTTP/1.0 keep-alive": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        False,
        KEPT,
    ),
    "Connection names the length": (answer(b"Connection: content-length"), False, KEPT),
    "Connection names the coding": (
        OK_CHUNKED + b"Connection: transfer-encoding\r\n\r\n" + OK_CHUNKS,
        False,
        KEPT,
    ),
    # Framing
    "CL and TE": (OK_SIZED + CHUNKED + b"\r\n" + OK_CHUNKS, False, BAD),
    "CL doubled, equal": (OK_SIZED + b"Content-Length: 2\r\n\r\nok", False, BAD),
    "CL doubled, different": (OK_SIZED + b"Content-Length: 60\r\n\r\nok" + EVIL, False, BAD),
    "CL 2, 2": (told(b" 2, 2"), False, BAD),
    "CL +2": (told(b" +2"), False, BAD),
    "CL -2": (told(b" -2"), False, BAD),
    "CL 0x2": (told(b" 0x2"), False, BAD),
    "CL empty": (told(b""), False, BAD),
    "CL of 5000 zeros": (told(b" " + b"0" * 5000 + b"2"), False, BAD),
    "CL of 2^64": (told(b" 18446744073709551616"), False, BAD),
    "CL too long for its body": (OK + b"Content-Length: 9\r\n\r\nok", True, TORN),
    "CL without body": (OK + b"Content-Length: 9\r\n\r\n", True, BAD),
    "CL too short for its body": (OK_SIZED + b"\r\nokEVIL", False, USED),
    "TE in capitals": (chunked_as(b" CHUNKED"), False, KEPT),
    "TE between tabs": (chunked_as(b"\tchunked\t"), False, KEPT),
    "TE before a space": (chunked_as(b" chunked "), False, KEPT),
    "TE doubled": (OK_CHUNKED + CHUNKED + b"\r\n" + OK_CHUNKS, False, BAD),
    "TE gzip, chunked": (chunked_as(b" gzip, chunked"), False, BAD),
    "TE ,chunked": (chunked_as(b" ,chunked"), False, BAD),
    "TE xchunked": (chunked_as(b" xchunked"), False, BAD),
    "TE identity": (OK + b"Transfer-Encoding: identity\r\n\r\nok", True, BAD),
    "TE empty": (chunked_as(b""), False, BAD),
    "TE in HTTP/1.0": (b"HTTP/1.0 200 OK\r\n" + CHUNKED + b"\r\n" + OK_CHUNKS, False, BAD),
    "TE before the colon a space": (OK + b"Transfer-Encoding : chunked\r\n\r\n" + OK_CHUNKS, False, BAD),
    # Chunks
    "chunk extension": (in_chunks(b'2;a="b"\r\nok\r\n0;c\r\n\r\n'), False, KEPT),
    "chunk extension with LF": (in_chunks(b"2;a\nok\r\n0\r\n\r\n"), False, BAD),
    "chunk size 0x2": (in_chunks(b"0x2\r\nok\r\n0\r\n\r\n"), False, BAD),
    "chunk size -2": (in_chunks(b"-2\r\nok\r\n0\r\n\r\n"), False, BAD),
    "chunk size of 2^64 + 2": (in_chunks(b"10000000000000002\r\nok\r\n0\r\n\r\n"), False, BAD),
    "chunk size before LF": (in_chunks(b"2\nok\n0\n\n"), False, BAD),
    "chunk without CRLF": (in_chunks(b"2\r\nok0\r\n\r\n"), False, BAD),
    "no last chunk": (in_chunks(b"2\r\nok\r\n"), True, TORN),
    "no blank line": (in_chunks(b"2\r\nok\r\n0\r\n"), True, TORN),
    "half a chunk": (in_chunks(b"4\r\nok"), True, TORN),
    "no chunk": (in_chunks(b""), True, BAD),
    "trailer": (in_chunks(b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"), False, KEPT),
    "trailer Content-Length": (in_chunks(b"2\r\nok\r\n0\r\nContent-Length: 9\r\n\r\n"), False, BAD),
    "trailer with LF": (in_chunks(b"2\r\nok\r\n0\r\nX: y\nZ: z\r\n\r\n"), False, BAD),
    # Two answers
    "sized, and another": (OK_SIZED + b"\r\nok" + EVIL, False, USED),
    "chunked, and another": (in_chunks(OK_CHUNKS) + EVIL, False, BAD),  # where it begins is not known
    "chunked, and an empty line": (in_chunks(OK_CHUNKS) + b"\r\n", False, BAD),
    "sized, and an empty line": (OK_SIZED + b"\r\nok\r\n", False, USED),
    "nothing, and another": (OK + b"Content-Length: 0\r\n\r\n" + EVIL, False, Answered(200, b"")),
    "204, and another": (b"HTTP/1.1 204 No Content\r\n\r\n" + EVIL, False, Answered(204, b"")),
    # Interim answers
    "100": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK_SIZED + b"\r\nok", False, KEPT),
    "102 and 103": (
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\nX-Evil: 1\r\n\r\n"
        + OK_SIZED
        + b"\r\nok",
        False,
        KEPT,
    ),
    "100 with a length": (b"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\n" + OK_SIZED + b"\r\nok", False, KEPT),
    "100 with a body": (b"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nok" + OK_SIZED + b"\r\nok", False, BAD),
    "100 alone": (b"HTTP/1.1 100 Continue\r\n\r\n", True, BAD),
    "101": (b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + EVIL, False, BAD),
    "101 to nothing": (b"HTTP/1.1 101 Switching\r\n\r\n" + EVIL, False, BAD),
    "099": (b"HTTP/1.1 099 Early\r\n\r\n" + OK_SIZED + b"\r\nok", False, BAD),
    # Answers without a body
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", False, NOTHING),
    "204 with a length of 0": (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", False, NOTHING),
    "204 with a length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", False, Answered(204, b"")),
    "204 with a body": (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", False, Answered(204, b"")),
    "204 with chunks": (b"HTTP/1.1 204 No Content\r\n" + CHUNKED + b"\r\n" + OK_CHUNKS, False, Answered(204, b"")),
    "304": (b"HTTP/1.1 304 Not Modified\r\n\r\n", False, Answered(304, b"", again=True)),
    "304 with a length, as of HEAD": (b"HTTP/1.1 304 Not\r\nContent-Length: 2\r\n\r\n", False, Answered(304, b"")),
    "304 with a body": (b"HTTP/1.1 304 Not\r\nContent-Length: 2\r\n\r\nok", False, Answered(304, b"")),
    "a length of 0": (OK + b"Content-Length: 0\r\n\r\n", False, Answered(200, b"", again=True)),
    # Headers
    "an upgrade offered": (answer(b"Connection: upgrade\r\nUpgrade: h2c"), False, KEPT),
    "header with LF": (answer(b"X: a\nX-Evil: b"), False, BAD),
    "header with CR": (answer(b"X: a\rX-Evil: b"), False, BAD),
    "header with NUL": (answer(b"X: a\0b"), False, BAD),
    "header with ESC": (answer(b"X: \x1b[31m"), False, BAD),
    "header folded": (answer(b"X: a\r\n X-Evil: b"), False, BAD),
    "header without a colon": (answer(b"X-Evil"), False, BAD),
    "name with a space": (answer(b"X Evil: a"), False, BAD),
    "name in 8 bits": (answer(b"X\xe9: a"), False, BAD),
    "value in 8 bits": (answer(b"X: \xe9\xff"), False, KEPT),
    "headers of 60 KB": (answer(b"X: " + b"y" * 60_000), False, KEPT),
    "headers of 70 KB": (answer(b"X: " + b"y" * 70_000), False, BAD),
    # Status lines
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", False, KEPT),
    "reason in 8 bits": (b"HTTP/1.1 200 \xe9t\xe9\r\nContent-Length: 2\r\n\r\nok", False, KEPT),
    "reason with CR": (b"HTTP/1.1 200 O\rX-Evil: 1\r\nContent-Length: 2\r\n\r\nok", False, BAD),
    "reason with LF": (b"HTTP/1.1 200 O\nX-Evil: 1\r\nContent-Length: 2\r\n\r\nok", False, BAD),
    "reason with NUL": (b"HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nok", False, BAD),
    "reason with ESC": (b"HTTP/1.1 200 \x1b[31m\r\nContent-Length: 2\r\n\r\nok", False, BAD),
    "status 2x0": (b"HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\nok", False, BAD),
    "status 1000": (b"HTTP/1.1 1000 OK\r\nContent-Length: 2\r\n\r\nok", False, BAD),
    "status 299": (b"HTTP/1.1 299 Fine\r\nContent-Length: 2\r\n\r\nok", False, Answered(299, again=True)),
    "status 999": (b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok", False, Answered(999, again=True)),
    "HTTP/2.0": (b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False, BAD),
    "HTTP/0.9": (b"ok", True, BAD),
    "LF everywhere": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", True, BAD),
    "CRLF first": (b"\r\n" + OK_SIZED + b"\r\nok", False, BAD),
    "a request": (GLUE, False, BAD),
    "nothing": (b"", True, BAD),
}


async def h11_asks(client: Client) -> tuple[h11.Response | None, bytes, bool]:
    """One request as h11's client sends and reads it: head, body, and whether the answer came to its end.

    Raises RemoteProtocolError where what comes is no answer.
    """
    peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=1_000_000)
    headers = [("host", "r"), ("content-length", "2")]
    sent = peer.send(h11.Request(method="POST", target="/generate", headers=headers)) or b""
    client.send(sent + (peer.send(h11.Data(data=b"{}")) or b"") + (peer.send(h11.EndOfMessage()) or b""))
    response, body = None, b""
    while True:
        event = peer.next_event()
        if event is h11.NEED_DATA:
            more = await client.reader.read(65536)
            if not more:
                return response, body, False
            peer.receive_data(more)
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert peer.trailing_data[0] == b""
            return response, body, True


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_client_gets_one_answer_of_one_worker_or_an_error(world, name):
    w = await world(1, max_total_retries=0)
    raw, closes, expected = ANSWERS[name]
    w.workers[0].script(Garbage(raw) if closes else Raw(raw))
    client = await w.connect()
    response, body, whole = await h11_asks(client)
    assert (response.status_code, whole) == (expected.status, expected.whole)
    assert expected is BAD or body == expected.body
    assert b"x-evil" not in {name for name, _ in response.headers}
    if not whole:
        assert await client.closed()
        client = await w.connect()
    await w.quiet()

    w.workers[0].script(Status(200, {}, b"its own"))
    response, body, _ = await h11_asks(client)
    assert (response.status_code, body) == (200, b"its own")
    assert w.workers[0].connections == 1 + (not expected.again)
