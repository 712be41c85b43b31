"""How long one turn of the router's event loop can take, with the prefix index full."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from scripts.benchmark.bench import Bench
from scripts.benchmark.processes import ROUTER_CPU, Child
from scripts.benchmark.program import Program

SHARE, SHARE_QUICK = 1.0, 0.2
# Run without its folder on the path, for there the router would be found that is not installed.
RUN = f"import runpy; runpy.run_path({str(Path(__file__).parents[1] / 'pauses.py')!r}, run_name='__main__')"


def pauses(bench: Bench) -> dict[str, Any]:
    """The real data plane over transports that only remember: see scripts/benchmark/pauses.py, one process per round.

    Figures: {"runs": [{scenario: {"worst" in ms of CPU time, "longest": [[ms, what], ...], ...}} for each round]}.
    """
    if bench.program is None:
        return {}
    runs = []
    for number in range(bench.settings.rounds):
        runs.append(_run(bench.program, bench.folder, SHARE_QUICK if bench.settings.quick else SHARE))
        for scenario, told in runs[-1].items():
            worst, what = told["longest"][0]
            bench.say(f"pauses {number + 1} {scenario}: {worst:.2f} ms, {what}")
    return {"runs": runs}


def _run(program: Program, folder: Path, share: float) -> dict[str, Any]:
    command = program.command("-c", RUN, str(share))
    child = Child(command, ROUTER_CPU, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=program.env, cwd=folder)
    try:
        told, complaint = child.process.communicate()
    finally:
        child.stop()
    if child.process.returncode:
        raise RuntimeError((complaint.decode(errors="replace").strip().splitlines() or ["no word from it"])[-1])
    return json.loads(told)
