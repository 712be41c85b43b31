"""Clients that ask without end and keep a ledger: what each request was, when its bytes came, and how it ended."""

from __future__ import annotations

import asyncio
import enum
import json
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

PROMPTS = 200  # different ones: the prefix index, which may grow, is full of them after the warm-up


class End(enum.Enum):
    GOOD = "good"  # the whole answer that was asked for
    TOLD = "told"  # an error, as a whole answer with its status
    BROKEN = "broken"  # it had begun, and the connection was cut; a stream: after one error event, without [DONE]
    LOST = "lost"  # no byte of an answer, and the connection closed
    WRONG = "wrong"  # anything else: half an answer that looks whole, two errors, a torn event


@dataclass
class Shot:
    """One request and what came of it. Times are monotonic seconds."""

    stream: bool
    script: dict[str, Any]
    began: float
    first: float = 0.0  # first byte of the answer; 0: none came
    ended: float = 0.0  # 0: under way
    status: int = 0
    retry_after: bool = False
    worker: str = ""
    id: str = ""
    end: End | None = None
    body: bytes = b""  # of one that did not end well

    @property
    def took(self) -> float:
        return self.ended - self.began


class Caller(asyncio.Protocol):
    """One connection of a client: asks, and reads one answer at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._raw = bytearray()
        self._done: asyncio.Future[None] | None = None
        self._whole: Callable[[bytearray], bool] | None = None
        self.first = self.body_at = 0.0
        self.open = True

    @classmethod
    async def connect(cls, url: str) -> Caller:
        address = urlsplit(url)
        _, caller = await asyncio.get_running_loop().create_connection(cls, address.hostname, address.port)
        return caller

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def send(self, body: bytes, path: str = "/generate") -> None:
        self._transport.write(
            b"POST %b HTTP/1.1\r\nhost: r\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (path.encode(), len(body), body)
        )

    async def answer(self) -> tuple[bytes, bytes, bool]:
        """Head, body as framed, and whether it is complete."""
        self._raw.clear()
        self._whole, self.first = None, 0.0
        self._done = asyncio.get_running_loop().create_future()
        if not self.open:
            self._done.set_result(None)
        await self._done
        head, _, body = bytes(self._raw).partition(b"\r\n\r\n")
        return head, body, self._whole is not None and self._whole(self._raw)

    def data_received(self, data: bytes) -> None:
        if not self.first:
            self.first = time.monotonic()
        self._raw += data
        if self._whole is None and b"\r\n\r\n" in self._raw:
            self._whole = framing(self._raw)
        if self._whole is not None and self._whole(self._raw) and self._done and not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self._done and not self._done.done():
            self._done.set_result(None)

    def close(self) -> None:
        self._transport.abort()


def framing(raw: bytearray) -> Callable[[bytearray], bool]:
    """How to see that the answer is complete."""
    start = raw.index(b"\r\n\r\n") + 4
    head = bytes(raw[:start]).lower()
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        length = start + int(head[at + 17 : head.index(b"\r\n", at + 2)])
        return lambda raw: len(raw) >= length
    return lambda raw: raw.endswith(b"\r\n0\r\n\r\n")


def unchunked(data: bytes) -> bytes:
    """A chunked body's content, or as much of it as is there."""
    out = b""
    while (line := data.find(b"\r\n")) >= 0:
        size = int(data[:line] or b"0", 16)
        out += data[line + 2 : line + 2 + size]
        data = data[line + 2 + size + 2 :]
    return out


def judge(shot: Shot, head: bytes, body: bytes, complete: bool) -> End:
    """How an answer ended."""
    if not head:
        return End.LOST
    if shot.status != 200:
        return End.TOLD if complete else End.WRONG
    if not shot.stream:
        return (End.GOOD if b'"usage"' in body else End.WRONG) if complete else End.BROKEN
    events = [event for event in unchunked(body).split(b"\n\n") if event]
    if complete:
        told = shot.script.get("tokens", 3)
        return End.GOOD if len(events) == told + 1 and events[-1] == b"data: [DONE]" else End.WRONG
    errors = [b'"error"' in event for event in events]
    whole = all(_is_json(event) for event in events)
    return End.BROKEN if whole and errors.count(True) == 1 and errors[-1] else End.WRONG


def _is_json(event: bytes) -> bool:
    try:
        json.loads(event.removeprefix(b"data: "))
    except ValueError:
        return False
    return True


async def shoot(url: str, script: dict[str, Any], stream: bool = False, caller: Caller | None = None) -> Shot:
    """One request, on a connection of its own unless one is given."""
    own = caller is None
    shot = Shot(stream, script, time.monotonic())
    try:
        caller = caller or await Caller.connect(url)
    except OSError:
        shot.ended, shot.end = time.monotonic(), End.LOST
        return shot
    try:
        await ask(caller, shot)
    finally:
        if own:
            caller.close()
    return shot


@dataclass(frozen=True)
class Ask:
    """A request that is drawn; `leaves`: the client is gone after so many seconds."""

    script: dict[str, Any]
    stream: bool = False
    leaves: float | None = None


def body_of(shot: Shot) -> bytes:
    text = f"what is {random.randrange(PROMPTS)}? " * 4
    return json.dumps({"text": text, "stream": shot.stream, "chaos": shot.script}).encode()


