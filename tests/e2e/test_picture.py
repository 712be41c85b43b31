"""The picture of the dashboard can be drawn again, and shows a node that serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e import browser, picture

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not browser.CHROMIUM, reason="there is no Chromium here: apt install chromium"),
]
KEPT = Path(__file__).parents[2] / "scripts" / "howto" / "dashboard.png"
PNG = b"\x89PNG\r\n\x1a\n"


def size(png: bytes) -> tuple[int, int]:
    """Width and height, pixels: the first chunk's."""
    assert png.startswith(PNG)
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


async def test_the_dashboard_is_drawn_while_workers_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "SHOWN", 1.0)
    monkeypatch.setattr(picture, "PEOPLE", 4)
    shows: list[str] = []
    shot = browser.Page.shot

    async def look(page: browser.Page, *args: object, **options: bool) -> None:
        shows.append(await page.run("document.body.innerText"))
        await shot(page, *args, **options)

    monkeypatch.setattr(browser.Page, "shot", look)
    await picture.draw(tmp_path / "drawn.png", tmp_path)
    assert "4 of 4 workers ready" in shows[0]
    assert size((tmp_path / "drawn.png").read_bytes()) == (picture.WIDTH, picture.HEIGHT)


def test_the_one_that_is_kept_is_small_enough_for_a_page() -> None:
    kept = KEPT.read_bytes()
    assert size(kept) == (picture.WIDTH, picture.HEIGHT)
    assert len(kept) < 200_000
