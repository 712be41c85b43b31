"""A worker without a model that does with each request what the request says: a real process, to be killed and stopped.

The `chaos` object of a request's body is its script (see Script): how long the prefill takes, how many tokens follow,
what goes wrong. `POST /mood` changes the worker itself: {"status": 503} makes it answer every request so, {"cut":
"reset"} makes it answer none but end their connections, and {"stuck": true} makes it take requests and answer none,
though /health says 200. `GET /seen` counts the requests that arrived.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from tests.e2e.fault_worker import (
    CHUNKED,
    JSON,
    LAST_CHUNK,
    SSE,
    Behaviour,
    Connection,
    FaultWorker,
    How,
    Request,
    answer_events,
    answer_json,
    chunk,
    counted,
    head,
    wants_stream,
)


@dataclass(frozen=True)
class Script:
    """What one request makes the worker do. Times are seconds."""

    wait: float = 0.0  # before the first byte
    burn: float = 0.0  # before the first byte, computing: nothing else is answered meanwhile, /health included
    tokens: int = 3
    pause: float = 0.0  # between two tokens
    status: int = 200
    die: bool = False  # kill the whole worker, instead of an answer
    cut: How | None = None  # end the connection by FIN or RST ...
    after: int = 0  # ... after so many tokens, in the middle of the next


class Scripted:
    """Does what the request says, when one of the worker's places is free."""

    def __init__(self, places: int) -> None:
        self.mood: dict[str, Any] = {}
        self.seen = 0
        self._places = asyncio.Semaphore(places)

    async def answer(self, connection: Connection, request: Request) -> None:
        self.seen += 1
        if self.mood.get("stuck"):
            await asyncio.Event().wait()
        try:
            script = Script(**json.loads(request.body).get("chaos", {}))
        except (ValueError, TypeError):
            await connection.write(counted(400, JSON, b'{"error": {"message": "what is that?"}}'))
            return
        if "cut" in self.mood:
            connection.end(self.mood["cut"])
            return
        if "status" in self.mood:
            await connection.write(counted(self.mood["status"], JSON, b'{"error": {"message": "not now"}}'))
            return
        async with self._places:
            await self._act(script, connection, request)

    async def _act(self, script: Script, connection: Connection, request: Request) -> None:
        if script.die:
            os.kill(os.getpid(), signal.SIGKILL)
        burn(script.burn)
        await asyncio.sleep(script.wait)
        if script.status != 200:
            await connection.write(counted(script.status, JSON, b'{"error": {"message": "as you said"}}'))
        elif wants_stream(request):
            await self._stream(script, connection)
        else:
            await self._whole(script, connection)

    async def _whole(self, script: Script, connection: Connection) -> None:
        answer = counted(200, JSON, answer_json(connection.worker.port))
        if script.cut is None:
            await connection.write(answer)
        else:
            await self._cut(script, connection, answer[:-10])

    async def _stream(self, script: Script, connection: Connection) -> None:
        events = [chunk(event) for event in answer_events(connection.worker.port, script.tokens)]
        await connection.write(head(200, SSE | CHUNKED))
        for number, event in enumerate(events):
            if script.cut is not None and number == script.after:
                await self._cut(script, connection, event[: len(event) // 2])
                return
            await connection.write(event)
            await asyncio.sleep(script.pause)
        await connection.write(chunk(b"data: [DONE]\n\n") + LAST_CHUNK)

    async def _cut(self, script: Script, connection: Connection, half: bytes) -> None:
        if script.after:
            await connection.write(half)
            await asyncio.sleep(0.02)  # an RST makes the other side lose what it has not read
        connection.end(script.cut or "close")


def burn(seconds: float) -> None:
    """Compute, and look at nothing else."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


class Worker(FaultWorker):
    """The scripted worker, its moods and its count."""

    def __init__(self) -> None:
        super().__init__()
        self.default: Scripted  # type: ignore[assignment]

    def behaviour(self, method: str, request: Request) -> Behaviour:
        if request.path == "/mood":
            self.default.mood = json.loads(request.body)
            return Told(b"{}")
        if request.path == "/seen":
            return Told(json.dumps({"seen": self.default.seen}).encode())
        found = super().behaviour(method, request)
        self.requests.clear()
        self.probes.clear()
        return found


@dataclass(frozen=True)
class Told:
    """Answers a question about the worker itself."""

    body: bytes

    async def answer(self, connection: Connection, request: Request) -> None:
        await connection.write(counted(200, JSON | {"connection": "close"}, self.body))
        connection.end()


CHILD = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
time.sleep(600)
"""


async def serve(options: argparse.Namespace) -> None:
    if options.child:  # it leaves by a double fork and sessions of its own, as multiprocessing's and Ray's children do
        subprocess.Popen([sys.executable, "-I", "-S", "-c", CHILD], start_new_session=True)
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if options.files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (options.files, options.files))
    await asyncio.sleep(options.startup)
    if options.fail:
        sys.exit("cannot load the model: told to fail")
    worker = Worker()
    worker.default = Scripted(options.places)
    await worker.listen(options.port, options.backlog)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="An inference worker that does as each request says.")
    parser.add_argument("--host", default="127.0.0.1", help="ignored: it is always loopback")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--startup", type=float, default=0.0, help="seconds before it listens")
    parser.add_argument("--places", type=int, default=100_000, help="requests that are worked on at once")
    parser.add_argument("--files", type=int, default=0, help="how many it may open; 0: as many as it is given")
    parser.add_argument("--backlog", type=int, default=1000, help="connections that may wait to be accepted")
    parser.add_argument("--child", action="store_true", help="leave a process in a session of its own")
    parser.add_argument("--stubborn", action="store_true", help="go on after SIGTERM")
    parser.add_argument("--fail", action="store_true", help="exit instead of listening")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