async def ask(caller: Caller, shot: Shot) -> None:
    caller.send(body_of(shot))
    head, body, complete = await caller.answer()
    shot.ended, shot.first = time.monotonic(), caller.first
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    shot.status = int(lines[0].split(" ")[1]) if head else 0
    shot.retry_after, shot.worker = "retry-after" in headers, headers.get("x-worker-id", "")
    shot.id = headers.get("x-request-id", "")
    shot.end = judge(shot, head, body, complete)
    if shot.end is not End.GOOD:
        shot.body = body[-600:]


class Load:
    """Many clients at once; `shots` is the ledger. Each asks again as soon as it has been answered."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.shots: list[Shot] = []
        self.under_way = 0
        self.left = 0  # requests whose client did not wait
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._loose: set[asyncio.Task[None]] = set()

    def clients(self, count: int, script: dict[str, Any], stream: bool = False, rest: float = 0.0) -> Load:
        """So many clients more, each with one request after another and `rest` seconds in between."""
        for number in range(count):
            self._tasks.append(asyncio.create_task(self._client(script, stream, rest, number / count)))
        return self

    def mixed(self, count: int, choose: Callable[[], Ask]) -> Load:
        """So many clients, each request of which is drawn."""
        self._tasks += [asyncio.create_task(self._drawn(choose)) for _ in range(count)]
        return self

    def steady(self, rate: float, script: dict[str, Any], stream: bool = False) -> Load:
        """So many new requests a second, whatever becomes of those before."""
        self._tasks.append(asyncio.create_task(self._stream_of_arrivals(rate, script, stream)))
        return self

    async def _client(self, script: dict[str, Any], stream: bool, rest: float, phase: float) -> None:
        await asyncio.sleep(phase * (script.get("wait", 0.0) + script.get("tokens", 0) * script.get("pause", 0.0)))
        caller: Caller | None = None
        while not self._over.is_set():
            if caller is None or not caller.open:
                try:
                    caller = await Caller.connect(self.url)
                except OSError:
                    await asyncio.sleep(0.05)
                    continue
            await self._one(caller, script, stream)
            if rest:
                await asyncio.sleep(rest)
        if caller is not None:
            caller.close()

    async def _drawn(self, choose: Callable[[], Ask]) -> None:
        caller: Caller | None = None
        while not self._over.is_set():
            if caller is None or not caller.open:
                caller = await Caller.connect(self.url)
            drawn = choose()
            if drawn.leaves is None:
                await self._one(caller, drawn.script, drawn.stream)
            else:
                caller.send(body_of(Shot(drawn.stream, drawn.script, 0.0)))
                await asyncio.sleep(drawn.leaves)
                caller.close()
                caller = None
                self.left += 1
        if caller is not None:
            caller.close()

    async def _stream_of_arrivals(self, rate: float, script: dict[str, Any], stream: bool) -> None:
        began, count = time.monotonic(), 0
        while not self._over.is_set():
            due = int((time.monotonic() - began) * rate)
            for _ in range(due - count):
                task = asyncio.create_task(self._arrival(script, stream))
                self._loose.add(task)
                task.add_done_callback(self._loose.discard)
            count = due
            await asyncio.sleep(0.005)

    async def _arrival(self, script: dict[str, Any], stream: bool) -> None:
        caller = await Caller.connect(self.url)
        await self._one(caller, script, stream)
        caller.close()

    async def _one(self, caller: Caller, script: dict[str, Any], stream: bool) -> None:
        shot = Shot(stream, script, time.monotonic())
        self.under_way += 1
        await ask(caller, shot)
        self.under_way -= 1
        self.shots.append(shot)

    # -- what the case does with it

    async def more(self, count: int) -> None:
        """Wait until so many further requests have been answered well."""
        goal = self.count(End.GOOD) + count
        while self.count(End.GOOD) < goal:
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Ask no more, and wait for what is under way."""
        self._over.set()
        await asyncio.gather(*self._tasks)
        while self._loose:
            await asyncio.sleep(0.02)

    def stop_now(self) -> None:
        """The server is gone: wait for nothing."""
        self._over.set()
        for task in (*self._tasks, *self._loose):
            task.cancel()
        self._tasks.clear()

    # -- the ledger

    def count(self, *ends: End) -> int:
        return sum(shot.end in ends for shot in self.shots)

    def some(self, *ends: End, since: float = 0.0) -> list[Shot]:
        return [shot for shot in self.shots if shot.end in ends and shot.ended >= since]

    def bad(self) -> list[Shot]:
        """Those that nothing excuses: without an answer, or with one that is wrong."""
        return self.some(End.LOST, End.WRONG)

    def unserved(self) -> list[Shot]:
        """Those that had no byte yet and were not served in the end."""
        return self.some(End.TOLD, End.LOST)


def spread(shots: Iterable[Shot]) -> str:
    """The kinds of endings and how often each, for people."""
    counts: dict[str, int] = {}
    for shot in shots:
        kind = f"{shot.status} {shot.end.value if shot.end else 'open'}"
        counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(f"{n} x {kind}" for kind, n in sorted(counts.items()))
