"""What is printed and kept of turns."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from scripts.policy_trial import report
from scripts.policy_trial.trial import arrange
from tests.scripts.policy_trial.runs import CELL, results

LABELS = ["least_work", "vllm-router:cache_aware"]
RESULTS = arrange([*results(LABELS[0], 1.0, 1.0), *results(LABELS[1], 2.0, 2.0)], LABELS)


def test_figures_differences_and_processes_are_shown():
    out = io.StringIO()
    report.show(Console(file=out, width=250), RESULTS, LABELS[0], {CELL: {LABELS[0]: results("x", 7.125)}}, ["a note"])
    text = out.getvalue()
    assert "2.0x" in text  # the other's TTFT
    assert "7.125" in text  # the prediction
    assert "a note" in text
    assert "doubt" not in text


def test_what_makes_figures_doubtful_is_said():
    disturbed = arrange(results("least_work", 1.0, late_p99=0.1, load_busy=0.9, others=0.5), LABELS)
    said = list(report.doubts(disturbed))
    assert len(said) == 3
    assert "0.100 s late" in said[0]
    assert "--time-scale" in said[1]
    assert "other processes" in said[2]


def test_everything_is_kept(tmp_path: Path):
    path = tmp_path / "all.json"
    report.keep(path, {"cpu": "x"}, RESULTS, LABELS[0], {CELL: {LABELS[0]: results("least_work", 7.0)}})
    whole = json.loads(path.read_text())
    assert whole["machine"] == {"cpu": "x"}
    assert len(whole["runs"]) == 4
    assert whole["predicted"][0]["figures"]["ttft_mean"] == 7.0
