"""The `launch` command: argv and environment -> LaunchConfig -> exit code."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import click

from launcher import __version__, run
from launcher.config import ENGINE_NAMES, LaunchConfig
from launcher.errors import BadConfig, LaunchError
from router.cli import Command, complain, epilog, invoke, option, router_config, router_options, set_up_logging

# What each option means; a unit is its metavar. The fields that are missing here are the router's options as well.
HELP: dict[str, tuple[str, str | None]] = {
    "model_path": ("Model: an id on the hub, a folder, a .gguf file, or 'demo'. Required.", "MODEL"),
    "dp_size": ("Replicas of the model.  [default: visible GPUs / tp-size; 1 on a CPU]", None),
    "tp_size": ("GPUs for each replica.", None),
    "engine": ("Inference engine. auto: the first that is installed and suits.", None),
    "engine_command": (
        "With --engine command: how to start one, with {model_path} {host} {port} {tp_size} filled in.",
        "TEMPLATE",
    ),
    "engine_python": ("Python interpreter that has the engine.  [default: the one that runs this]", "FILE"),
    "worker_base_port": ("First port of the workers, which listen on 127.0.0.1 only.", None),
    "max_restarts": ("Unexpected ends of a worker within --restart-window before it is given up.", None),
    "restart_window": ("The time in which they are counted.", "SECONDS"),
    "stop_timeout": ("Time an engine has to end itself before it is killed.", "SECONDS"),
    "log_dir": ("Folder for the engines' logs.  [default: llm-launch/PORT in the state folder]", "FOLDER"),
}
KINDS: dict[str, type] = {"dp_size": int}
SHARED = ("worker_startup_timeout", "drain_timeout")  # one option sets them here and in the router


def launch_options() -> list[click.Option]:
    fields = {field.name: field for field in dataclasses.fields(LaunchConfig)}
    return [
        option(fields[name], text, metavar, ENGINE_NAMES if name == "engine" else None, KINDS.get(name))
        for name, (text, metavar) in HELP.items()
    ]


def launch_config(params: dict[str, Any]) -> LaunchConfig:
    """Settings from the options' values. Raises BadConfig or ConfigError."""
    if params["model_path"] is None:
        raise BadConfig("--model-path is missing: give a model id, a folder, a .gguf file, or 'demo'")
    values = {name: params[name] for name in (*HELP, *SHARED)}
    return LaunchConfig(**values, engine_args=params["engine_args"], router=router_config(params))


class _Launch(Command):
    """What follows -- is for the engine, untouched."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        ctx.params["engine_args"] = tuple(args[end + 1 :])
        ctx.allow_extra_args = True
        for word in super().parse_args(ctx, args[:end]):
            raise click.UsageError(f"'{word}' is not an option: what is for the engine goes after --.")
        return []


def _launch(**params: Any) -> int:
    """Serve a model on every GPU of this machine behind one port.

    Starts one engine per replica, restarts those that fail, and routes requests to where their prompt is cached. What
    follows -- is given to every engine as it is.
    """
    try:
        config = launch_config(params)
        set_up_logging(config.router.log_level, config.router.log_format)
        return run.run(config)
    except LaunchError as error:
        complain("launch", str(error))
        return error.exit_code


command = _Launch(
    "launch",
    callback=_launch,
    params=[*launch_options(), *router_options()],
    help=_launch.__doc__,
    epilog=epilog("launch", "dp-size"),
    options_metavar="[OPTIONS] [-- ENGINE OPTIONS]",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
click.version_option(__version__, prog_name="launch")(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 after a drain, that of a LaunchError, 128 + n when a second signal n ended it."""
    return invoke(command, "launch", argv)
