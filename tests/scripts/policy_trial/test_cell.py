"""Cells in real time are the simulator's cells."""

from __future__ import annotations

import dataclasses

from scripts.policy_trial.cell import SCENES, Cell, simulated, speeds, stage
from scripts.simulation import grid
from tests.scripts.policy_trial.runs import CELL


def test_a_stage_is_that_of_the_simulators_cell():
    offer, counted, _ = grid.stage(simulated(CELL), 1)
    made = stage(CELL, 1)
    assert made.offer is offer
    assert made.counted is counted
    assert made.time_scale == CELL.time_scale


def test_a_slow_engine_is_the_first_one():
    assert speeds(Cell("no_reuse", 3, 0.7, scene="slow")) == [0.5, 1.0, 1.0]
    assert speeds(CELL) == [1.0, 1.0]


def test_in_the_scenes_that_are_played_the_fleet_stays_as_it_is():
    assert all(grid.SCENES[scene].change is None for scene in SCENES)


def test_cells_of_other_paces_are_others():
    assert dataclasses.replace(CELL, time_scale=2.0) != CELL
    assert str(CELL).endswith("0.1 s a second")
