"""Figures that only real processes have."""

from __future__ import annotations

import pytest

from scripts.policy_trial.cell import stage
from scripts.policy_trial.counters import Counters
from scripts.policy_trial.figures import figures, imbalance, rate
from scripts.policy_trial.player import Played
from scripts.simulation.world import Outcome
from tests.scripts.policy_trial.runs import CELL


def test_the_busiest_engine_is_the_one_that_computes_for_the_longest():
    alike = [Counters(100, 20), Counters(100, 20)]
    assert imbalance(alike, [1.0, 1.0]) == 1.0
    assert imbalance(alike, [0.5, 1.0]) == pytest.approx(160 / 120)
    assert imbalance([Counters(100, 100), Counters(100, 20)], [1.0, 1.0]) == 2.0
    assert imbalance([Counters(0, 0)] * 2, [1.0, 1.0]) == 1.0


def test_counters_are_taken_from_the_turn_alone():
    assert Counters(110, 30).since(Counters(10, 10)) == Counters(100, 20)


def test_the_rate_is_of_the_requests_that_were_answered():
    job = stage(CELL, 1).offer.workload.jobs[0]
    answered = [Outcome(job, at, at, "w0", at + 1, at + 2) for at in (1.0, 3.0)]
    lost = Outcome(job, 2.0, 2.0, "w0", end=9.0, failed=True)
    assert rate(Played([*answered, lost])) == 2 / 4
    assert rate(Played([lost])) == 0.0


def test_hits_are_those_of_the_requests_that_count():
    made = stage(CELL, 1)
    played = Played(late=[0.0, 0.5])
    for job in made.offer.workload.jobs:
        played.outcomes.append(Outcome(job, 0.0, 0.0, "w0", 1.0, 2.0, cached=job.prompt // 2))
    seen = figures(made, played, [Counters(100, 25), Counters(300, 75)], [1.0, 1.0])
    assert seen["hit"] == pytest.approx(0.5, abs=0.01)
    assert seen["engines_hit"] == 0.25
    assert seen["imbalance"] == 1.5
    assert seen["ttft_mean"] == 1.0
    assert seen["late_p99"] == pytest.approx(0.495)
    assert seen["failed"] == 0.0
