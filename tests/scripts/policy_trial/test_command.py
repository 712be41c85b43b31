"""scripts/bench policies as it is called."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scripts.benchmark import machine
from scripts.benchmark.__main__ import main

needs_machine = pytest.mark.skipif(
    machine.cpus() < 2 or shutil.which("taskset") is None, reason="two CPUs and taskset are needed"
)


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["policies", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--policy", "best"), "best is none of"),
        (("--workload", "nothing"), "nothing is none of"),
        (("--engine", "h200"), "engine h200 is none of"),
        (("--scene", "join"), "'join' is not one of"),
        (("--engine", "llama_cpp", "--engine", "h100_8b"), "llama_cpp has a workload of its own"),
    ],
)
def test_bad_input_is_told_in_a_line(arguments: tuple[str, ...], said: str):
    told = call(*arguments)
    assert told.exit_code
    assert said in told.output
    assert "Traceback" not in told.output


@needs_machine
@pytest.mark.e2e
def test_policies_of_a_running_router_are_compared(tmp_path: Path):
    short = ("--workload", "no_reuse", "--requests", "10", "--replicas", "2", "--rounds", "1", "--time-scale", "0.1")
    contestants = ("--policy", "least_work", "--policy", "round_robin", "--router", sys.executable)
    told = call(*short, *contestants, "--runs", tmp_path / "runs", "--json", tmp_path / "all.json")
    assert told.exit_code == 0, told.output
    assert "failed" in told.output
    assert len((tmp_path / "runs").read_text().splitlines()) == 2
    assert '"failed": 0.0' in (tmp_path / "all.json").read_text()
