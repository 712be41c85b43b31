"""Runs `launch` or `router` with a window into its event loop: `python -m tests.chaos.observed SOCKET MODULE ARGS...`.

Whoever connects to the socket sends one line and is told, as JSON, how many tasks and objects there are. After the line
`settle` garbage has been collected and idle connections to workers have been closed, so that what is left is kept.
"""

from __future__ import annotations

import asyncio
import gc
import json
import runpy
import sys
from collections.abc import Coroutine
from typing import Any

import uvloop

from router.upstream import Pool


def observe(path: str) -> None:
    """Have every loop that is run from now on answer questions on the socket at `path`."""
    run = uvloop.run

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        word = (await reader.readline()).strip()
        if word == b"settle":
            settle()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        report = {"tasks": len(others), "names": sorted(describe(task) for task in others)}
        writer.write(json.dumps(report).encode())
        writer.close()

    async def both(main: Coroutine[Any, Any, int]) -> int:
        server = await asyncio.start_unix_server(answer, path)
        try:
            return await main
        finally:
            server.close()

    uvloop.run = lambda main: run(both(main))


def settle() -> None:
    gc.unfreeze()  # the program keeps what it made from its collector
    gc.collect()
    for each in gc.get_objects():
        if isinstance(each, Pool):
            each.close()


def describe(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", "?")


if __name__ == "__main__":
    _, path, module, *args = sys.argv
    observe(path)
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
