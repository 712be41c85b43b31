"""The short form of the chaos suite: the cheap cases, small, with no time judged. `scripts/chaos` runs all of it."""

from __future__ import annotations

import pytest

from tests.chaos.cases import CASES
from tests.chaos.world import Case, run

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.short], ids=lambda case: case.name)
async def test_what_a_case_says_holds(case: Case) -> None:
    world = await run(case, full=False)
    missed = [f"{figure.what}: {figure.value:g}, goal {figure.goal:g}" for figure in world.figures if not figure.met]
    assert missed == [], world.notes
    assert world.figures != []
