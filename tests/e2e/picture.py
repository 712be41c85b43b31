"""Draws the dashboard: sim engines under conversations for a minute and a half, and a picture of what Chromium shows.

python -m tests.e2e.picture scripts/howto/dashboard.png
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

import aiohttp

from tests.e2e import browser
from tests.e2e.commands import Command, gone, state_folder

SHOWN = 90.0  # seconds of conversations before the picture
PEOPLE = 48
WIDTH, HEIGHT = 1180, 640
ENGINES = ("--engine", "sim", "--model-path", "llama-3.1-8b", "--dp-size", "4", "--port", "0")


async def draw(path: Path, folder: Path) -> None:
    node = await Command.start("launch", *ENGINES, **state_folder(folder))
    try:
        await node.ready(4)
        await under_load(node.url, path, folder / "profile")
    finally:
        family = node.family()
        await node.stop()
        await gone(family)


async def under_load(url: str, path: Path, profile: Path) -> None:
    process, address = browser.start(profile)
    talks = [asyncio.create_task(talk(url, random.Random(n))) for n in range(PEOPLE)]
    try:
        async with aiohttp.ClientSession() as session:
            page = await browser.Page.open(await session.ws_connect(address, max_msg_size=0), url + "/")
            await page.size(WIDTH, HEIGHT)
            await page.tell("Emulation.setScrollbarsHidden", hidden=True)
            await asyncio.sleep(SHOWN)
            await page.shot(path, whole=False)
            await page.close()
    finally:
        for each in talks:
            each.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def talk(url: str, rng: random.Random) -> None:
    """Conversations one after the other: each turn has all that was said before."""
    async with aiohttp.ClientSession() as session:
        while True:
            said = f"You are assistant {rng.randrange(6)}. " + "Answer briefly and to the point. " * 60
            for turn in range(rng.randrange(2, 9)):
                said += f" Question {turn} of {rng.random()}: " + "and what about this? " * rng.randrange(5, 60)
                body = {"text": said, "stream": True, "sampling_params": {"max_new_tokens": rng.randrange(40, 240)}}
                async with session.post(url + "/generate", json=body) as answer:
                    await answer.read()
                await asyncio.sleep(rng.uniform(0, 3))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(draw(Path(sys.argv[1]), Path(name)))
