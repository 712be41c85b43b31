"""The live table of workers in a terminal, for as long as there is something to wait for, and what to do then."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence

from rich.live import Live
from rich.table import Table
from rich.text import Text

from launcher import logs, preview, progress
from launcher.client import DEFAULT_URL, KEY_VARIABLE
from launcher.supervisor import Slot, Supervisor
from router.cli import example, own_url
from router.config import RouterConfig
from router.fleet import State

FRAME = 0.25  # seconds between two looks
SETTLED = (State.READY, State.FAILED, State.STOPPED)
ENDED = (State.BACKOFF, State.FAILED)
STYLES = {
    State.READY: "green",
    State.STARTING: "yellow",
    State.BACKOFF: "yellow",
    State.DRAINING: "yellow",
    State.UNHEALTHY: "red",
    State.FAILED: "red",
    State.STOPPED: "dim",
}


def wanted(log_format: str) -> bool:
    """Whether somebody watches: otherwise the log's lines are enough."""
    return log_format == "text" and sys.stderr.isatty() and sys.stdout.isatty()


async def settled(supervisor: Supervisor, clock: Callable[[], float]) -> str:
    """Wait until every worker is ready or given up, one at least ready; returns how many are, and after what time."""
    began = clock()
    while not (_settled(supervisor) and _ready(supervisor.slots)):  # noqa: ASYNC110 - nobody tells of all states
        await asyncio.sleep(FRAME)
    return summary(supervisor.slots, clock() - began)


async def show(supervisor: Supervisor, clock: Callable[[], float], ready: Callable[[str], None]) -> None:
    """Draw the table while some worker is neither ready nor given up; runs until it is cancelled.

    `ready` gets the summary when that was so for the first time.
    """
    began, told = clock(), False
    while True:
        if not _settled(supervisor):
            await _draw(supervisor, clock)
        if not told and _ready(supervisor.slots):
            ready(summary(supervisor.slots, clock() - began))
            told = True
        await asyncio.sleep(FRAME)


async def _draw(supervisor: Supervisor, clock: Callable[[], float]) -> None:
    with Live(auto_refresh=False) as live:
        try:
            while not _settled(supervisor):
                live.update(table(supervisor.slots, clock()), refresh=True)
                await asyncio.sleep(FRAME)
        finally:  # what stays on the screen is how it ended
            live.update(table(supervisor.slots, clock()), refresh=True)


def _settled(supervisor: Supervisor) -> bool:
    return all(slot.life.state in SETTLED for slot in supervisor.slots)


def _ready(slots: Sequence[Slot]) -> int:
    return sum(slot.life.state is State.READY for slot in slots)


def summary(slots: Sequence[Slot], seconds: float) -> str:
    """2 of 2 workers ready after 4 s."""
    return f"{_ready(slots)} of {len(slots)} workers ready after {duration(seconds)}"


def table(slots: Sequence[Slot], now: float) -> Table:
    """Device, port, state, how long in it, how far it is, and what the engine's log says now."""
    rows = Table("worker", "device", "port", "state", "for", "progress", "its log says", box=None, pad_edge=False)
    for column in rows.columns[:-1]:  # the last one gives way when the terminal is narrow
        column.no_wrap = True
    for slot in slots:
        state = slot.worker.state
        device = preview.device(slot.spec)
        lines = logs.tail(slot.log, progress.READ)
        said = Text(lines[-1] if lines else "", "dim", overflow="ellipsis", no_wrap=True)
        rows.add_row(
            slot.worker.id,
            device,
            str(slot.spec.port) if slot.spec.placed else "",
            Text(state.value, STYLES[state]),
            duration(now - slot.life.since),
            Text(_progress(slot, lines)),
            said,
        )
    return rows


def _progress(slot: Slot, lines: Sequence[str]) -> str:
    if slot.worker.waiting:
        return slot.worker.waiting
    if slot.life.state in ENDED:
        return slot.life.reason
    return progress.progress(lines) if slot.life.state is State.STARTING else ""


def next_steps(summary: str, config: RouterConfig, port: int) -> str:
    """The screen when it serves: how to ask, watch, change and stop it."""
    url = own_url(config, port)
    named = "" if url == DEFAULT_URL else f" --url {url}"
    key = f"  with {KEY_VARIABLE} set" if config.admin_api_key else ""
    lines = [
        f"{summary}.",
        f"  Ask        {example(config, port)}",
        f"  Watch      launch status{named}  or  launch logs w0 -f{named}  or  {url}/{key}",
        f"  Change     launch restart w0{named}  or drain, undrain, add, remove: launch --help",
        "  Stop       Ctrl-C lets requests finish first; twice stops at once",
    ]
    return "\n".join(lines) + "\n"


def duration(seconds: float) -> str:
    """For people: 12 s, 3 min, 2 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"
