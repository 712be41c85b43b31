"""Runs the cases and prints the table: `python -m tests.chaos [--short] [CASE ...]`. Exit status 1 when one failed."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time

from tests.chaos.cases import CASES
from tests.chaos.world import Figure, World, run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="small sizes, and times are shown but not judged")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    options = parser.parse_args()
    unknown = [name for name in options.cases if name not in CASES]
    if unknown:
        parser.error(f"{unknown[0]} is not a case: choose from {', '.join(CASES)}")
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup, it would be in all that is started here, too
    print(f"{'':52}{'measured':>12}{'goal':>14}")
    failed = [name for name in options.cases or CASES if not _one(name, not options.short)]
    print(f"\n{'failed: ' + ', '.join(failed) if failed else 'all passed'}")
    return bool(failed)


def _one(name: str, full: bool) -> bool:
    began = time.monotonic()
    world = asyncio.run(run(CASES[name], full))
    passed = all(figure.met for figure in world.figures)
    print(f"\n{CASES[name].title}  [{name}, {time.monotonic() - began:.0f} s]")
    _print(world, passed)
    return passed


def _print(world: World, passed: bool) -> None:
    quiet = [figure for figure in world.figures if figure.rest]
    folded = quiet if quiet and all(figure.met for figure in quiet) else []
    for figure in (figure for figure in world.figures if figure not in folded):
        print(f"  {figure.what[:120]:<50}{_value(figure):>12}{_goal(figure):>14}  {_verdict(figure)}")
    if folded:
        print("  quiet afterwards: " + ", ".join(f"{figure.what} {_value(figure)}" for figure in folded))
    for note in [] if passed else world.notes:
        print(f"    | {note[:1500]}")
    sys.stdout.flush()


def _value(figure: Figure) -> str:
    number = f"{figure.value:.3f}" if figure.unit == "s" else f"{figure.value:g}"
    return f"{number} {figure.unit}".strip()


def _goal(figure: Figure) -> str:
    return f"{'>=' if figure.least else '<='} {figure.goal:g} {figure.unit}".strip()


def _verdict(figure: Figure) -> str:
    return "pass" if figure.met and figure.judged else "shown" if figure.met else "FAIL"


if __name__ == "__main__":
    sys.exit(main())
