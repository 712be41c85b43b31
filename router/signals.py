"""The signals that end or renew a server, as a queue: handlers only enqueue, whoever reads acts."""

from __future__ import annotations

import asyncio
import os
import signal

ENDS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Takes SIGINT, SIGTERM and SIGHUP from now on. Needs a running event loop on the main thread.

    SIGHUP has two meanings. Sent by a person it asks for new workers; sent by the kernel it says that the terminal has
    been closed, and is passed on as SIGTERM. Where it is ignored from the start, as under nohup, it stays so.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._terminal = has_terminal()
        loop = asyncio.get_running_loop()
        for number in ENDS:
            loop.add_signal_handler(number, self._queue.put_nowait, number)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, self._hung_up)

    def renew(self) -> None:
        """Go before handlers that a library of C++ has put before these."""
        for number in (*ENDS, signal.SIGHUP):
            signal.signal(number, signal.getsignal(number))
            signal.siginterrupt(number, False)

    def _hung_up(self) -> None:
        closed = self._terminal and not has_terminal()
        self._queue.put_nowait(signal.SIGTERM if closed else signal.SIGHUP)

    async def next(self) -> signal.Signals:
        return await self._queue.get()

    async def end(self) -> signal.Signals:
        """The next signal that ends the program; others are dropped."""
        while (number := await self.next()) not in ENDS:
            pass
        return number


def has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
