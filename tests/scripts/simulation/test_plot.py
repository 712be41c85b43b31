"""The picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.simulation.grid import Cell
from tests.scripts.simulation.runs import runs

plot = pytest.importorskip("scripts.simulation.plot", exc_type=ImportError)


def test_each_sweep_has_a_row_and_each_policy_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept = []
    monkeypatch.setattr(plot.pyplot, "close", kept.append)
    cells = [Cell("agents", 8, 0.5), Cell("agents", 8, 0.9), Cell("no_reuse", 8, 0.9)]
    plot.draw(tmp_path / "it.png", runs({cell: {"ours": [1.0], "jsq": [2.0]} for cell in cells}), "ours")
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = kept
    monkeypatch.undo()
    plot.pyplot.close(figure)
    assert len(figure.axes) == 6
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[0.5, 0.9], [0.5, 0.9]]
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[1, 1], [2, 2]]
