"""The data plane without sockets or time: a loop turned by hand, and transports that keep what is written to them.

So a test decides in which pieces bytes arrive, and what happens between two of them.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from router.config import RouterConfig
from router.exchange import Plane
from router.fleet import Fleet, State, Worker
from router.front import Gate
from router.metrics import Metrics
from router.upstream import Connection
from tests.router.world import InOrder, Recorder


class Handle:
    """A call to come."""

    def __init__(self, due: float, call: Callable[[], Any]):
        self.due, self.call = due, call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of an event loop as the data plane needs. Nothing runs but in turn() and wait()."""

    def __init__(self) -> None:
        self.now = 1000.0  # seconds
        self._soon: deque[Handle] = deque()
        self._later: list[Handle] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> Handle:
        self._soon.append(Handle(self.now, lambda: callback(*args)))
        return self._soon[-1]

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Handle:
        self._later.append(Handle(self.now + delay, lambda: callback(*args)))
        return self._later[-1]

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> Task:
        return Task(self, coroutine)

    def turn(self) -> None:
        """Run what is due now, and what that brings about."""
        while self._soon:
            handle = self._soon.popleft()
            if not handle.cancelled:
                handle.call()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while due := [handle for handle in self._later if handle.due <= end and not handle.cancelled]:
            first = min(due, key=lambda handle: handle.due)
            self._later.remove(first)
            self.now = max(self.now, first.due)
            first.call()
            self.turn()
        self.now = end
        self._later = [handle for handle in self._later if not handle.cancelled]


class Task:
    """A coroutine that waits for the loop's next turn, again and again."""

    def __init__(self, loop: Loop, coroutine: Coroutine[Any, Any, None]):
        self._loop, self._coroutine = loop, coroutine
        self._step()

    def _step(self) -> None:
        try:
            self._coroutine.send(None)
        except StopIteration:
            return
        self._next = self._loop.call_soon(self._step)

    def cancel(self) -> bool:
        self._next.cancel()
        self._coroutine.close()
        return True


class NextTurn:
    def __await__(self) -> Iterator[None]:
        yield


class Transport:
    """One connection's end in the router. The peer's end is arrive(), leave() and `written`."""

    def __init__(self, loop: Loop, protocol: Any):
        self.loop, self.protocol = loop, protocol
        self.written = bytearray()
        self.closing = self.lost = self.full = False
        self.reading = True
        self.room = sys.maxsize  # bytes that the peer will take before it reads no more
        self.unsent = 0  # bytes that were written and are not on their way
        self._waiting = bytearray()  # sent by the peer, not read
        protocol.connection_made(self)

    # -- for the router

    def write(self, data: bytes) -> None:
        assert not self.closing, "written to a closed transport"
        self.written += data
        if len(self.written) > self.room:
            self.fill()

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.loop.call_soon(self._lose, None)

    abort = close

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        if self._waiting:
            self.loop.call_soon(self._read)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str) -> Any:
        return self

    def setsockopt(self, *option: Any) -> None: ...

    # -- for the peer

    def arrive(self, data: bytes) -> None:
        """Bytes come in, in one piece."""
        self._waiting += data
        self._read()

    def _read(self) -> None:
        if self.reading and not self.closing and self._waiting:
            data = bytes(self._waiting)
            self._waiting.clear()
            self.protocol.data_received(data)

    def leave(self, error: Exception | None = None) -> None:
        """The peer closes, or resets when there is an error."""
        if not self.closing:
            if error is None:
                self.protocol.eof_received()
            self.closing = True
            self._lose(error)

    def fill(self) -> None:
        """The peer reads no more."""
        if not self.full and not self.closing:
            self.full = True
            self.protocol.pause_writing()

    def drain(self) -> None:
        """The peer has read everything, and goes on."""
        self.room = sys.maxsize
        if self.full and not self.lost:
            self.full = False
            self.protocol.resume_writing()

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self.protocol.connection_lost(error)


class Wire:
    """A data plane over workers that are nobody: tests write their answers."""

    def __init__(self, workers: int = 1, **settings: Any):
        self.loop = Loop()
        self.fleet = Fleet()
        self.metrics = Metrics()
        self.plane = Plane(
            RouterConfig(**settings),
            self.fleet,
            InOrder(),
            self.metrics,
            self.loop,
            random.Random(1),  # type: ignore[arg-type]
        )
        self.plane.clock = self.plane.pool.clock = self.loop.time
        self.plane.connect = self._connect
        self.gate = Gate(self.plane)
        self.gate.elsewhere = self._elsewhere
        self.upstreams: list[Transport] = []  # connections to workers, in the order in which they were made
        self.clients: list[Transport] = []
        self.handed_over: list[Elsewhere] = []
        self.refuse: str | None = None  # connections to workers fail: "before" they are made, or at once "after"
        for _ in range(workers):
            url = f"http://127.0.0.1:{len(self.fleet.workers) + 1}"
            self.fleet.add(Worker(self.fleet.next_id(), url, lifecycle=State.READY, native_generate=True))

    async def _connect(self, worker: Worker) -> Connection:
        await NextTurn()
        if self.refuse == "before":
            raise ConnectionRefusedError
        connection = Connection(worker, self.plane.pool)
        self.upstreams.append(Transport(self.loop, connection))
        if self.refuse == "after":
            self.upstreams[-1].leave()
        return connection

    def _elsewhere(self) -> Elsewhere:
        self.handed_over.append(Elsewhere())
        return self.handed_over[-1]

    def client(self) -> Transport:
        self.clients.append(Transport(self.loop, self.gate()))
        return self.clients[-1]

    def close(self) -> None:
        """Everybody leaves; nothing may be left behind."""
        for transport in self.clients:
            transport.leave()
        self.loop.turn()
        assert self.metrics.inflight == 0
        for worker in self.fleet.workers.values():
            assert (worker.inflight, worker.prefills, worker.trial) == (0, 0, None)
            assert (worker.prefill_outstanding, worker.context) == (0, 0)
        assert not getattr(self.plane.policy, "under_way", None)
        assert not self.plane.waiting
        assert not self.gate.fronts
        assert self.plane.retrying == 0
        assert self.plane.admission.taken == len(self.plane.admission) == 0


class Elsewhere(Recorder):
    """Stands where aiohttp would."""

    def eof_received(self) -> None: ...
