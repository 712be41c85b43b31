"""The command: options -> cells and policies -> runs -> tables, JSON and plot; or -> tuned settings."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from scripts.simulation import compare, grid, report, tuning
from scripts.simulation.compare import Field, Runs
from scripts.simulation.contestants import CONTESTANTS
from scripts.simulation.costs import ENGINES
from scripts.simulation.grid import SCENES, Cell, Run
from scripts.simulation.options import Source, engines, in_a_folder, none_twice, picture, said, sources
from scripts.simulation.trace import Part
from scripts.simulation.workloads import GENERATORS

PATIENCE = 10.0  # s between two lines on how far it is

# Everything, short: shows that all works.
QUICK = {"replicas": (3,), "loads": (0.7,), "scenes": tuple(SCENES), "seeds": 2, "requests": 50}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--workload", "sources", multiple=True, metavar="NAME[=PATH]", callback=sources,
    help=f"{', '.join(GENERATORS)}, or NAME=PATH of a Mooncake trace. Again for more; default: all generated.",
)  # fmt: skip
@click.option(
    "--policy", "policies", multiple=True, type=click.Choice(list(CONTESTANTS)), metavar="NAME", callback=none_twice,
    help=f"Some of {', '.join(CONTESTANTS)}. Again for more; default: all.",
)  # fmt: skip
@click.option("--base", metavar="NAME", help="The policy that all others are compared with. Default: the first one.")
@click.option(
    "--replicas", multiple=True, type=click.IntRange(1, 1024), default=(8,), show_default=True, callback=none_twice,
    help="Engines. Again for more.",
)  # fmt: skip
@click.option(
    "--load", "loads", multiple=True, type=click.FloatRange(0.01, 10), default=(0.7,), show_default=True,
    callback=none_twice, help="Share of the engines' time that the requests take. Again for more.",
)  # fmt: skip
@click.option(
    "--engine", "engines", multiple=True, metavar="NAME[,CONSTANT*FACTOR]", default=("h100_8b",), show_default=True,
    callback=engines, help=f"Some of {', '.join(ENGINES)}, with constants changed. Again for more.",
)  # fmt: skip
@click.option(
    "--scene", "scenes", multiple=True, type=click.Choice(list(SCENES)), default=("steady",), show_default=True,
    callback=none_twice, help="slow: one of half speed; join: one more, cold; lost: one dies. Again for more.",
)  # fmt: skip
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Runs with other arrivals.")
@click.option(
    "--requests", type=click.IntRange(10), default=1500, show_default=True,
    help="For each replica. A trace with fewer is used as it is.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="Everything, very short: shows that it works, not who is better.")
@click.option(
    "--tune", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), callback=in_a_folder,
    help="Find each policy's best settings on the first third, keep them here, and do nothing else.",
)  # fmt: skip
@click.option(
    "--tuned", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Let the policies take part with these settings, too; traces then without their first third.",
)  # fmt: skip
@click.option(
    "--runs", "runs_path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), callback=in_a_folder,
    help="Keep each run here as it ends; what it has already is not run again.",
)  # fmt: skip
@click.option("--processes", type=click.IntRange(1), default=os.cpu_count() or 1, show_default="one for each CPU")
@click.option(
    "--json", "json_path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), callback=in_a_folder,
    help="Keep all figures here.",
)  # fmt: skip
@click.option(
    "--png", "png_path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), callback=picture,
    help="Draw them against load here.",
)  # fmt: skip
def main(
    sources: list[Source], policies: Sequence[str], base: str | None, replicas: Sequence[int], loads: Sequence[float],
    engines: Sequence[str], scenes: Sequence[str], seeds: int, requests: int, quick: bool, tune: Path | None,
    tuned: Path | None, runs_path: Path | None, processes: int, json_path: Path | None, png_path: Path | None,
) -> None:  # fmt: skip
    """Compare routing policies over simulated engines, in virtual time. How to read it: scripts/README.md."""
    draw = _drawer() if png_path else None
    if quick:
        replicas, loads, scenes = QUICK["replicas"], QUICK["loads"], QUICK["scenes"]  # type: ignore[assignment]
        seeds, requests = QUICK["seeds"], QUICK["requests"]  # type: ignore[assignment]
    if "lost" in scenes and 1 in replicas:
        raise click.BadParameter("of a single replica none can be lost: give 2 or more", param_hint="--scene")
    part = Part.FIRST if tune else Part.REST if tuned else Part.WHOLE
    cells = [
        Cell(source.name, count, load, engine, scene, requests * count, part, source.path)
        for source in sources for engine in engines for scene in scenes for count in replicas for load in loads
    ]  # fmt: skip
    names = policies or list(CONTESTANTS)
    try:
        if tune:
            _tune(tune, cells, seeds, names, runs_path, processes)
            return
        field = _field(names, tuned)
        against = _base(base, field)
        runs = compare.arrange(_complete(grid.runs(cells, seeds, field), runs_path, processes), field)
    except KeyboardInterrupt:
        raise click.ClickException(_interrupted(runs_path)) from None
    report.show(report.console(), runs, against)
    if json_path:
        said(partial(report.keep, json_path, runs, against))
    if draw and png_path:
        said(partial(draw, png_path, runs, against))


def _field(policies: Sequence[str], tuned: Path | None) -> Field:
    """By label: each policy with its defaults, then with its tuned settings if there are others."""
    better = said(lambda: tuning.load(tuned)) if tuned else {}
    field: dict[str, tuple[str, dict[str, float]]] = {}
    for policy in policies:
        field[policy] = (policy, {})
        if policy in better:
            field[f"{policy}, tuned"] = (policy, better[policy])
    return field


def _base(base: str | None, field: Field) -> str:
    if base is None:
        return next(iter(field))
    if base not in field:
        raise click.BadParameter(f"{base} takes no part: give one of {'; '.join(field)}", param_hint="--base")
    return base


def _tune(
    path: Path, cells: list[Cell], seeds: int, policies: Sequence[str], runs_path: Path | None, processes: int
) -> None:
    results = _complete(tuning.runs(cells, seeds, policies), runs_path, processes)
    best = tuning.best(results)
    said(partial(tuning.keep, path, tuning.Tuning(best, cells, seeds)))
    for policy, found in best.items():
        settings = ", ".join(f"{name} {value:g}" for name, value in found.settings.items())
        score = f"{found.score:.3f} s instead of {found.default_score:.3f} s, {found.tried} tried"
        click.echo(f"{policy}: {settings} ({score})")


def _complete(runs: Sequence[Run], path: Path | None, processes: int) -> list[grid.Result]:
    """All results, with a line now and then on how far it is."""
    began = told = time.monotonic()

    def say(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= PATIENCE or done == len(runs):
            told = now
            _say(f"{done} of {len(runs)} runs, {now - began:.0f} s")

    results: list[grid.Result] = said(lambda: grid.complete(runs, path, processes, say))
    return results


def _interrupted(path: Path | None) -> str:
    return f"interrupted: {path} has the runs that ended" if path else "interrupted: nothing is kept without --runs"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _drawer() -> Callable[[Path, Runs, str], None]:
    """plot.draw; imported when it is needed, since matplotlib is an extra."""
    try:
        from scripts.simulation.plot import draw
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing: pip install -e '.[bench]'") from None
    return draw


if __name__ == "__main__":
    main()
