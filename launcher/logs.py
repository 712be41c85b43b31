"""The engines' logs: a file per worker and start, and the end of one for people to read."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

KEPT = 5  # files per worker
_BLOCK = 8192  # bytes read at a time from the end of a log
_LONGEST = 4096  # characters of one line that are shown
_CHUNK = 1 << 20  # bytes that are read at a time of what is followed

# Escape sequences and control characters: a log must not be able to act on the terminal that shows it.
_UNPRINTABLE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def folder(log_dir: str | None, port: int) -> Path:
    """The folder of a launch's logs, created for this user alone; by default in the platform's state folder.

    Raises OSError, with the folder's name, when it cannot be had or written to.
    """
    path = Path(log_dir) if log_dir else _state_folder() / "llm-launch" / str(port)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return path


def _state_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    try:
        return Path(state) if state else Path.home() / ".local" / "state"
    except RuntimeError:  # a user without an entry in passwd, and without HOME
        raise FileNotFoundError(errno.ENOENT, "this user has no home folder", "~/.local/state") from None


def next_file(folder: Path, worker_id: str) -> Path:
    """A file name that no earlier start used: w0.1.log, w0.2.log, ... The oldest beyond the last few are removed."""
    numbers = sorted(_numbers(folder, worker_id))
    for number in numbers[: -(KEPT - 1)]:
        (folder / f"{worker_id}.{number}.log").unlink(missing_ok=True)
    path = folder / f"{worker_id}.{numbers[-1] + 1 if numbers else 1}.log"
    path.touch(mode=0o600)
    return path


def _numbers(folder: Path, worker_id: str) -> list[int]:
    return [int(p.name.split(".")[-2]) for p in folder.glob(f"{worker_id}.*.log") if p.name.split(".")[-2].isdigit()]


def tail(path: Path | None, lines: int = 20) -> list[str]:
    """The last lines of a log, without what could act on a terminal; [] when there is none. Reads only the end."""
    if path is None:
        return []
    try:
        data = _end(path, lines)
    except OSError:
        return []
    text = [_clean(line) for line in data.decode(errors="replace").split("\n")]
    return [line for line in text if line][-lines:]


def last_line(path: Path | None) -> str:
    """What the engine says now; "" when it has said nothing."""
    return next(iter(tail(path, 1)), "")


def end(path: Path | None, lines: int) -> tuple[list[str], str]:
    """The last lines, as tail() gives them, and a mark from which since() goes on."""
    said = tail(path, lines)
    try:
        return said, f"{path.name}:{path.stat().st_size}" if path else ""
    except OSError:
        return said, ""


def since(path: Path | None, mark: str) -> tuple[list[str], str]:
    """The whole lines that were written since `mark`, a megabyte at most, and the next mark.

    A mark in another file, or none, means all of this one: each start of an engine has its own.
    """
    if path is None:
        return [], ""
    name, _, offset = mark.rpartition(":")
    start = int(offset) if name == path.name and offset.isdecimal() and len(offset) < 19 else 0
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(_CHUNK)
    except OSError:
        return [], mark
    if len(data) < _CHUNK or b"\n" in data:  # else it is one absurdly long line: in pieces
        data = data[: data.rfind(b"\n") + 1]
    text = (_clean(line) for line in data.decode(errors="replace").split("\n"))
    return [line for line in text if line], f"{path.name}:{start + len(data)}"


def _end(path: Path, lines: int) -> bytes:
    """At least the last `lines` lines that are not empty, if the file has as many and none is absurdly long."""
    data = b""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        while position and len(data.split(b"\n")) <= lines + 1 and len(data) < lines * _LONGEST:
            step = min(_BLOCK, position)
            position = file.seek(position - step)
            data = file.read(step) + data
    return data


def _clean(line: str) -> str:
    """A progress bar overwrites its line with carriage returns: its last state counts."""
    line = line.rstrip().rpartition("\r")[2]
    return _UNPRINTABLE.sub("", line)[:_LONGEST].rstrip()
