"""The grid of runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.simulation import grid
from scripts.simulation.costs import ENGINES
from scripts.simulation.grid import SCENES, Cell, Result, Run
from scripts.simulation.kept import GridError

CELL = Cell("shared_prefix", 2, 0.7, requests=40)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """What was simulated; nothing really is."""
    seen: list[Run] = []

    def simulate(run: Run) -> Result:
        seen.append(run)
        return Result(run, {"hit": run.seed / 3, "tpot_mean": None}, "code")

    monkeypatch.setattr(grid, "simulate", simulate)
    return seen


def complete(runs: list[Run], path: Path | None) -> list[Result]:
    return grid.complete(runs, path, 1, lambda done: None)


def test_every_policy_meets_every_seed_of_every_cell():
    field = {"jsq": ("jsq", {}), "smg, tuned": ("smg", {"rel": 2.0, "abs": 1.0})}
    made = grid.runs([CELL], 2, field)
    assert [(run.seed, run.policy, run.settings) for run in made] == [
        (1, "jsq", ()),
        (1, "smg", (("abs", 1.0), ("rel", 2.0))),
        (2, "jsq", ()),
        (2, "smg", (("abs", 1.0), ("rel", 2.0))),
    ]


def test_what_a_file_has_is_not_run_again(tmp_path: Path, simulated: list[Run]):
    runs = [Run(CELL, seed, "jsq", (("k", 2.0),)) for seed in (1, 2, 3)]
    first = complete(runs[:2], tmp_path / "runs")
    again = complete(runs, tmp_path / "runs")
    assert simulated == runs
    assert again[:2] == first


def test_a_line_that_was_cut_off_is_run_again(tmp_path: Path, simulated: list[Run]):
    file, runs = tmp_path / "runs", [Run(CELL, seed, "jsq") for seed in (1, 2)]
    complete(runs, file)
    file.write_bytes(file.read_bytes()[:-9])
    complete(runs, file)
    assert simulated == [*runs, runs[1]]
    assert [result.run for result in complete(runs, file)] == runs
    assert len(simulated) == 3


@pytest.mark.parametrize("text", ["my diary\nmy secret", "my diary\n", "my secret"])
def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path, simulated: list[Run], text: str):
    file = tmp_path / "runs"
    file.write_text(text)
    with pytest.raises(GridError, match="runs is no file of runs"):
        complete([Run(CELL, 1, "jsq")], file)
    assert file.read_text() == text


def test_a_constant_of_an_engine_can_be_changed():
    changed = grid.engine("h100_8b,token*2,kv_tokens*0.5")
    assert changed.token == 2 * ENGINES["h100_8b"].token
    assert (changed.kv_tokens, type(changed.kv_tokens)) == (210_500, int)
    for wrong in ("tpu", "h100_8b,tokens*2", "h100_8b,token", "h100_8b,prefill*2", "h100_8b,token*-1"):
        with pytest.raises(GridError, match=wrong.partition(",")[2].replace("*", r"\*") or wrong):
            grid.engine(wrong)


def test_the_load_is_that_of_the_smaller_fleet():
    about = {name: (scene.workers(8), scene.power(8)) for name, scene in SCENES.items()}
    assert about == {
        "steady": (8, 8),
        "slow": (8, 7.5),
        "join": (9, 8),
        "lost": (7, 7),
        "whole": (8, 8),
        "untold": (8, 8),
        "two_routers": (8, 8),
        "four_routers": (8, 8),
        "wide": (8, 8),
    }


def test_what_is_measured_begins_with_the_change():
    small = "h100_8b,kv_tokens*0.01"  # its caches are full long before
    offer, counted, scene = grid.stage(Cell("no_reuse", 2, 0.7, small, "join", requests=60), 1)
    (change,) = scene.changes
    assert (change.worker, change.what) == (2, "join")
    assert change.at == pytest.approx(offer.span / 3)
    assert min(job.arrival for job in counted.jobs) >= change.at


@pytest.mark.parametrize("scene", SCENES)
def test_a_run_gives_every_figure(scene: str):
    cell = Cell("agents", 3, 0.7, scene=scene, requests=200)
    result = grid.simulate(Run(cell, 1, "round_robin"))
    assert {name for name, value in result.figures.items() if value is None} == set()
    assert 0 < result.figures["hit"] < result.figures["infinite"]  # type: ignore[operator]
    assert 0 < result.figures["ttft_p50"] <= result.figures["ttft_p99"]  # type: ignore[operator]


def test_equal_seeds_give_equal_figures_whatever_ran_before():
    run = Run(CELL, 1, "cache_aware")
    first = grid.simulate(run)
    grid.simulate(Run(CELL, 1, "round_robin"))
    assert grid.simulate(run) == first
    assert grid.simulate(Run(CELL, 2, "cache_aware")).figures != first.figures


def test_affinity_finds_more_in_the_caches_than_turns_do():
    hits = {policy: grid.simulate(Run(CELL, 1, policy)).figures["hit"] for policy in ("cache_aware", "round_robin")}
    assert hits["cache_aware"] > hits["round_robin"]  # type: ignore[operator]
