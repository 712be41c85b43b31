"""Files of results, a line for each run: what one has is not run again."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

BEGINNING = b'{"run":{'  # of each line


class Kept(Protocol):
    """A result, with the run that it is of."""

    @property
    def run(self) -> Any: ...


Run = TypeVar("Run", bound=Hashable)
Result = TypeVar("Result", bound=Kept)


class GridError(ValueError):
    """One line for a person: what cannot be run, or what is wrong with a file of results."""


def complete(
    kind: type[Result],
    runs: Sequence[Run],
    path: Path | None,
    perform: Callable[[Sequence[Run]], Iterator[Result]],
    say: Callable[[int], None],
) -> list[Result]:
    """The results of all runs, in their order: those that the file has, and what `perform` makes of the others.

    These are added to the file one by one. `say` is told how many there are after each. Raises GridError.
    """
    known = load(kind, path) if path else {}
    missing = [run for run in dict.fromkeys(runs) if run not in known]
    for done, result in enumerate(perform(missing), 1):
        known[result.run] = result
        if path:
            with path.open("ab") as file:
                file.write(msgspec.json.encode(result) + b"\n")
        say(len(runs) - len(missing) + done)
    return [known[run] for run in runs if run in known]


def load(kind: type[Result], path: Path) -> dict[Any, Result]:
    """What the file has; a last line that was cut off is removed from it. Raises GridError."""
    try:
        text = path.read_bytes() if path.exists() else b""
        whole, rest = text[: text.rfind(b"\n") + 1], text[text.rfind(b"\n") + 1 :]
        results = [msgspec.json.decode(line, type=kind) for line in whole.splitlines()]
        if not (rest.startswith(BEGINNING) or BEGINNING.startswith(rest)):
            raise GridError(f"{path} is no file of runs: its last line is something else")
        if rest:
            os.truncate(path, len(whole))
    except OSError as error:
        raise GridError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GridError(f"{path} is no file of runs: {error}") from None
    return {result.run: result for result in results}
