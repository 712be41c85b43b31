"""The command: options -> contestants and cells -> turns -> tables, JSON and plot. Whatever it starts, it stops."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from scripts.benchmark import machine
from scripts.benchmark.contestants import PEERS
from scripts.benchmark.processes import LOAD_CPU, interruptible
from scripts.benchmark.program import Program, checkout
from scripts.policy_trial import field, report, trial, turns
from scripts.policy_trial.cell import LLAMA_CPP, SCENES, Cell
from scripts.simulation import report as simulated
from scripts.simulation.compare import Runs
from scripts.simulation.costs import ENGINES
from scripts.simulation.options import Source, engines, in_a_folder, none_twice, picture, said, sources
from scripts.simulation.workloads import GENERATORS

# An 8B model on an H100 with a quarter of its KV cache, that a short run fills it.
ENGINE = "h100_8b,kv_tokens*0.25"


def _labels(context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> Sequence[str]:
    for label in given:
        if reason := field.wrong(label):
            raise click.BadParameter(reason)
    return tuple(dict.fromkeys(given)) or field.USUAL


def _engines(context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> Sequence[str]:
    engines(context, parameter, [spec for spec in given if spec != LLAMA_CPP])
    if LLAMA_CPP in given and len(given) > 1:
        raise click.BadParameter(f"{LLAMA_CPP} has a workload of its own: give no other engine with it")
    return given


def _cells(
    workloads: Sequence[Source], models: Sequence[str], scenes: Sequence[str], replicas: Sequence[int],
    loads: Sequence[float], requests: int, time_scale: float,
) -> list[Cell]:  # fmt: skip
    if LLAMA_CPP in models:
        return [Cell(turns.NAME, count, 1.0, LLAMA_CPP, requests=requests * count) for count in replicas]
    return [
        Cell(source.name, count, load, model, scene, requests * count, path=source.path, time_scale=time_scale)
        for source in workloads for model in models for scene in scenes for count in replicas for load in loads
    ]  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--workload", "workloads", multiple=True, metavar="NAME[=PATH]", callback=sources,
    help=f"{', '.join(GENERATORS)}, or NAME=PATH of a Mooncake trace. Again for more; default: all generated.",
)  # fmt: skip
@click.option(
    "--policy", "labels", multiple=True, metavar="[ROUTER:]NAME", callback=_labels,
    help=f"A policy of ours, or of {', '.join(PEERS)}. Again for more; the first one is what the others are compared "
    f"with. Default: {', '.join(field.USUAL)}.",
)  # fmt: skip
@click.option(
    "--replicas", multiple=True, type=click.IntRange(1, 64), default=(4,), show_default=True, callback=none_twice,
    help="Engines. Again for more.",
)  # fmt: skip
@click.option(
    "--load", "loads", multiple=True, type=click.FloatRange(0.01, 10), default=(0.7,), show_default=True,
    callback=none_twice, help="Share of the engines' time that the requests take. Again for more.",
)  # fmt: skip
@click.option(
    "--engine", "models", multiple=True, metavar="NAME[,CONSTANT*FACTOR]", default=(ENGINE,), show_default=True,
    callback=_engines, help=f"Some of {', '.join(ENGINES)}, with constants changed; again for more. Or {LLAMA_CPP}: "
    "real ones with a small model, and a workload of their own.",
)  # fmt: skip
@click.option(
    "--scene", "scenes", multiple=True, type=click.Choice(SCENES), default=("steady",), show_default=True,
    callback=none_twice, help="slow: one engine of half speed; whole: answers are not streamed. Again for more.",
)  # fmt: skip
@click.option("--slow", is_flag=True, help="The same as --scene slow.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Each with other arrivals.")
@click.option("--requests", type=click.IntRange(10), default=200, show_default=True, help="For each engine.")
@click.option(
    "--time-scale", type=click.FloatRange(0.1), default=1.0, show_default=True,
    help="Seconds for each of the engines', where there is not CPU enough for their pace.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="One short round: shows that it works, not who is better.")
@click.option(
    "--router", metavar="PYTHON", envvar="BENCH_ROUTER", type=click.Path(exists=True, dir_okay=False),
    help="The Python whose llm-launch is measured. By default this checkout is built, as it would be installed.",
)  # fmt: skip
@click.option(
    "--peers", metavar="PYTHON", envvar="BENCH_PEERS", type=click.Path(exists=True, dir_okay=False),
    help="The Python that has sglang-router, vllm-router and smg installed. Also by BENCH_PEERS.",
)  # fmt: skip
@click.option(
    "--runs", "runs_path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), callback=in_a_folder,
    help="Keep each turn here as it ends; what it has already is not taken again.",
)  # fmt: skip
@click.option(
    "--json", "json_path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), callback=in_a_folder,
    help="Keep all figures here.",
)  # fmt: skip
@click.option(
    "--png", "png_path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), callback=picture,
    help="Draw them here.",
)  # fmt: skip
def policies(
    workloads: list[Source], labels: Sequence[str], replicas: Sequence[int], loads: Sequence[float],
    models: Sequence[str], scenes: Sequence[str], slow: bool, rounds: int, requests: int, time_scale: float,
    quick: bool, router: str | None, peers: str | None, runs_path: Path | None, json_path: Path | None,
    png_path: Path | None,
) -> None:  # fmt: skip
    """Compare policies of running routers, ours and others', over the same engines' servers, in real time.

    How to read it: scripts/README.md.
    """
    require_machine()
    draw = _drawer() if png_path else None
    if slow:
        scenes = ("slow",)
    if quick:
        rounds, requests, replicas, loads, scenes = 1, 25, (2,), (0.7,), ("steady",)
        workloads = workloads[:1]
    cells = _cells(workloads, models, scenes, replicas, loads, requests, time_scale)
    with tempfile.TemporaryDirectory(prefix="bench-") as name, interruptible():
        os.sched_setaffinity(0, {LOAD_CPU})
        folder = Path(name)
        program = obtain(router, folder, _say)
        takes_part, notes = field.field(labels, program, peers, folder)
        if not takes_part:
            raise click.ClickException("; ".join(notes))
        tried = trial.Trial(takes_part, program, program.fingerprint(folder), folder, _say, notes)
        try:
            found = said(lambda: tried.results(cells, rounds, runs_path))
        except KeyboardInterrupt:
            raise click.ClickException(_interrupted(runs_path)) from None
        about = machine.describe(filter(None, takes_part.values()))
    results = trial.arrange(found, list(takes_part))
    base = trial.base(results, list(takes_part))
    if base is None or not results:
        raise click.ClickException("; ".join(notes))
    foretold = report.predictions(results)
    report.show(simulated.console(), results, base, foretold, notes)
    if json_path:
        report.keep(json_path, about, results, base, foretold)
    if draw and png_path:
        draw(png_path, results)


def require_machine() -> None:
    if machine.cpus() < 2:
        raise click.ClickException("two CPUs are needed: one for the router, one for the load")
    if missing := machine.missing(["taskset"]):
        raise click.ClickException("; ".join(f"{tool} is missing: {how}" for tool, how in missing.items()))


def obtain(router: str | None, folder: Path, say: Callable[[str], None]) -> Program:
    """What that Python has installed; None: this checkout, built."""
    if router is not None:
        return Program(router)
    say("building llm-launch, as it would be installed: a minute")
    try:
        return checkout(folder)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None


def _interrupted(path: Path | None) -> str:
    return f"interrupted: {path} has the turns that ended" if path else "interrupted: nothing is kept without --runs"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _drawer() -> Callable[[Path, Runs], None]:
    """plot.draw; imported when it is needed, since matplotlib is an extra."""
    try:
        from scripts.policy_trial.plot import draw
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing: pip install -e '.[bench]'") from None
    return draw
