"""The `launch` command: argv and environment -> LaunchConfig -> exit code."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from typing import Any

import click

from launcher import __version__, doctor, manage, run, survey, tables
from launcher.config import CLUSTERS, ENGINE_NAMES, LaunchConfig
from launcher.errors import BadConfig, LaunchError
from router.cli import (
    PAIRS,
    announce,
    complain,
    config_option,
    epilog,
    invoke,
    option,
    router_config,
    router_options,
    set_up_logging,
    several,
    spread,
)

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
    "cluster": ("Where the replicas run: on the nodes of a Ray cluster.  [default: on this machine]", None),
    "ray_address": ("Head of the Ray cluster. auto: the one that this machine belongs to.", "HOST:PORT"),
    "worker_base_port": ("First port of the workers; without --cluster they listen on 127.0.0.1 only.", None),
    "max_restarts": ("Unexpected ends of a worker within --restart-window before it is given up.", None),
    "restart_window": ("The time in which they are counted.", "SECONDS"),
    "stop_timeout": ("Time an engine has to end itself before it is killed.", "SECONDS"),
    "log_dir": ("Folder for the engines' logs.  [default: llm-launch/PORT in the state folder]", "FOLDER"),
}
KINDS: dict[str, type] = {"dp_size": int}
CHOICES = {"engine": ENGINE_NAMES, "cluster": CLUSTERS}
ENGINE_ARGS = "engine_args"  # what follows -- on the command line, or that line of a --config file
SHARED = ("worker_startup_timeout", "drain_timeout")  # one option sets them here and in the router


def launch_options() -> list[click.Option]:
    fields = {field.name: field for field in dataclasses.fields(LaunchConfig)}
    return [
        option(fields[name], text, metavar, CHOICES.get(name), KINDS.get(name))
        for name, (text, metavar) in HELP.items()
    ]


def launch_config(params: dict[str, Any]) -> LaunchConfig:
    """Settings from the options' values. Raises BadConfig or ConfigError."""
    if params["model_path"] is None:
        raise BadConfig("--model-path is missing: give a model id, a folder, a .gguf file, or 'demo'")
    values = {name: params[name] for name in (*HELP, *SHARED)}
    return LaunchConfig(**values, engine_args=params[ENGINE_ARGS], router=router_config(params))


class _Doctor(click.Command):
    """Takes what a launch takes, the engine's words included."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return _parse(self, ctx, args)


def _parse(command: click.Command, ctx: click.Context, args: list[str], commands: Sequence[str] = ()) -> list[str]:
    """The options of a launch, and what follows -- untouched."""
    end = args.index("--") if "--" in args else len(args)
    rest = click.Command.parse_args(command, ctx, spread(args[:end], several(command)))
    if rest and not ctx.resilient_parsing:
        raise click.UsageError(_stray(rest[0], commands))
    ctx.params[ENGINE_ARGS] = tuple(args[end + 1 :] or (ctx.default_map or {}).get(ENGINE_ARGS, ()))
    ctx.args = []
    return []


class _Launch(click.Group):
    """Starts a node, unless its first word is a command. What follows -- is for the engine, untouched."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] in self.commands:
            ctx.meta[_COMMANDED] = self
            return super().parse_args(ctx, args)
        return _parse(self, ctx, args, list(self.commands))

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own options, and their variables, mean nothing to a command."""
        params = super().get_params(ctx)
        return [param for param in params if param.name == "help"] if ctx.meta.get(_COMMANDED) is self else params

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands first: the options fill several screens."""
        self.format_commands(ctx, formatter)
        records = {param.name: param.get_help_record(ctx) for param in self.get_params(ctx)}
        ours = [record for name, record in records.items() if record and name not in _ROUTERS]
        theirs = [record for name, record in records.items() if record and name in _ROUTERS]
        for title, rows in (("Options of the node", ours), ("Options of its router", theirs)):
            with formatter.section(title):
                formatter.write_dl(rows)


_ROUTERS = {option.name for option in router_options(PAIRS)} - set(SHARED)
_COMMANDED = f"{__name__}.commanded"


def _stray(word: str, commands: Sequence[str]) -> str:
    if word in commands:
        return f"'{word}' goes first, and takes its own options: launch {word}"
    near = difflib.get_close_matches(word, commands, 1)
    command = f"is no command (did you mean {near[0]}?)" if near else "is not an option"
    return f"'{word}' {command}: what is for the engine goes after --."


def _launch(dry_run: bool = False, **params: Any) -> int:
    """Serve a model on every GPU of this machine behind one port.

    Starts one engine per replica, restarts those that fail, and routes requests to where their prompt is cached. What
    follows -- is given to every engine as it is. The commands below ask and change a node that runs.
    """
    if click.get_current_context().invoked_subcommand:
        return 0
    config = launch_config(params)
    set_up_logging(config.router.log_level, config.router.log_format)
    if dry_run:
        announce(run.rehearse(config))
        return 0
    return run.run(config)


def _doctor(as_json: bool = False, **params: Any) -> int:
    """Look whether a launch would start here, and what it would start.

    Takes the options of a launch, --config among them. Exit status 0: nothing stands in its way. 1: something does.
    """
    model = params["model_path"]
    if params["cluster"] is not None:
        raise BadConfig("the doctor looks at this machine only: run it on the cluster's nodes, without --cluster")
    report = survey.look(launch_config({**params, "model_path": model or "-"}), planned=model is not None)
    if as_json:
        announce(json.dumps(report.data()))
    else:
        tables.show(tables.findings(report.findings))
        if report.commands:
            announce(report.commands)
    return 0 if doctor.sound(report.findings) else 1


DOCTOR = _Doctor(
    "doctor",
    callback=_doctor,
    params=[
        config_option([ENGINE_ARGS]),
        click.Option(["--json", "as_json"], is_flag=True, help="Answer for programs."),
        *launch_options(),
        *router_options(PAIRS),
    ],
    help=_doctor.__doc__,
    options_metavar="[OPTIONS] [-- ENGINE OPTIONS]",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "auto_envvar_prefix": "LAUNCH"},
)
DRY_RUN = click.Option(["--dry-run"], is_flag=True, help="Show what would be started, and with which commands.")

command = _Launch(
    "launch",
    callback=_launch,
    params=[config_option([ENGINE_ARGS]), DRY_RUN, *launch_options(), *router_options(PAIRS)],
    help=_launch.__doc__,
    epilog=epilog("launch", "dp-size"),
    invoke_without_command=True,
    subcommand_metavar="[COMMAND] [-- ENGINE OPTIONS]",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    commands=[DOCTOR, *manage.COMMANDS],
)
click.version_option(__version__, prog_name="launch")(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 after a drain, that of a LaunchError, 128 + n when a second signal n ended it."""
    try:
        return invoke(command, "launch", argv, "What the engine is to be told goes after --. ")
    except LaunchError as error:
        complain("launch", str(error))
        return error.exit_code
