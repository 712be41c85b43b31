"""Server-sent events of the dashboard: what they hold, who gets them, and that nothing is left of who looked."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import aiohttp
import pytest

from router.api import board
from router.fleet import State
from router.parts import DeviceUse
from tests.router.engines import until

EVENTS = "/events"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(board, "PERIOD", 0.01)


def of(plane) -> board.Board:
    return plane.client.server.app[board.BOARD]


async def event(answer: aiohttp.ClientResponse) -> tuple[str, Any]:
    """The next event's name and data."""
    lines = (await answer.content.readuntil(b"\n\n")).decode().splitlines()
    name, data = (line.partition(": ")[2] for line in lines[:2])
    return name, json.loads(data)


async def test_the_last_minutes_come_first_and_then_snapshots(control):
    plane = await control(policy="round_robin")
    worker = plane.lay("http://worker1:1", devices=("0",))
    await until(lambda: len(of(plane).history.samples) >= 3)
    async with plane.client.get(EVENTS) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        name, first = await event(answer)
        assert (name, first["policy"]) == ("history", "round_robin")
        assert len(first["samples"]) >= 3
        name, snapshot = await event(answer)
        row = snapshot["workers"][0]
        assert (name, row["id"], row["state"], row["launched"]) == ("snapshot", "w0", "ready", True)
        plane.fleet.set_lifecycle(worker, State.FAILED)
        while snapshot["workers"][0]["state"] != "failed":
            _, snapshot = await event(answer)
        assert snapshot["sample"]["workers"] == {"w0": [0] * 7}


async def test_a_worker_from_elsewhere_is_shown_as_such(control):
    plane = await control()
    plane.lay("http://worker1:1", handle=None)
    async with plane.client.get(EVENTS) as answer:
        await event(answer)
        assert (await event(answer))[1]["workers"][0]["launched"] is False


async def test_of_who_has_looked_nothing_is_left(control):
    plane = await control()
    answers = [await plane.client.get(EVENTS) for _ in range(3)]
    assert of(plane).watchers == 3
    for answer in answers:
        answer.close()
    await until(lambda: of(plane).watchers == 0)


async def test_no_snapshot_is_made_while_nobody_looks(control, monkeypatch):
    plane = await control()
    made = []
    monkeypatch.setattr(board.Board, "_snapshot", lambda self, sample: made.append(sample) or b"")
    count = len(of(plane).history.samples)
    await until(lambda: len(of(plane).history.samples) >= count + 3)
    assert made == []
    async with plane.client.get(EVENTS):
        await until(lambda: len(made) >= 3)


async def test_the_end_of_the_router_ends_the_events(control):
    plane = await control()
    async with plane.client.get(EVENTS) as answer:
        await event(answer)
        closing = asyncio.ensure_future(plane.client.server.close())
        assert await asyncio.wait_for(answer.content.read(), 10) is not None
        await closing


async def test_one_who_reads_nothing_is_cut_off(control, monkeypatch):
    monkeypatch.setattr(board, "PATIENCE", 0.05)
    monkeypatch.setattr(board.Board, "_snapshot", lambda self, sample: b" " * 1_000_000)
    plane = await control()
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.client.port, limit=1024)
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await until(lambda: of(plane).watchers == 1)
    await until(lambda: of(plane).watchers == 0)
    writer.close()
    del reader


async def test_what_gpus_do_is_asked_in_a_thread_and_only_when_somebody_looks(control):
    plane = await control()
    plane.lay("http://worker1:1", devices=("0", "1"))
    asked: list[set[str]] = []

    def devices(names):
        asked.append(set(names))
        assert threading.current_thread() is not threading.main_thread()
        return {"1": DeviceUse(40, 80, 0.5)}

    plane.parts.devices = devices
    count = len(of(plane).history.samples)
    await until(lambda: len(of(plane).history.samples) >= count + 3)
    assert asked == []
    async with plane.client.get(EVENTS) as answer:
        use: dict[str, Any] = {}
        while not use:
            _, data = await event(answer)
            use = data["workers"][0]["device_use"] if "workers" in data else {}
    assert use == {"1": [40, 80, 0.5]}
    assert asked[0] == {"0", "1"}


async def test_a_driver_that_does_not_answer_holds_nothing_up(control):
    plane = await control()
    plane.lay("http://worker1:1", devices=("0",))
    hung, asked = threading.Event(), []

    def devices(names):
        asked.append(names)
        hung.wait(10)
        return {}

    plane.parts.devices = devices
    try:
        async with plane.client.get(EVENTS) as answer:
            for _ in range(5):
                await event(answer)
        assert len(asked) == 1
    finally:
        hung.set()


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 401), ({"Authorization": "Bearer wrong"}, 401), ({"Authorization": "Bearer k"}, 200)]
)
async def test_it_takes_the_admin_key(control, headers, status):
    plane = await control(admin_api_key="k", api_key="other")
    async with plane.client.get(EVENTS, headers=headers) as answer:
        assert answer.status == status


async def test_another_sites_page_gets_none(control):
    plane = await control()
    async with plane.client.get(EVENTS, headers={"Sec-Fetch-Site": "cross-site"}) as answer:
        assert answer.status == 403


async def test_an_error_in_one_snapshot_does_not_end_them(control, caplog):
    plane = await control()
    plane.fleet.workers["broken"] = None  # type: ignore[assignment]
    await until(lambda: "AttributeError" in caplog.text)
    del plane.fleet.workers["broken"]
    count = len(of(plane).history.samples)
    await until(lambda: len(of(plane).history.samples) > count)
