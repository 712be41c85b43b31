"""One bounded question to a worker's HTTP server: probes, model lists, flushes. Not for inference traffic."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any, NamedTuple

import aiohttp

from router import sockets

CONNECT_TIMEOUT = 2.0  # seconds; workers are on this machine or next to it
NO_SOCKET = "no file descriptor or port is left here"  # says nothing of the worker
MAX_REPLY = 16 * 1024 * 1024  # bytes; a metrics page of a large engine is below 1 MiB


class Unreachable(Exception):
    """No usable answer. The text says why in a few words, and never repeats what the worker sent."""


class TimedOut(Unreachable):
    """Connected, perhaps, but no complete answer in time."""

    prefix = "no answer within"


class Reply(NamedTuple):
    status: int
    body: bytes
    content_type: str


async def ask(session: aiohttp.ClientSession, method: str, url: str, *, timeout: float, json: Any = None) -> Reply:
    """Send one request on a connection of its own and read the answer, following no redirect.

    Raises Unreachable.
    """
    # A kept connection could be closed by the engine while the question is on its way, and would not show that the
    # engine still accepts connections.
    limits = aiohttp.ClientTimeout(total=timeout, sock_connect=min(CONNECT_TIMEOUT, timeout))
    close = {"Connection": "close"}
    try:
        async with session.request(
            method, url, json=json, timeout=limits, allow_redirects=False, headers=close
        ) as response:
            return Reply(response.status, await _read(response), response.content_type)
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
        unreachable = _unreachable(error, limits)
        _release(error)
    try:
        raise unreachable
    finally:
        del unreachable  # which holds this frame


def _unreachable(error: Exception, limits: aiohttp.ClientTimeout) -> Unreachable:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Unreachable(f"no connection within {limits.sock_connect:g} s")
    if isinstance(error, asyncio.TimeoutError):
        return TimedOut(f"{TimedOut.prefix} {limits.total:g} s")
    if isinstance(error, aiohttp.ClientConnectorError):
        return Unreachable(_why(error))
    return Unreachable(f"connection broke ({type(error).__name__})")


def _release(error: BaseException | None) -> None:
    """Let go of what the failed question had in hand.

    An error holds the frames it came through, and some of these hold the error: 10 KB that only the garbage collector
    could free, and it does not look at what is older than a moment (router/loop.py). A worker that is not there is
    asked every few seconds for as long as it is listed.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(65_536):
        body += chunk
        if len(body) > MAX_REPLY:
            raise Unreachable(f"answer longer than {MAX_REPLY} bytes")
    return bytes(body)


def _why(error: aiohttp.ClientConnectorError) -> str:
    cause = error.os_error
    if sockets.exhausted(cause):
        return NO_SOCKET
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "host name not known"
    return "connection refused" if isinstance(cause, ConnectionRefusedError) else f"cannot connect ({cause.strerror})"
