"""Runs the simulated engine against the wall clock, and tells each waiting HTTP handler what it has got."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

from launcher.engines.sim_engine import Engine, Event, Request
from launcher.engines.sim_shapes import Choice
from launcher.engines.sim_text import block_keys

# Steps run in one go when time does not matter, before others get their turn. Chosen so that a short answer is
# computed at once, and a long one does not hold up the loop for more than a few milliseconds.
_STEPS_AT_ONCE = 32
# Seconds; the loop's timers are no finer.
_SHORTEST_SLEEP = 0.001


class Exchange:
    """The choices of one HTTP request on their way; `changed` is set whenever one has moved on."""

    __slots__ = ("began", "changed", "choices", "ids", "rid")

    def __init__(self, choices: Sequence[Choice], rid: str):
        self.choices = choices
        self.rid = rid  # the client's name for it, by which it can be aborted
        self.ids: list[str] = []  # the engine's
        self.began = time.monotonic()
        self.changed = asyncio.Event()

    @property
    def finished(self) -> bool:
        return all(choice.finished for choice in self.choices)

    async def moved(self) -> None:
        """Wait for the next token, end or abort."""
        await self.changed.wait()
        self.changed.clear()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.moved()


class Driver:
    """Sole caller of the engine. `time_scale` is wall seconds per virtual second; 0 never sleeps."""

    def __init__(self, engine: Engine, time_scale: float):
        self.engine = engine
        self._scale = time_scale
        self._origin = time.monotonic()
        self._now = 0.0  # virtual seconds
        self._serial = itertools.count()
        self._targets: dict[str, tuple[Exchange, Choice]] = {}  # by the engine's id
        self._exchanges: dict[Exchange, None] = {}
        self._work = asyncio.Event()

    async def run(self) -> None:
        """Advance the engine for ever."""
        while True:
            due = self.engine.next_event_time()
            if due is None:
                self._work.clear()
                await self._work.wait()
            elif self._scale:
                await asyncio.sleep(max(due * self._scale - (time.monotonic() - self._origin), _SHORTEST_SLEEP))
                self._catch_up()
            else:
                self._hurry()
                await asyncio.sleep(0)

    def start(self, choices: Sequence[Choice], rid: str) -> Exchange:
        """Queue the choices, each of which must fit into the KV cache. Whoever starts an exchange drops it."""
        exchange = Exchange(choices, rid)
        self._exchanges[exchange] = None
        self._catch_up()
        for choice in choices:
            self._add(exchange, choice)
        self._work.set()
        return exchange

    def drop(self, exchange: Exchange) -> None:
        """The HTTP request is over: whatever of it still runs is cancelled."""
        self._exchanges.pop(exchange, None)
        for id in exchange.ids:
            if self._targets.pop(id, None):
                self.engine.cancel(id)

    def abort(self, rid: str | None) -> None:
        """End the exchanges of that name, or all (None), as aborted."""
        found = [exchange for exchange in self._exchanges if rid is None or exchange.rid == rid]
        for exchange in found:
            for choice in exchange.choices:
                choice.aborted = choice.aborted or not choice.finished
                choice.finished = True
            self.drop(exchange)
            exchange.changed.set()

    def _add(self, exchange: Exchange, choice: Choice) -> None:
        id = str(next(self._serial))
        text = choice.prompt + choice.text.encode()
        keys = block_keys(text, self.engine.config.block_size)
        self.engine.add(Request(id, choice.prompt_tokens, choice.tokens, keys), self._now)
        self._targets[id] = exchange, choice
        exchange.ids.append(id)

    def _catch_up(self) -> None:
        """Bring the engine up to the wall clock's time. Without a scale, time stands still between events."""
        if self._scale:
            self._now = max(self._now, (time.monotonic() - self._origin) / self._scale)
            self._deliver(self.engine.advance(self._now))

    def _hurry(self) -> None:
        for _ in range(_STEPS_AT_ONCE):
            due = self.engine.next_event_time()
            if due is None:
                return
            self._now = due
            self._deliver(self.engine.advance(due))

    def _deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            target = self._targets.get(event.id)
            if target is None:
                continue
            exchange, choice = target
            choice.generated, choice.cached = event.generated, event.cached
            if event.kind == "finished":
                choice.finished = True
                choice.seconds = time.monotonic() - exchange.began
                del self._targets[event.id]
            exchange.changed.set()
