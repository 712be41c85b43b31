"""One engine and all it starts, as one thing: start it, hear of its end, stop it until nothing of it is left.

The only file that imports psutil, and the only one that starts engine processes. Each engine has a guardian
(launcher/guardian.py) that keeps hold of its tree; this is the launcher's side of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from launcher.engines import Command
from launcher.plan import WorkerSpec, cuda_env, thread_env

logger = logging.getLogger(__name__)

MARKER = "LLM_LAUNCH_WORKER"  # in the environment of every process below an engine, a value never used twice
GUARDIAN = str(Path(__file__).with_name("guardian.py"))
STUCK = 10.0  # seconds after SIGKILL before the guardian itself is given up
SWEEP_ROUNDS = 50  # a tenth of a second each

# Our own settings (keys among them) are none of an engine's business.
PRIVATE = ("LAUNCH_", "ROUTER_")


def environment(command: Command, spec: WorkerSpec, marker: str) -> dict[str, str]:
    """What the engine sees: our environment without our settings, what pins it to its devices and cores, its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PRIVATE)}
    return {**inherited, **cuda_env(spec), **thread_env(spec, inherited), **command.env, MARKER: marker}


class Process:
    """A running engine. `pid` is the engine's own, not its guardian's; `members` are, in the end, all pids it had."""

    def __init__(
        self,
        spec: WorkerSpec,
        guardian: subprocess.Popen[bytes],
        marker: str,
        pid: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ):
        self.spec = spec
        self.pid = pid
        self.members = {pid}
        self._born = _born(pid)
        self._guardian = guardian
        self._marker = marker
        self._writer = writer
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._gone = asyncio.Event()
        self._listener = asyncio.create_task(self._listen(reader))

    @classmethod
    async def start(
        cls, command: Command, spec: WorkerSpec, log: Path, home: threading.Thread | None = None
    ) -> Process:
        """Start `command` on the devices and cores of `spec`, with its output in `log`.

        A command that cannot be executed is an engine that exits with 126 or 127. Raises OSError when no process can be
        made at all. Must be called on a thread that lives as long as this process, the main one unless `home` is
        another: the kernel's parent-death signal goes by thread, not by process.
        """
        if threading.current_thread() is not (home or threading.main_thread()):
            raise RuntimeError("engines are started on the main thread only")
        marker = uuid.uuid4().hex
        ours, guardian = _guard(environment(command, spec, marker), log)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        job = {"argv": command.argv, "cpus": spec.cpus, "launcher": os.getpid()}
        writer.write(json.dumps(job).encode() + b"\n")
        word, _, pid = (await reader.readline()).partition(b" ")
        if word != b"pid":
            writer.close()
            await asyncio.to_thread(guardian.wait)
            raise OSError(f"the engine's guardian did not start: see {log}")
        return cls(spec, guardian, marker, int(pid), reader, writer)

    async def settled(self, waits: Callable[[str], None]) -> None:
        """It has been where it belongs since it was started."""

    async def wait(self) -> int:
        """The engine's exit code, as soon as its main process has ended; negative when a signal ended it."""
        return await asyncio.shield(self._exit)

    async def stop(self, timeout: float) -> None:
        """SIGTERM to the whole tree, SIGKILL after `timeout` seconds; returns once all of it is gone.

        May be called again with a shorter timeout while it is stopping.
        """
        if not self._writer.is_closing():
            self._writer.write(f"stop {timeout}\n".encode())
        try:
            await asyncio.wait_for(self._gone.wait(), timeout + STUCK)
        except asyncio.TimeoutError:
            self._guardian.kill()
            await self._gone.wait()

    async def cpu(self) -> float:
        """CPU seconds that the processes which there are now have used."""
        return await asyncio.to_thread(lambda: sum(map(_cpu, self._tree())))

    async def outsider(self, port: int) -> str | None:
        """Who listens on `port`, in words, if it is known to be none of these: it was there before the engine was.

        What is younger may listen on the engine's behalf, as the proxy of a container does.
        """
        return await asyncio.to_thread(self._outsider, port)

    def _outsider(self, port: int) -> str | None:
        pids = {c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port}
        older = [pid for pid in pids if pid is not None and 0 < _born(pid) < self._born]
        return f"another program holds port {port} (pid {older[0]})" if older else None

    def _tree(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._guardian.pid).children(recursive=True)
        except psutil.Error:
            return []

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Hear the guardian out, then see to it that nothing is left and that its zombie is collected."""
        clean = False
        try:
            async for line in reader:
                word, _, value = line.decode().strip().partition(" ")
                clean = word == "gone"
                if word == "exit":
                    self._exit.set_result(int(value))
                elif clean:
                    self.members.update(map(int, value.split()))
        except (OSError, ValueError):
            clean = False  # the guardian was killed, or its list is longer than a line may be
        try:
            self._writer.close()
            await asyncio.to_thread(self._guardian.wait)
            if not clean:
                await asyncio.to_thread(sweep, self._marker, self.pid, self._born)
        finally:
            if not self._exit.done():
                self._exit.set_result(-signal.SIGKILL)
            self._gone.set()


def _guard(env: dict[str, str], log: Path) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A guardian that waits for its job, and our end of its socket."""
    ours, theirs = socket.socketpair()
    with theirs, log.open("ab") as output:
        try:
            guardian = subprocess.Popen(
                [sys.executable, "-I", "-S", GUARDIAN],
                stdin=theirs.fileno(),
                stdout=output,
                stderr=output,
                env=env,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    return ours, guardian


def sweep(marker: str, session: int, born: float) -> None:
    """Kill what a dead guardian left: the bearers of the marker, and the engine's session for those that lost it.

    Programs that rename themselves (setproctitle) overwrite their environment, so the marker alone is not enough; a
    session's number alone is not either, once its leader's pid belongs to somebody else (`born` tells).
    """
    for _ in range(SWEEP_ROUNDS):
        left = list(_leftovers(marker, session, born))
        if not left:
            return
        for process in left:
            try:
                process.kill()  # psutil compares the creation time first: never a process that merely has the pid
            except psutil.Error:
                pass
        psutil.wait_procs(left, timeout=0.1)
    logger.error("these processes cannot be killed: %s", ", ".join(str(p.pid) for p in left))


def _leftovers(marker: str, session: int, born: float) -> Iterator[psutil.Process]:
    ours = _born(session) in (born, 0.0)
    for process in psutil.process_iter():
        try:
            in_session = ours and process.create_time() >= born > 0 and os.getsid(process.pid) == session
            marked = in_session or process.environ().get(MARKER) == marker
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            pass  # it has gone, or belongs to somebody else


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _born(pid: int) -> float:
    """When the process was created, in seconds since the epoch; 0 when there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0
