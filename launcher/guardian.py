"""One engine's guardian: a tiny process between launcher and engine that leaves nothing behind, whoever dies first.

    launcher --socket--> guardian (own session, subreaper) --fork--> engine (own session) --> its children, and theirs

As a subreaper it becomes the parent of every orphan below it, so a grandchild that double-forks and calls setsid() is
still found. It ends the tree when it is told to, when the engine's main process exits, and when the socket closes,
which is what the launcher's death looks like, SIGKILL included. It exits once it has no child left, and having no child
then means that nothing of the tree lives. Should the guardian itself be killed, the kernel kills the engine
(PR_SET_PDEATHSIG) and the launcher sweeps up the rest by the marker in the environment.

The launcher runs this file by its path, without the package: standard library only, so that it starts at once. Standard
output is the engine's log, which the engine inherits; standard input is the socket. The launcher sends one line of
JSON, the job, and then at any time `stop SECONDS`. It is told `pid N`, `exit CODE` (negative: killed by that signal),
and `gone PIDS` before the socket closes: which processes there were.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ORPHAN_GRACE = 2.0  # seconds from SIGTERM to SIGKILL when launcher or engine died: multiprocessing tidies up meanwhile
TICK = 0.05  # seconds between two looks at a tree that is being ended

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    control = socket.socket(fileno=0)
    lines = _read_job(control)
    job = json.loads(lines.pop(0))
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    wakeup, poke = socket.socketpair()
    wakeup.setblocking(False)
    poke.setblocking(False)
    signal.set_wakeup_fd(poke.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    guardian = Guardian(control, wakeup, start(job))
    if os.getppid() != job["launcher"]:  # it died before PR_SET_PDEATHSIG took hold
        guardian.end(ORPHAN_GRACE)
    for line in lines:
        guardian.obey(line)
    guardian.run()


def _read_job(control: socket.socket) -> list[str]:
    """Complete lines, the job first; nothing at all is started without one."""
    data = b""
    while not data.endswith(b"\n"):
        more = control.recv(65536)
        if not more:
            sys.exit(0)
        data += more
    return data.decode().splitlines()


def start(job: dict[str, Any]) -> int:
    """Fork the engine into a session of its own and return its pid."""
    guardian = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        _become(job, guardian)
    except OSError as error:
        os.write(2, f"cannot start {job['argv'][0]}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)
    except BaseException as error:
        os.write(2, f"cannot start {job['argv'][0]}: {error}\n".encode())
    os._exit(126)


def _become(job: dict[str, Any], guardian: int) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if job["cpus"]:
        os.sched_setaffinity(0, job["cpus"])
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != guardian:
        os._exit(1)
    os.execvp(job["argv"][0], job["argv"])


class Guardian:
    """The tree below this process. It is being ended once `_kill_at` is set."""

    def __init__(self, control: socket.socket, wakeup: socket.socket, engine: int):
        self._control = control
        self._wakeup = wakeup
        self._engine = engine
        self._kill_at: float | None = None
        self._launcher_lives = True
        self._members = {engine}  # all pids of the tree that were met
        self._tell(f"pid {engine}")

    def run(self) -> None:
        while self._reap():
            self._wait()
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._signal(signal.SIGKILL)
        self._tell("gone " + " ".join(map(str, self._members)))

    def end(self, grace: float) -> None:
        """SIGTERM to the whole tree now, SIGKILL after `grace` seconds; a shorter grace given later wins."""
        kill_at = time.monotonic() + grace
        if self._kill_at is None:
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # a stopped process could not act on it
            self._kill_at = kill_at
        self._kill_at = min(self._kill_at, kill_at)

    def obey(self, line: str) -> None:
        verb, _, grace = line.partition(" ")
        if verb == "stop":
            self.end(float(grace))

    def _reap(self) -> bool:
        """Collect what has died; whether anything is left alive."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._members.add(pid)
            if pid == self._engine:
                self._tell(f"exit {os.waitstatus_to_exitcode(status)}")
                self.end(ORPHAN_GRACE)

    def _wait(self) -> None:
        watched = [self._wakeup, self._control] if self._launcher_lives else [self._wakeup]
        readable, _, _ = select.select(watched, [], [], None if self._kill_at is None else TICK)
        if self._wakeup in readable and set(self._wakeup.recv(4096)) - {signal.SIGCHLD}:
            self.end(ORPHAN_GRACE)
        if self._control in readable:
            self._listen()

    def _listen(self) -> None:
        try:
            data = self._control.recv(65536)
        except OSError:
            data = b""
        self._launcher_lives = bool(data)
        if not data:
            self.end(ORPHAN_GRACE)
        for line in data.decode().splitlines():
            self.obey(line)

    def _signal(self, number: int) -> None:
        for pid in descendants(os.getpid()):
            self._members.add(pid)
            try:
                os.kill(pid, number)
            except OSError:
                pass  # it has gone, or runs as somebody else

    def _tell(self, line: str) -> None:
        try:
            self._control.sendall(line.encode() + b"\n")
        except OSError:
            pass  # nobody is left to be told


def descendants(root: int) -> list[int]:
    """The pids of all processes below `root`, parents before children."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            children.setdefault(_parent(name), []).append(int(name))
    found = list(children.get(root, ()))
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1])  # the name before ")" may hold anything
    except (OSError, IndexError):
        return 0


if __name__ == "__main__":
    main()
