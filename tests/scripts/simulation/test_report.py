"""What is printed and kept."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from scripts.simulation import report
from scripts.simulation.compare import Runs
from scripts.simulation.grid import Cell
from scripts.simulation.intervals import Estimate
from tests.scripts.simulation.runs import runs

LOW, HIGH = Cell("agents", 8, 0.5), Cell("agents", 8, 0.9)
RUNS = runs({LOW: {"ours": [1.0, 1.0], "jsq": [0.5, 0.5]}, HIGH: {"ours": [1.0, 1.0], "jsq": [2.0, 2.0]}})


def shown(made: Runs) -> str:
    out = Console(file=io.StringIO(), width=report.WIDTH)
    report.show(out, made, "ours")
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def test_every_cell_every_policy_and_every_loss_is_shown():
    text = shown(RUNS)
    assert "agents, 8 replicas, load 0.5, h100_8b, steady" in text
    assert "agents, 8 replicas, loads 0.5, 0.9, h100_8b, steady" in text
    assert text.count("jsq") == 5  # two cells, all cells, the limits, a loss
    assert "losses of ours: 1 in 1 cells, 1 of them with an interval that excludes 0" in text
    assert "sure   agents, 8 replicas, load 0.5, h100_8b, steady: jsq has -50.0% [-50.0, -50.0] mean TTFT" in text
    assert "…" not in text


def test_few_seeds_are_said_to_say_little():
    assert "one seed only" in shown(runs({LOW: {"ours": [1.0], "jsq": [0.5]}}))
    assert "2 seeds only" in shown(RUNS)
    assert "seeds only" not in shown(runs({LOW: {"ours": [1.0] * 5, "jsq": [0.5] * 5}}))


def test_runs_of_several_versions_are_told():
    mixed = runs({LOW: {"ours": [1.0] * 5}})
    assert list(report.notes(mixed)) == []
    object.__setattr__(mixed[LOW]["ours"][0], "code", "older")
    assert list(report.notes(mixed)) == ["note: these runs were made by 2 versions of the program"]


@pytest.mark.parametrize(
    ("estimate", "said"),
    [
        (Estimate(-0.123, -0.2, 0.01), "-12.3% [-20.0, +1.0]"),
        (Estimate(0.05), "+5.0%"),
        (Estimate(1.5, 1.3, 1.6), "2.5x [2.3, 2.6]"),
    ],
)
def test_a_change_is_said_in_short(estimate: Estimate, said: str):
    assert report.change(estimate) == said


def test_everything_is_kept(tmp_path: Path):
    report.keep(tmp_path / "all.json", RUNS, "ours")
    kept = json.loads((tmp_path / "all.json").read_text())
    assert kept["base"] == "ours"
    assert [cell["cell"]["load"] for cell in kept["cells"]] == [0.5, 0.9]
    assert kept["cells"][1]["figures"]["jsq"]["ttft_mean"] == 2
    assert kept["cells"][0]["differences"]["jsq"]["ttft_mean"]["value"] == pytest.approx(-0.5)
    assert kept["overall"]["all cells"]["jsq"]["ttft_mean"]["value"] == pytest.approx(0)
    assert kept["limits"][0]["limits"]["ours"] == {"0.9": None, "0.99": None}
    assert [loss["policy"] for loss in kept["losses"]] == ["jsq"]
    assert len(kept["runs"]) == 8
