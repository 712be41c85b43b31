"""`launch --cluster ray` on a real Ray cluster of several nodes, which pretend to have GPUs."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.e2e.commands import Command, Load, gone
from tests.e2e.ray_nodes import Nodes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed: pip install '.[ray]'", allow_module_level=True)

Launch = Callable[..., Awaitable[Command]]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Two nodes with two GPUs each, and a head that has none."""
    made = Nodes()
    made.tell("add a 2")
    made.tell("add b 2")
    yield made
    made.end()


@pytest.fixture
async def launch(start, nodes: Nodes) -> Launch:
    """`await launch(2)`: so many sim engines, each with two GPUs, that answer at once."""

    async def make(replicas: int, *options: str, engine: tuple[str, ...] = (), address: str = "") -> Command:
        where = ("--cluster", "ray", "--ray-address", address or nodes.address, "--tp-size", "2")
        what = ("--engine", "sim", "--model-path", "any", "--dp-size", str(replicas))
        return await start("launch", *where, *what, *options, "--", "--time-scale", "0", *engine)

    return make


async def shown(command: Command, holds: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """Wait until GET /workers is as it should be."""
    while not holds(workers := await command.workers()):
        await asyncio.sleep(0.05)
    return workers


def actor(worker: dict[str, Any]) -> psutil.Process:
    """Whose guardian has this engine."""
    return psutil.Process(worker["pid"]).parents()[1]


def tree(workers: list[dict[str, Any]]) -> list[psutil.Process]:
    """The actors, and all that they have started."""
    actors = [actor(worker) for worker in workers]
    return [process for top in actors for process in (top, *top.children(recursive=True))]


async def test_replicas_are_placed_where_their_gpus_are_and_the_rest_waits_for_room(launch: Launch, nodes: Nodes):
    command = await launch(3)
    workers = await shown(command, lambda found: any(w["waiting"] for w in found))
    (waiting,) = [worker for worker in workers if worker["waiting"]]
    assert waiting["waiting"] == "needs 2 GPUs on one node; none is free"
    assert (waiting["state"], waiting["node"], waiting["pid"]) == ("starting", None, None)
    placed = [worker for worker in await command.ready(2) if worker["state"] == "ready"]
    assert {worker["node"] for worker in placed} == {"a", "b"}
    assert all(worker["devices"] == ["0", "1"] for worker in placed)
    assert all(psutil.Process(w["pid"]).environ()["CUDA_VISIBLE_DEVICES"] == "0,1" for w in placed)
    assert len({worker["url"] for worker in placed}) == 2
    nodes.tell("add c 2")
    workers = await command.ready(3)
    assert {worker["node"] for worker in workers} == {"a", "b", "c"}
    assert [worker["waiting"] for worker in workers] == [None] * 3
    nodes.tell("kill c")


async def test_strangers_on_the_network_are_refused_and_the_key_is_nowhere_to_be_read(launch: Launch):
    command = await launch(1, "--log-level", "debug")
    (worker,) = await command.ready(1)
    engine = psutil.Process(worker["pid"])
    key = engine.environ()["SIM_API_KEY"]
    assert len(key) >= 32
    async with aiohttp.ClientSession() as session:
        for path in ("/v1/models", "/metrics", "/get_server_info"):
            async with session.get(worker["url"] + path) as answer:
                assert answer.status == 401
        async with session.post(worker["url"] + "/generate", json={"text": "hi"}) as answer:
            assert answer.status == 401
    assert (await command.ask("POST", "/generate", json={"text": "hi"}))[0] == 200
    listening = [c.laddr.ip for c in engine.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert f"http://{listening[0]}:" in worker["url"]  # on one address, not on all
    assert len(listening) == 1
    argv = [word for process in psutil.process_iter() for word in _cmdline(process)]
    told = json.dumps(await command.workers()) + (await command.ask("GET", "/metrics"))[1] + "\n".join(command.lines)
    assert key not in told + " ".join(argv)


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def restarts(command: Command) -> dict[str, int]:
    """By cause, of all workers."""
    found: dict[str, int] = {}
    for line in (await command.ask("GET", "/metrics"))[1].splitlines():
        if line.startswith("llm_router_worker_restarts_total{"):
            cause = line.partition('cause="')[2].partition('"')[0]
            found[cause] = found.get(cause, 0) + int(float(line.rpartition(" ")[2]))
    return {cause: count for cause, count in found.items() if count}


async def test_the_loss_of_a_node_costs_no_request_that_has_not_begun(launch: Launch, nodes: Nodes):
    nodes.tell("add c 2")
    nodes.tell("add d 2")
    command = await launch(3)
    workers = await command.ready(3)
    lost = next(worker for worker in workers if worker["node"] in "cd")  # two of a, b, c, d at most are neither
    spare = ({"a", "b", "c", "d"} - {worker["node"] for worker in workers}).pop()
    family = tree([lost])
    load = Load(command.url)
    await load.more(50)
    nodes.tell(f"kill {lost['node']}")
    back = await shown(command, lambda found: [w["restarts"] for w in found if w["id"] == lost["id"]] == [1])
    back = await command.ready(3)
    await load.more(50)
    await load.end()
    assert load.bad == []
    assert {w["id"]: w["node"] for w in back} == {w["id"]: w["node"] for w in workers} | {lost["id"]: spare}
    assert await restarts(command) == {"node_lost": 1}
    await gone(family)
    nodes.tell(f"kill {'d' if lost['node'] == 'c' else 'c'}")


async def test_an_engine_and_its_actor_die_for_reasons_of_their_own(launch: Launch):
    command = await launch(1, engine=("--spawn-child",))
    (worker,) = await command.ready(1)
    os.kill(worker["pid"], signal.SIGKILL)
    await command.said("killed by SIGKILL")
    (worker,) = await command.ready(1)
    assert await restarts(command) == {"killed": 1}
    family = tree([worker])
    assert len(family) >= 4  # actor, guardian, engine, grandchild
    actor(worker).kill()
    await command.said("its actor ended")
    await command.ready(1)
    assert await restarts(command) == {"killed": 1, "actor_died": 1}
    await gone(family)


async def test_rolling_restart_drain_and_logs_are_as_on_one_node(launch: Launch):
    command = await launch(2)
    before = await command.ready(2)
    load = Load(command.url)
    await load.more(20)
    assert (await command.ask("POST", "/workers/restart"))[0] == 200
    after = await command.ready(2)
    assert [worker["restarts"] for worker in after] == [1, 1]
    assert {worker["pid"] for worker in before}.isdisjoint(worker["pid"] for worker in after)
    assert (await command.ask("POST", "/workers/w0/drain"))[0] == 200
    await load.more(20)
    assert [worker["state"] for worker in await command.workers()] == ["draining", "ready"]
    await load.end()
    assert load.bad == []
    said = json.loads((await command.ask("GET", "/workers/w1/logs"))[1])["lines"]
    assert any(f"sim: ready: any on {after[1]['url']}" in line for line in said)
    command.process.send_signal(signal.SIGTERM)
    assert await command.end() == 0
    assert not any("Traceback" in line or "SIGTERM" in line for line in command.lines)


@pytest.mark.parametrize("ready", [True, False], ids=["serving", "starting"])
async def test_nothing_outlives_a_launcher_that_is_killed(launch: Launch, ready: bool):
    command = await launch(2, engine=("--spawn-child", *(() if ready else ("--startup-delay", "60"))))
    workers = await (command.ready(2) if ready else shown(command, lambda found: all(w["pid"] for w in found)))
    family = tree(workers)
    command.process.kill()
    await command.end()
    await gone(family)


async def test_nothing_outlives_the_head(launch: Launch):
    nodes = Nodes()
    try:
        nodes.tell("add e 2")
        command = await launch(1, engine=("--spawn-child",), address=nodes.address)
        family = tree(await command.ready(1))
        nodes.end()  # all of Ray's processes
        await gone(family)
        command.process.terminate()
        await command.end()
    finally:
        nodes.end()


async def test_a_cluster_that_is_not_there_is_one_clear_line(start, unused_tcp_port: int):
    options = ("--cluster", "ray", "--engine", "sim", "--model-path", "any")
    command = await start("launch", *options, "--ray-address", f"127.0.0.1:{unused_tcp_port}")
    assert await command.end() == 2
    assert command.lines[-1].endswith("no Ray cluster answers there (Connection refused)")
    assert "Traceback" not in "\n".join(command.lines)


async def test_without_ray_it_is_told_how_to_install_it(start, tmp_path: Path):
    (tmp_path / "ray.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    command = await start("launch", "--cluster", "ray", "--engine", "sim", "--model-path", "any", PYTHONPATH=path)
    assert await command.end() == 2
    assert command.lines[-1].endswith("--cluster ray needs an extra: pip install 'llm-launch[ray]'")
