"""Questions to workers: bounded, and clear about what went wrong."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import aiohttp
import pytest
from aiohttp.test_utils import unused_port

from router import ask as module
from router.ask import TimedOut, Unreachable, ask
from tests.router.engines import Engine
from tests.router.world import left_to_collect


async def question(url: str) -> bytes:
    async with aiohttp.ClientSession() as session:
        return (await ask(session, "GET", url, timeout=1.0)).body


async def test_an_answer_that_does_not_end_is_cut_off(monkeypatch):
    monkeypatch.setattr(module, "MAX_REPLY", 1000)
    async with Engine({"/fits": "x" * 1000, "/page": "x" * 1001}) as engine:
        assert len(await question(engine.url + "/fits")) == 1000
        with pytest.raises(Unreachable, match="answer longer than 1000 bytes"):
            await question(engine.url + "/page")


async def test_a_closed_port_is_a_refused_connection():
    with pytest.raises(Unreachable, match=r"^connection refused$"):
        await question(f"http://127.0.0.1:{unused_port()}/")


async def test_a_connection_that_does_not_come_about_is_not_a_slow_answer():
    class Stuck:
        def request(self, *args: object, **options: object) -> None:
            raise aiohttp.ConnectionTimeoutError

    with pytest.raises(Unreachable, match=r"^no connection within 2 s$") as refused:
        await ask(Stuck(), "GET", "http://worker1/", timeout=5.0)
    assert not isinstance(refused.value, TimedOut)


async def test_a_worker_that_talks_nonsense_is_not_quoted():
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SECRET nonsense\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    with pytest.raises(Unreachable, match=r"^connection broke \(\w+\)$"):
        await question(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    server.close()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/health", "http://127.0.0.1:{port}/health"], ids=["refused", "mute"]
)
async def test_a_question_that_fails_leaves_nothing_that_must_be_collected(url: str):
    mute = socket.create_server(("127.0.0.1", 0), backlog=50)
    url = url.format(port=mute.getsockname()[1])
    async with aiohttp.ClientSession() as session:

        async def fail(times: int) -> None:
            for _ in range(times):
                with contextlib.suppress(Unreachable):
                    await ask(session, "GET", url, timeout=0.01)
            await asyncio.sleep(0.01)

        assert await left_to_collect(fail) < 100  # 79 objects each, when nothing is done about it
    mute.close()
