"""Options that are checked alike wherever they are given: workloads, engines, files to be written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from scripts.simulation import grid
from scripts.simulation.kept import GridError
from scripts.simulation.trace import TraceError
from scripts.simulation.trace import read as read_trace
from scripts.simulation.workloads import GENERATORS

PICTURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Source:
    """A workload by its name, with its file if it is a trace."""

    name: str
    path: str | None = None


def sources(context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> list[Source]:
    """A generated workload's name, or NAME=PATH of a trace; none given: all that are generated."""
    found = [Source(name, path or None) for name, _, path in (text.partition("=") for text in given)]
    for source in found:
        if source.path is None and source.name not in GENERATORS:
            raise click.BadParameter(f"{source.name} is none of {', '.join(GENERATORS)}, nor NAME=PATH of a trace")
        if source.path is not None and (source.name in GENERATORS or not source.name):
            raise click.BadParameter(f"{source.name}={source.path}: give the trace a name of its own")
        if source.path is not None:
            said(partial(read_trace, Path(source.path)))
    return found or [Source(name) for name in GENERATORS]


def engines(context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> Sequence[str]:
    for spec in given:
        said(partial(grid.engine, spec))
    return given


def said(act: Callable[[], Any]) -> Any:
    """Its result; what is wrong with a file or a value ends in a line."""
    try:
        return act()
    except (GridError, TraceError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None


def in_a_folder(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """A file to be written: hours later would be late to find that it cannot be."""
    if path is not None and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"the folder of {path} does not exist")
    return path


def picture(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix not in PICTURES:
        raise click.BadParameter(f"{path} must end in one of {', '.join(PICTURES)}")
    return in_a_folder(context, parameter, path)


def none_twice(context: click.Context, parameter: click.Parameter, given: Sequence[Any]) -> Sequence[Any]:
    return tuple(dict.fromkeys(given))
