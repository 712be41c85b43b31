"""The simulated engine's process: options, start, readiness, stop. `python -m launcher.engines.sim_server --help`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click
import uvloop
from aiohttp import web

from launcher.engines.sim_api import Parts, build_app
from launcher.engines.sim_driver import Driver
from launcher.engines.sim_engine import CostModel, Engine, EngineConfig
from launcher.engines.sim_faults import Desk, Faults

# Exit codes: 1 when the address cannot be had, 3 for a start that was told to fail.
_CANNOT_LISTEN, _FAILED_START = 1, 3
# Seconds that open requests get at the end: next to none, but 0 would mean no limit.
_FAREWELL = 0.01
_TABLES = (EngineConfig, CostModel, Faults)
_Table = TypeVar("_Table", EngineConfig, CostModel, Faults)


@dataclass(frozen=True)
class Process:
    """How the process behaves, whatever the engine does. Times are wall seconds."""

    host: str
    port: int
    keepalive_timeout: float
    startup_delay: float
    fail_start: bool
    spawn_child: bool


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Every field of the tables that has a help text is an option."""
    for table in reversed(_TABLES):
        hints = get_type_hints(table)
        for each in reversed(fields(table)):
            if "help" in each.metadata:
                command = _option(each.name, hints[each.name], each.default, each.metadata["help"])(command)
    return command


def _option(name: str, hint: Any, default: Any, help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag = "--" + name.replace("_", "-")
    if hint is bool:
        return click.option(flag, is_flag=True, default=default, help=help)
    kind = click.Choice(get_args(hint)) if get_origin(hint) is Literal else hint
    return click.option(flag, type=kind, default=default, show_default=True, help=help)


def _table(table: type[_Table], options: dict[str, Any]) -> _Table:
    """Raises click.UsageError for a value that cannot be used."""
    names = {each.name for each in fields(table) if "help" in each.metadata}
    try:
        return table(**{name: options[name] for name in names})
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        raise click.UsageError(f"--{name.replace('_', '-')} {rest}") from None


@click.command(context_settings={"max_content_width": 120})
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), default=31_000, show_default=True, help="0: any free one.")
@click.option("--model", "--model-path", "model", default="sim", show_default=True, help="Only a name: none is loaded.")
@click.option("--served-model-name", help="The name in /v1/models, if it is not the model's.")
@click.option(
    "--time-scale",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Real seconds per simulated second; 0: as fast as possible.",
)
@click.option(
    "--keepalive-timeout",
    type=click.FloatRange(0),
    default=5.0,
    show_default=True,
    help="Seconds after which an idle connection is closed, as uvicorn does.",
)
@click.option("--startup-delay", type=click.FloatRange(0), default=0.0, help="Seconds until /health says 200.")
@click.option("--fail-start", is_flag=True, help="Exit with status 3 instead of becoming ready.")
@click.option("--spawn-child", is_flag=True, help="Leave a process in a session of its own that sleeps for ever.")
@_options
def main(model: str, served_model_name: str | None, time_scale: float, **options: Any) -> None:
    """An inference server without a model: it schedules, caches and takes its time like a real one, and babbles."""
    engine = Engine(_table(EngineConfig, options), _table(CostModel, options))
    desk = Desk(_table(Faults, options))
    process = Process(**{each.name: options[each.name] for each in fields(Process)})

    async def serve() -> int:
        parts = Parts(Driver(engine, time_scale), served_model_name or model, model, desk, ready=False)
        parts.key = os.environ.get("SIM_API_KEY")
        return await _serve(process, parts)

    sys.exit(uvloop.run(serve()))


async def _serve(process: Process, parts: Parts) -> int:
    """Run until told to stop; the exit code."""
    _obey_signals(parts)
    runner = web.AppRunner(
        build_app(parts),
        access_log=None,
        keepalive_timeout=process.keepalive_timeout,
        handler_cancellation=True,
        shutdown_timeout=_FAREWELL,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, process.host, process.port).start()
        return await _live(process, parts, runner.addresses[0][1])
    except OSError as error:
        _say(f"cannot listen on {process.host}:{process.port}: {error.strerror or error}", err=True)
        return _CANNOT_LISTEN
    finally:
        await runner.cleanup()


async def _live(process: Process, parts: Parts, port: int) -> int:
    if process.spawn_child:
        # It outlives this process on purpose: whoever started us has to find and end it.
        parts.desk.child = subprocess.Popen(["sleep", "infinity"], start_new_session=True).pid  # noqa: ASYNC220
    _say(f"loading {parts.model_path}")
    if process.startup_delay:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(parts.stop.wait(), process.startup_delay)
            return 0
    if process.fail_start:
        _say(f"cannot load {parts.model_path}: told to fail by --fail-start", err=True)
        return _FAILED_START
    parts.ready = True
    _say(f"ready: {parts.model} on http://{process.host}:{port}")
    await parts.stop.wait()
    return 0


def _obey_signals(parts: Parts) -> None:
    def on_sigterm() -> None:
        if not parts.desk.faults.ignore_sigterm:
            parts.stop.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, on_sigterm)
    loop.add_signal_handler(signal.SIGINT, parts.stop.set)


def _say(line: str, err: bool = False) -> None:
    click.echo(f"sim: {line}", err=err)


if __name__ == "__main__":
    main()
