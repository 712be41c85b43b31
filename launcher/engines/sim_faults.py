"""What the simulated server can be told to do wrong, and the count of requests it has seen."""

from __future__ import annotations

import os
import signal
import socket
import struct
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from aiohttp import web


def _fault(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Faults:
    """Armed faults; the default is none. Raises ValueError for a value that cannot be used."""

    die_after: int = _fault(0, "Die at the n-th inference request from now; 0: never.")
    die_at: Literal["arrival", "first-token"] = _fault("arrival", "When in that request to die.")
    die_by: Literal["kill", "exit"] = _fault("kill", "Die by SIGKILL, or by exit status 1.")
    hang: Literal["none", "requests", "all"] = _fault("none", "Accept requests and never answer; all: /health too.")
    status: int = _fault(0, "Answer inference requests with this status; 0: as usual.")
    retry_after: int = _fault(0, "Seconds for a Retry-After header beside that status; 0: no header.")
    drop: bool = _fault(False, "Drop the connection before the first byte of the answer.")
    break_after: int = _fault(0, "Break streams after this many tokens; 0: never.")
    cut_by: Literal["close", "reset"] = _fault("close", "How connections are dropped and broken: FIN, or RST.")
    times: int = _fault(0, "How many requests hang, get the status, are dropped or broken; 0: all.")
    ignore_sigterm: bool = _fault(False, "Go on after SIGTERM.")

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(Faults).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal:
                if value not in get_args(hint):
                    raise ValueError(f"{name} must be one of {', '.join(get_args(hint))}")
            elif type(value) is not hint:
                raise ValueError(f"{name} must be {'a whole number' if hint is int else 'true or false'}")
            elif hint is int and value < 0:
                raise ValueError(f"{name} must be 0 or more")
        if self.status and not 200 <= self.status <= 599:
            raise ValueError("status must lie between 200 and 599, or be 0")

    @property
    def per_request(self) -> bool:
        """Whether something is armed that `times` counts."""
        return bool(self.hang == "requests" or self.status or self.drop or self.break_after)


class Desk:
    """Holds the armed faults and the counters. Written by the HTTP handlers of /fault and of inference paths."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.seen = 0  # inference requests
        self.answered = 0
        self.aborted = 0  # the client left before the end
        self.child: int | None = None  # pid of the spawned child
        self._until_death = self.faults.die_after
        self._left = self.faults.times

    def arm(self, changes: dict[str, Any]) -> None:
        """Change some faults; counts start anew. Raises ValueError for an unknown name or a bad value."""
        names = [each.name for each in fields(Faults)]
        unknown = sorted(set(changes) - set(names))
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is not known: faults are {', '.join(names)}")
        self.faults = replace(self.faults, **changes)
        self._until_death, self._left = self.faults.die_after, self.faults.times

    def disarm(self) -> None:
        self.faults = Faults()
        self._until_death = self._left = 0

    def arrival(self) -> tuple[Faults, str | None]:
        """An inference request is here: the faults that apply to it, and when to die of it (None: not at all)."""
        self.seen += 1
        faults = self.faults
        death = faults.die_at if self._until_death == 1 else None
        self._until_death = max(0, self._until_death - 1)
        if faults.times and faults.per_request:
            if not self._left:
                return replace(
                    faults, hang="all" if faults.hang == "all" else "none", status=0, drop=False, break_after=0
                ), death
            self._left -= 1
        return faults, death

    def report(self) -> dict[str, object]:
        armed = {each.name: getattr(self.faults, each.name) for each in fields(Faults)}
        counts = {"seen": self.seen, "answered": self.answered, "aborted": self.aborted}
        return {"armed": armed, "requests": counts, "pid": os.getpid(), "child": self.child}


def die(by: str) -> None:
    """End this process without a farewell."""
    if by == "exit":
        os._exit(1)
    os.kill(os.getpid(), signal.SIGKILL)


def cut(request: web.Request, by: str) -> None:
    """End the connection at once: what was written may still arrive, nothing else will."""
    transport = request.transport
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if by == "reset" and sock is not None:
        # SO_LINGER with a timeout of 0 makes close() send RST instead of FIN.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
