"""Starts the real commands as a user would, reads what they print, and asks their HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil


class Command:
    """`launch ...` or `router ...` under way. `lines` is all that it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process):
        self.process = process
        self.lines: list[str] = []
        self.url = ""
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, program: str, *args: str, files: int = 0, through: tuple[str, ...] = (), **environ: str
    ) -> Command:
        """Start it on a free port; returns once it listens, or has ended.

        `files`: how many it may open, if not 0. `through`: a module that runs it, and that module's own arguments.
        """
        module = {"launch": "launcher", "router": "router"}[program]
        limited = ("sh", "-c", f'ulimit -n {files}; exec "$@"', "sh") if files else ()
        command = cls(
            await asyncio.create_subprocess_exec(
                *(*limited, sys.executable, "-m", *through, module, *args),
                env={**os.environ, **environ},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        )
        await command.until(lambda: command.url != "" or command._reader.done())
        return command

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := (await self.process.stdout.readline()).decode():
            self.lines.append(line.rstrip("\n"))
            if not self.url and (found := re.search(r"Dashboard +(https?://\S+?)/", line)):
                self.url = found[1]

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await asyncio.sleep(0.01)

    async def said(self, text: str) -> None:
        """Wait until it has printed this."""
        await self.until(lambda: any(text in line for line in self.lines))

    async def end(self) -> int:
        """Wait for its end; returns the exit code."""
        await self._reader
        return await self.process.wait()

    async def stop(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            await self.process.wait()
        await self._reader

    # -- HTTP

    async def ask(self, method: str, path: str, **kwargs: Any) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.request(method, self.url + path, **kwargs) as answer:
            return answer.status, await answer.text()

    async def workers(self) -> list[dict[str, Any]]:
        return json.loads((await self.ask("GET", "/workers"))[1])["workers"]

    async def ready(self, count: int) -> list[dict[str, Any]]:
        """Wait until this many workers are ready."""
        while True:
            workers = await self.workers()
            if [w["state"] for w in workers].count("ready") == count:
                return workers
            await asyncio.sleep(0.02)

    def family(self) -> list[psutil.Process]:
        """The launcher's descendants."""
        return psutil.Process(self.process.pid).children(recursive=True)


async def gone(processes: list[psutil.Process]) -> None:
    """Wait until none of them runs."""
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
        await asyncio.sleep(0.02)


class Load:
    """Clients that ask and ask again, half of them for streams, and remember every answer that was not good."""

    def __init__(self, url: str, clients: int = 8):
        self.good = 0
        self.bad: list[str] = []
        self.broken = 0  # streams that ended with an error event and without [DONE]
        self._url = url
        self._over = False
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(clients)]

    async def _client(self, number: int) -> None:
        async with aiohttp.ClientSession() as session:
            while not self._over:
                await self._one(session, number)

    async def _one(self, session: aiohttp.ClientSession, number: int) -> None:
        stream = number % 2 == 0
        prompt = {"text": f"client {number} {self.good} says " * 8, "stream": stream}
        body = b""
        try:
            async with session.post(
                self._url + "/generate", json={**prompt, "sampling_params": {"max_new_tokens": 8}}
            ) as answer:
                async for data in answer.content.iter_any():
                    body += data
            fine = answer.status == 200 and (b"[DONE]" in body if stream else b"meta_info" in body)
        except aiohttp.ClientError as error:
            if stream and b'"upstream_error"' in body and b"[DONE]" not in body:
                self.broken += 1
                return
            self.bad.append(repr(error))
            return
        if fine:
            self.good += 1
        else:
            self.bad.append(f"{answer.status} {body[:200]!r}")

    async def more(self, count: int) -> None:
        """Wait until this many further requests were answered well."""
        goal = self.good + count
        while self.good < goal and not self.bad:
            await asyncio.sleep(0.01)

    async def end(self) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)


def state_folder(tmp_path: Path) -> dict[str, str]:
    """An environment that keeps logs inside the test's folder."""
    return {"XDG_STATE_HOME": str(tmp_path)}
