"""A stand-in for SGLang's prefill and decode workers: behaviours of two fault workers that meet as the engines do.

They meet by (bootstrap_host, bootstrap_port, bootstrap_room) of the requests that they get, once for each prompt. A
prefill worker is told where it listens, and refuses what names another place. A decode worker takes what it is told:
where it names a place or room that no prefill worker serves it waits for ever, as an engine's would until its own
timeout. A request without the fields, a room that was used before, or two requests that differ are refused.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.e2e.fault_worker import (
    CHUNKED,
    JSON,
    LAST_CHUNK,
    SSE,
    Connection,
    FaultWorker,
    Request,
    Status,
    chunk,
    counted,
    head,
)

Key = tuple[str, int | None, int]
FIELDS = ("bootstrap_host", "bootstrap_port", "bootstrap_room")


class Refused(Exception):
    """What is wrong with a request."""


@dataclass
class Room:
    """Where one prompt's cache is handed over."""

    bodies: dict[str, Any] = field(default_factory=dict)  # by role: the request
    met: asyncio.Event = field(default_factory=asyncio.Event)
    computed: asyncio.Event = field(default_factory=asyncio.Event)


class Rooms:
    """All rooms of all pairs."""

    def __init__(self) -> None:
        self.rooms: dict[Key, Room] = {}

    def enter(self, role: str, key: Key, body: Any) -> Room:
        room = self.rooms.setdefault(key, Room())
        if role in room.bodies:
            raise Refused(f"the room {key[2]} is taken")
        room.bodies[role] = body
        if len(room.bodies) == 2:
            if room.bodies["prefill"] != room.bodies["decode"]:
                raise Refused("the pair was asked for different things")
            room.met.set()
        return room


def prompts(body: dict[str, Any]) -> list[Any] | None:
    """The prompts of a request for several; None where it is for one."""
    if (body.get("n") or 1) > 1 and "messages" in body:
        return [body["messages"]] * body["n"]
    for name in ("text", "input_ids", "prompt"):
        value = body.get(name)
        if isinstance(value, list) and value and isinstance(value[0], (str, list)):
            return value
    return None


def places(body: dict[str, Any]) -> list[Key]:
    """Where each prompt's cache is handed over. Raises Refused when the fields are not there, or not as many."""
    if missing := [name for name in FIELDS if name not in body]:
        raise Refused(f"{', '.join(missing)} missing")
    several, values = prompts(body), [body[name] for name in FIELDS]
    if several is None:
        values = [[value] for value in values]
    elif not all(isinstance(value, list) and len(value) == len(several) for value in values):
        raise Refused("the fields must be lists as long as that of the prompts")
    keys = list(zip(*values, strict=True))
    for host, port, room in keys:
        if not isinstance(host, str) or not (port is None or isinstance(port, int)):
            raise Refused(f"no place: {host}:{port}")
        if not isinstance(room, int) or not 0 <= room < 2**63:
            raise Refused(f"no room: {room}")
    return keys


@dataclass(frozen=True)
class Half:
    """One worker of a pair: takes requests, meets the other, answers. `port`: where a prefill worker listens.

    `breaks`: the connection ends after the first event of a stream. `holds`: the prefill worker's answer ends when this
    is set, though its cache is handed over. `pauses`: a stream goes on after its first event when this is set.
    """

    rooms: Rooms
    role: Literal["prefill", "decode"]
    port: int | None = None
    breaks: bool = False
    holds: asyncio.Event | None = None
    pauses: asyncio.Event | None = None

    async def answer(self, connection: Connection, request: Request) -> None:
        try:
            body = json.loads(request.body)
            entered = [self.rooms.enter(self.role, key, body) for key in self.checked(body, connection)]
        except Refused as refusal:
            await Status(400, JSON, json.dumps({"error": str(refusal)}).encode()).answer(connection, request)
            return
        if self.role == "prefill":
            for room in entered:
                await room.met.wait()
                room.computed.set()
        for room in entered:
            await room.computed.wait()
        if self.holds is not None:
            await self.holds.wait()
        await self._say(connection, request, body)

    def checked(self, body: Any, connection: Connection) -> list[Key]:
        keys = places(body)
        for host, port, _ in keys:
            if self.role == "prefill" and (host, port) != (connection.worker.host, self.port):
                raise Refused(f"this is {connection.worker.host}:{self.port}, not {host}:{port}")
        return keys

    async def _say(self, connection: Connection, request: Request, body: dict[str, Any]) -> None:
        several = prompts(body)
        if not body.get("stream"):
            told: Any = [self._told(body)] * len(several) if several and "text" in body else self._told(body)
            await connection.write(counted(200, JSON, json.dumps(told).encode()))
            return
        count = 1 if self.role == "prefill" else 3
        events = [b"data: %b\n\n" % json.dumps(self._told(body, number)).encode() for number in range(count)]
        if self.breaks:
            await connection.write(head(200, SSE | CHUNKED) + chunk(events[0]))
            connection.end()
            return
        await connection.write(head(200, SSE | CHUNKED) + chunk(events[0]))
        if self.pauses is not None:
            await self.pauses.wait()
        for event in (*events[1:], b"data: [DONE]\n\n"):
            await connection.write(chunk(event))
        await connection.write(LAST_CHUNK)

    def _told(self, body: dict[str, Any], number: int = 0) -> dict[str, Any]:
        """An answer in the shapes of /generate and of OpenAI's at once."""
        text = f"{self.role} {number}"
        usage = {"prompt_tokens": 4, "completion_tokens": 1 + number, "cached_tokens": 2}
        choice = {"index": 0, "text": text, "message": {"content": text}, "delta": {"content": text}}
        meta: dict[str, Any] = dict(usage)
        if body.get("return_logprob"):
            meta["input_token_logprobs"] = [[-1.5, 7, None]] if self.role == "prefill" else []
            meta["output_token_logprobs"] = [[-0.25, 9, None]]
        return {"text": text, "meta_info": meta, "choices": [choice]}


@dataclass
class Pairs:
    """Prefill and decode workers that serve together."""

    rooms: Rooms
    prefills: list[FaultWorker]
    decodes: list[FaultWorker]

    @classmethod
    async def start(cls, prefills: int = 1, decodes: int = 1, port: int | None = 9000) -> Pairs:
        """`port`: what all of the prefill workers listen on; it need not be there."""
        rooms = Rooms()
        made = [await FaultWorker.start() for _ in range(prefills + decodes)]
        for number, worker in enumerate(made):
            prefill = number < prefills
            worker.default = Half(rooms, "prefill", port) if prefill else Half(rooms, "decode")
            worker.gets["/health_generate"] = Status(200)
        return cls(rooms, made[:prefills], made[prefills:])

    async def stop(self) -> None:
        for worker in (*self.prefills, *self.decodes):
            await worker.stop()
