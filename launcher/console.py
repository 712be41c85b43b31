"""The live table of workers in a terminal, for as long as there is something to wait for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from rich.live import Live
from rich.table import Table
from rich.text import Text

from launcher import logs
from launcher.supervisor import Slot, Supervisor
from router.fleet import State

FRAME = 0.25  # seconds between two looks
SETTLED = (State.READY, State.FAILED, State.STOPPED)
STYLES = {
    State.READY: "green",
    State.STARTING: "yellow",
    State.BACKOFF: "yellow",
    State.DRAINING: "yellow",
    State.UNHEALTHY: "red",
    State.FAILED: "red",
    State.STOPPED: "dim",
}


def wanted() -> bool:
    """Whether somebody watches: otherwise the log's lines are enough."""
    return sys.stderr.isatty() and sys.stdout.isatty()


async def show(supervisor: Supervisor, clock: Callable[[], float]) -> None:
    """Draw the table while some worker is neither ready nor given up; runs until it is cancelled."""
    while True:
        if not _settled(supervisor):
            with Live(auto_refresh=False) as live:
                while not _settled(supervisor):
                    live.update(table(supervisor.slots, clock()), refresh=True)
                    await asyncio.sleep(FRAME)
                live.update(table(supervisor.slots, clock()), refresh=True)
        await asyncio.sleep(FRAME)


def _settled(supervisor: Supervisor) -> bool:
    return all(slot.life.state in SETTLED for slot in supervisor.slots)


def table(slots: list[Slot], now: float) -> Table:
    """Device, port, state, how long in it, and what the engine's log says now."""
    rows = Table("worker", "device", "port", "state", "for", "its log says", box=None, pad_edge=False)
    rows.columns[-1].no_wrap = True
    for slot in slots:
        state = slot.worker.state
        device = f"GPU {','.join(slot.spec.devices)}" if slot.spec.devices else "CPU"
        said = Text(logs.last_line(slot.log), "dim", overflow="ellipsis")
        shown = Text(state.value, STYLES[state])
        rows.add_row(slot.worker.id, device, str(slot.spec.port), shown, duration(now - slot.life.since), said)
    return rows


def duration(seconds: float) -> str:
    """For people: 12 s, 3 min, 2 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"
