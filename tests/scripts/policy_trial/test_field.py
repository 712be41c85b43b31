"""Who can take part."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts.benchmark import contestants
from scripts.benchmark.program import Program
from scripts.policy_trial.field import PINNED, USUAL, field, wrong


@pytest.mark.parametrize("label", [*USUAL, "smg:power_of_two", PINNED])
def test_our_policies_and_those_of_peers_have_labels(label: str):
    assert wrong(label) is None


@pytest.mark.parametrize(
    ("label", "said"),
    [("best", "best is none of"), ("nginx:best", "ROUTER one of sglang-router"), ("smg:", "give ROUTER:POLICY")],
)
def test_a_wrong_label_is_told(label: str, said: str):
    assert said in (wrong(label) or "")


def test_who_is_not_installed_is_named_with_how_to_install_it(tmp_path: Path):
    found, notes = field(["least_work", "smg:cache_aware"], Program(sys.executable), None, tmp_path)
    assert list(found) == ["least_work"]
    assert notes[0].startswith("smg:cache_aware: does not take part;")
    assert "pip install smg" in notes[0]


def test_a_policy_of_ours_is_started_with_its_name(tmp_path: Path):
    found, _ = field(["round_robin"], Program(sys.executable), None, tmp_path)
    contestant = found["round_robin"]
    assert contestant is not None
    words = contestant.command(1, ["http://w"], tmp_path)
    assert words[words.index("--policy") + 1] == "round_robin"


def test_pinned_is_nobody_to_be_started(tmp_path: Path):
    assert field([PINNED], Program(sys.executable), None, tmp_path) == ({PINNED: None}, [])


def test_peers_are_as_they_are_by_default_but_for_the_policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(contestants, "_version", lambda python, distribution: "1.0")
    found, _ = field(["smg:power_of_two"], Program(sys.executable), "python", tmp_path)
    contestant = found["smg:power_of_two"]
    assert contestant is not None
    words = contestant.command(1, ["http://w"], tmp_path)
    assert words[words.index("--policy") + 1] == "power_of_two"
    assert "--disable-load-monitoring" not in words
