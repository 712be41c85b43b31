"""Workers as tables for people: which columns, and what stands in them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.console import STYLES
from launcher.doctor import Finding, Mark
from router.fleet import State

WIDE = 10_000  # columns where no terminal sets the width: nothing is cut for a file or a pipe

MARKS = {Mark.OK: "green", Mark.NOTE: "yellow", Mark.BAD: "red"}

Worker = dict[str, Any]  # as GET /workers shows it
Columns = Sequence[tuple[str, Callable[[Worker], object]]]


def _device(worker: Worker) -> str:
    return f"GPU {','.join(map(str, worker['devices']))}" if worker.get("devices") else "-"


def _type(worker: Worker) -> object:
    """Only where there are others than whole ones."""
    return None if worker.get("worker_type") == "regular" else worker.get("worker_type")


def _trouble(worker: Worker) -> object:
    if worker.get("healthy"):
        return None
    return f"waiting: {worker['waiting']}" if worker.get("waiting") else worker.get("last_error")


STATUS: Columns = (
    ("worker", lambda worker: worker.get("id")),
    ("type", _type),
    ("state", lambda worker: worker.get("state")),
    ("node", lambda worker: worker.get("node")),
    ("device", _device),
    ("in flight", lambda worker: worker.get("inflight")),
    ("restarts", lambda worker: worker.get("restarts")),
    ("url", lambda worker: worker.get("url")),
    ("trouble", _trouble),
)
WORKERS: Columns = (
    *STATUS[:5],
    ("prefill tokens", lambda worker: worker.get("prefill_outstanding")),
    ("restarts", lambda worker: worker.get("restarts")),
    ("pid", lambda worker: worker.get("pid")),
    ("KV tokens", lambda worker: worker.get("kv_tokens")),
    ("speed", lambda worker: worker.get("speed")),
    ("url", lambda worker: worker.get("url")),
    ("models", lambda worker: ", ".join(map(str, worker.get("models") or ()))),
    ("waiting", lambda worker: worker.get("waiting")),
    ("last error", lambda worker: worker.get("last_error")),
)


def table(columns: Columns, workers: Sequence[Worker]) -> Table:
    """A row for each worker; columns in which none has anything are left out."""
    drawn = Table(box=None, pad_edge=False)
    cells = [[_text(value(worker)) for _, value in columns] for worker in workers]
    kept = [n for n in range(len(columns)) if any(row[n].plain != "-" for row in cells)]
    for n in kept:
        drawn.add_column(columns[n][0], overflow="fold")
    for row in cells:
        drawn.add_row(*(row[n] for n in kept))
    return drawn


def _text(value: object) -> Text:
    """A cell, without what could act on the terminal: a worker's words are anybody's."""
    plain = "".join(c if c.isprintable() else " " for c in str(value)) if value not in (None, "") else "-"
    return Text(plain, STYLES.get(State(plain), "") if plain in set(State) else "")


def findings(found: Sequence[Finding]) -> Table:
    """What the doctor says, one row each; rows of one topic name it once."""
    drawn = Table(box=None, pad_edge=False, show_header=False)
    before = ""
    for finding in found:
        drawn.add_row(
            Text(finding.mark.value, MARKS[finding.mark]),
            finding.topic if finding.topic != before else "",
            Text(finding.says),
        )
        before = finding.topic
    return drawn


def show(drawn: Table) -> None:
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDE).print(drawn)
