"""scripts/simulate as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scripts.simulation.__main__ import main

SMALL = ("--replicas", "2", "--requests", "20", "--seeds", "2", "--processes", "1")


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    rows = [
        {
            "timestamp": 3000 * (number // 4),
            "input_length": 1100,
            "output_length": 9,
            "hash_ids": [0, number, 900 + number],
        }
        for number in range(40)
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_policies_are_compared_in_a_trace_and_a_generated_workload(tmp_path: Path, trace: Path):
    workloads = ("--workload", f"mine={trace}", "--workload", "shared_prefix")
    policies = ("--policy", "cache_aware", "--policy", "round_robin")
    told = call(*workloads, *policies, *SMALL, "--json", tmp_path / "all.json", "--runs", tmp_path / "runs")
    assert told.exit_code == 0, told.output
    assert "mine, 2 replicas, load 0.7" in told.output
    kept = json.loads((tmp_path / "all.json").read_text())
    assert kept["base"] == "cache_aware"
    assert len(kept["runs"]) == len((tmp_path / "runs").read_text().splitlines()) == 8


def test_tuned_settings_take_part_beside_the_defaults(tmp_path: Path, trace: Path):
    arguments = ("--workload", f"mine={trace}", "--policy", "cache_aware", *SMALL, "--seeds", "1")
    told = call(*arguments, "--tune", tmp_path / "tuned.json")
    assert told.exit_code == 0, told.output
    assert told.output.splitlines()[-1].startswith("cache_aware: balance_abs_threshold")
    tuned = json.loads((tmp_path / "tuned.json").read_text())
    assert {cell["part"] for cell in tuned["cells"]} == {"first"}
    tuned["policies"]["cache_aware"]["settings"]["balance_abs_threshold"] = 5
    (tmp_path / "tuned.json").write_text(json.dumps(tuned))
    told = call(*arguments, "--tuned", tmp_path / "tuned.json", "--json", tmp_path / "all.json")
    assert told.exit_code == 0, told.output
    kept = json.loads((tmp_path / "all.json").read_text())
    assert list(kept["cells"][0]["figures"]) == ["cache_aware", "cache_aware, tuned"]
    assert {run["run"]["cell"]["part"] for run in kept["runs"]} == {"rest"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workload", "poems"], "poems is none of"),
        (["--workload", "mine=nowhere.jsonl"], "nowhere.jsonl: No such file"),
        (["--workload", "agents=nowhere.jsonl"], "a name of its own"),
        (["--policy", "best"], "best"),
        (["--policy", "jsq", "--base", "smg"], "smg takes no part"),
        (["--engine", "tpu"], "tpu is none of"),
        (["--engine", "h100_8b,speed*2"], "NAME*FACTOR"),
        (["--load", "0"], "0"),
        (["--tuned", "nowhere.json"], "nowhere.json"),
        (["--replicas", "1", "--scene", "lost"], "lost"),
        (["--json", "no/folder/all.json"], "no/folder"),
        (["--png", "all.bmp"], "all.bmp must end in one of .png"),
    ],
)
def test_bad_input_ends_in_a_line_that_says_what_is_wrong(arguments: list[str], said: str):
    told = call(*arguments)
    assert told.exit_code in (1, 2)
    assert isinstance(told.exception, SystemExit)
    assert told.output.splitlines()[-1].startswith("Error: ")
    assert said in told.output.splitlines()[-1]
