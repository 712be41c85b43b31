"""Tuned settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.simulation import tuning
from scripts.simulation.contestants import CONTESTANTS, Contestant
from scripts.simulation.grid import Cell, Result, Run
from scripts.simulation.kept import GridError
from scripts.simulation.trace import Part

CELLS = [Cell("agents", 8, load, part=Part.FIRST) for load in (0.5, 0.9)]


@pytest.fixture(autouse=True)
def contestant(monkeypatch: pytest.MonkeyPatch) -> None:
    """One policy with a knob, one without."""
    made = {
        "knob": Contestant(lambda world, settings: None, {"k": 1, "fixed": 7}, [{"k": 1}, {"k": 2}, {"k": 3}]),  # type: ignore[arg-type,return-value]
        "plain": Contestant(lambda world, settings: None),  # type: ignore[arg-type,return-value]
    }
    for name in list(CONTESTANTS):
        monkeypatch.delitem(CONTESTANTS, name)
    for name, each in made.items():
        monkeypatch.setitem(CONTESTANTS, name, each)


def results(times: dict[float, tuple[float, float]], p99: float = 1.0) -> list[Result]:
    """`times`: by k, TTFT in each of the two cells. `p99`: the tail by the mean."""
    made = []
    for run in tuning.runs(CELLS, 1, ["knob", "plain"]):
        ttft = times[dict(run.settings)["k"]][CELLS.index(run.cell)]
        made.append(Result(run, {"ttft_mean": ttft, "ttft_p99": p99 * ttft}, "code"))
    return made


def test_every_setting_is_tried_once_in_every_cell_and_a_policy_without_any_is_not():
    runs = tuning.runs(CELLS, 2, ["knob", "plain"])
    assert len(runs) == len(set(runs)) == 3 * 2 * 2
    assert {run.policy for run in runs} == {"knob"}
    assert Run(CELLS[0], 1, "knob", (("fixed", 7), ("k", 1))) in runs


def test_the_best_is_so_by_the_geometric_mean_over_the_cells():
    best = tuning.best(results({1: (1.0, 10.0), 2: (0.5, 12.0), 3: (2.0, 6.0)}))
    assert best["knob"].settings == {"k": 2, "fixed": 7}
    assert best["knob"].score == pytest.approx(6**0.5)
    assert best["knob"].default_score == pytest.approx(10**0.5)
    assert best["knob"].tried == 3


def test_mean_and_p99_count_alike():
    times = {1: (1.0, 1.0), 2: (1.0, 1.0), 3: (1.0, 1.0)}
    assert tuning.best(results(times, p99=9.0))["knob"].score == pytest.approx(3)


def test_the_defaults_stay_where_nothing_is_better():
    assert tuning.best(results({1: (1.0, 1.0), 2: (1.0, 1.0), 3: (2.0, 2.0)}))["knob"].settings == {"k": 1, "fixed": 7}


def test_only_settings_that_are_not_the_defaults_are_read_back(tmp_path: Path):
    for k, read in ((2.0, {"knob": {"k": 2, "fixed": 7}}), (1.0, {})):
        file = tmp_path / f"{k}.json"
        tuned = tuning.Tuned({"k": k, "fixed": 7}, 1.0, 2.0, 3)
        tuning.keep(file, tuning.Tuning({"knob": tuned, "forgotten": tuned}, CELLS, 1))
        assert tuning.load(file) == read


def test_a_file_without_settings_is_refused_in_a_line(tmp_path: Path):
    (tmp_path / "no.json").write_text("{}")
    for name in ("no.json", "nowhere.json"):
        with pytest.raises(GridError, match=name):
            tuning.load(tmp_path / name)
