"""Workers as tables for people."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from launcher import tables

WORKER = {
    "id": "w0",
    "url": "http://127.0.0.1:31000",
    "worker_type": "regular",
    "state": "ready",
    "healthy": True,
    "inflight": 3,
    "prefill_outstanding": 120,
    "devices": ["0", "1"],
    "pid": 4711,
    "restarts": 0,
    "models": ["any"],
    "speed": None,
    "kv_tokens": None,
    "last_error": "connection refused",
}


def drawn(columns: tables.Columns, *workers: dict[str, Any], width: int = tables.WIDE) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(tables.table(columns, workers))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_row_for_each_worker_and_no_column_that_is_empty():
    head, row = drawn(tables.WORKERS, WORKER)
    assert head.split("  ")[0] == "worker"
    assert "speed" not in head
    assert "KV tokens" not in head
    for cell in ("w0", "ready", "GPU 0,1", "120", "4711", "any"):
        assert cell in row


def test_types_are_told_where_there_are_halves():
    assert "type" not in drawn(tables.STATUS, WORKER)[0]
    head, row = drawn(tables.STATUS, {**WORKER, "worker_type": "prefill"})
    assert (head.split()[1], row.split()[1]) == ("type", "prefill")


def test_trouble_is_shown_of_workers_that_are_in_it():
    assert "connection refused" not in drawn(tables.STATUS, WORKER)[1]
    assert "connection refused" in drawn(tables.STATUS, {**WORKER, "healthy": False, "state": "unhealthy"})[1]


def test_where_a_worker_runs_and_why_it_does_not_is_shown():
    head, row = drawn(tables.STATUS, {**WORKER, "node": "gpu-2"})
    assert "node" in head
    assert "gpu-2" in row
    waiting = {**WORKER, "healthy": False, "state": "starting", "waiting": "needs 2 GPUs on one node"}
    assert "waiting: needs 2 GPUs on one node" in drawn(tables.STATUS, waiting)[1]


def test_what_a_worker_says_cannot_act_on_the_terminal():
    _, row = drawn(tables.WORKERS, {**WORKER, "last_error": "a\x1b[2Jb\nc[red]d"})
    assert "a [2Jb c[red]d" in row


def test_a_router_that_tells_less_or_a_state_that_is_not_known_is_shown_too():
    _, row = drawn(tables.WORKERS, {"id": "w0", "state": "dozing"})
    assert row.split() == ["w0", "dozing"]


def test_nothing_is_cut_where_there_is_no_terminal():
    _, row = drawn(tables.STATUS, {**WORKER, "healthy": False, "last_error": "x" * 500})
    assert "x" * 500 in row
