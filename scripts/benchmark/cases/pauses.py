"""How long one turn of the router's event loop can take, with the prefix index full."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from scripts.benchmark.bench import Bench
from scripts.benchmark.contestants import ROOT
from scripts.benchmark.processes import ROUTER_CPU, Child

SHARE, SHARE_QUICK = 1.0, 0.2


def pauses(bench: Bench) -> dict[str, Any]:
    """The real data plane over transports that only remember: see scripts/benchmark/pauses.py, one process per round.

    Figures: {"runs": [{scenario: {"worst" in ms of CPU time, "longest": [[ms, what], ...], ...}} for each round]}.
    """
    if bench.ours() is None:
        return {}
    runs = []
    for number in range(bench.settings.rounds):
        runs.append(_run(SHARE_QUICK if bench.settings.quick else SHARE))
        for scenario, told in runs[-1].items():
            worst, what = told["longest"][0]
            bench.say(f"pauses {number + 1} {scenario}: {worst:.2f} ms, {what}")
    return {"runs": runs}


def _run(share: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "scripts.benchmark.pauses", str(share)]
    child = Child(command, ROUTER_CPU, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    try:
        told, complaint = child.process.communicate()
    finally:
        child.stop()
    if child.process.returncode:
        raise RuntimeError((complaint.decode(errors="replace").strip().splitlines() or ["no word from it"])[-1])
    return json.loads(told)
