"""Work that may block for ever, in a thread that nobody waits for when the process ends."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")


def unawaited(work: Callable[[], T]) -> asyncio.Future[T]:
    """What `work` returns or raises, once it has. asyncio's own threads are waited for, whatever hangs in them."""
    event_loop = asyncio.get_running_loop()
    found: asyncio.Future[T] = event_loop.create_future()

    def report(result: T | None, error: BaseException | None) -> None:
        if not found.done():
            found.set_exception(error) if error else found.set_result(cast(T, result))

    def run() -> None:
        try:
            outcome: tuple[T | None, BaseException | None] = work(), None
        except BaseException as error:
            outcome = None, error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            event_loop.call_soon_threadsafe(report, *outcome)

    threading.Thread(target=run, daemon=True).start()
    return found
