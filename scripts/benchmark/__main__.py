"""The command: options -> contestants -> cases -> table, JSON and plot. Whatever it starts, it stops."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from scripts.benchmark import contestants, goals, machine, report
from scripts.benchmark.bench import QUICK, Bench, Settings
from scripts.benchmark.cases import CASES
from scripts.benchmark.contestants import NAMES, OURS
from scripts.benchmark.processes import LOAD_CPU, interruptible
from scripts.policy_trial.command import obtain, policies

INTERRUPTED = "interrupted: only the cases that were complete"


def _listed(known: Sequence[str]) -> Any:
    """A click callback for a comma-separated choice among `known`; none given: all."""

    def read(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str]:
        chosen = value.split(",") if value else list(known)
        for name in chosen:
            if name not in known:
                raise click.BadParameter(f"{name} is none of {', '.join(known)}")
        return chosen

    return read


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--cases", metavar="A,B", callback=_listed(list(CASES)), help=f"Some of {', '.join(CASES)}.")
@click.option("--only", metavar="A,B", callback=_listed(NAMES), help=f"Some of {', '.join(NAMES)}.")
@click.option("--secs", type=click.IntRange(1), default=5, show_default=True, help="Length of one measurement.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Measurements; the median counts.")
@click.option("--quick", is_flag=True, help="Everything, very short: shows that it works, not how fast it is.")
@click.option(
    "--router", metavar="PYTHON", envvar="BENCH_ROUTER", type=click.Path(exists=True, dir_okay=False),
    help="The Python whose llm-launch is measured. By default this checkout is built, as it would be installed.",
)  # fmt: skip
@click.option(
    "--peers", metavar="PYTHON", envvar="BENCH_PEERS", type=click.Path(exists=True, dir_okay=False),
    help="The Python that has sglang-router, vllm-router and smg installed. Also by BENCH_PEERS.",
)  # fmt: skip
@click.option(
    "--policy", metavar="NAME", default=contestants.POLICY, show_default=True,
    help="Of the router that is measured; its peers have this one.",
)  # fmt: skip
@click.option("--json", "json_path", metavar="FILE", type=click.Path(path_type=Path), help="Keep all figures here.")
@click.option("--png", "png_path", metavar="FILE", type=click.Path(path_type=Path), help="Draw them here.")
@click.pass_context
def main(
    context: click.Context, cases: list[str], only: list[str], secs: int, rounds: int, quick: bool,
    router: str | None, peers: str | None, policy: str, json_path: Path | None, png_path: Path | None,
) -> None:  # fmt: skip
    """Measure the router beside its peers, and print which goals are met. How to read it: scripts/README.md."""
    if context.invoked_subcommand:
        return
    if machine.cpus() < 2:
        raise click.ClickException("two CPUs are needed: one for the router, one for the load")
    draw = _drawer() if png_path else None
    settings = QUICK if quick else Settings(secs, rounds)
    others, notes = contestants.find(peers)
    field = [contestant for contestant in others if contestant.name in only]
    notes = [note for note in notes if note.partition(":")[0] in only]
    if quick:
        notes.append("quick: every figure is too short to judge by")
    with tempfile.TemporaryDirectory(prefix="bench-") as name, interruptible():
        folder = Path(name)
        program = obtain(router, folder, _say) if OURS in only else None
        if program is not None:
            field.insert(0, contestants.ours(program, folder, policy))
        about = machine.describe(field)
        figures = _measure(cases, Bench(settings, field, program, folder, _say), notes)
    rows = goals.rows(figures)
    report.show(report.console(), rows, [*notes, *report.noise(figures)])
    if json_path:
        report.keep(json_path, about, asdict(settings), figures, rows)
    if draw and png_path:
        draw(png_path, _title(about), list(about["versions"]), figures)
    if INTERRUPTED in notes:
        sys.exit(130)


main.add_command(policies)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _drawer() -> Callable[[Path, str, Sequence[str], dict[str, Any]], None]:
    """plot.draw; imported when it is needed, since matplotlib is an extra."""
    try:
        from scripts.benchmark.plot import draw
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing: pip install -e '.[bench]'") from None
    return draw


def _title(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"{about['cpu']}, Linux {about['kernel']}, Python {about['python']}, {about['date'][:10]}: {versions}"


def _measure(cases: Sequence[str], bench: Bench, notes: list[str]) -> dict[str, Any]:
    """Each case's figures. A case that fails is noted and left out; Ctrl-C ends all and keeps what there is."""
    os.sched_setaffinity(0, {LOAD_CPU})
    figures: dict[str, Any] = {}
    try:
        for name in cases:
            lacking = machine.missing(CASES[name].tools)
            notes += [f"{name}: not measured; {tool} is missing: {how}" for tool, how in lacking.items()]
            if lacking:
                continue
            try:
                figures[name] = CASES[name].measure(bench)
            except RuntimeError as error:
                notes.append(f"{name}: not measured; {error}")
    except KeyboardInterrupt:
        notes.append(INTERRUPTED)
    finally:
        bench.close()
    return figures


if __name__ == "__main__":
    main()
