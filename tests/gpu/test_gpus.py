"""Engines on GPUs: each sees its own, its memory is back before it starts again, and a driver that fails is told of.

Once on this machine's GPUs, where it has some and torch; once on a stand-in driver's, everywhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pynvml
import pytest

from launcher import gpus
from tests.e2e.commands import Command
from tests.gpu.driver import StandIn, real

pytestmark = pytest.mark.e2e

FOUR = [f"GPU-{letter * 8}" for letter in "abcd"]
SERVER = f"{shlex.quote(sys.executable)} -m tests.gpu.server --port {{port}}"
ENGINE = ("--engine", "command", "--engine-command", SERVER, "--model-path", "any")
ASK = {"model": "m", "prompt": "hi", "seed": 3}


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path / "driver", FOUR)


@pytest.fixture(params=["real", "stand-in"])
def machine(request: pytest.FixtureRequest, stand_in: StandIn) -> tuple[list[str], dict[str, str]]:
    """UUIDs of GPUs, and the environment that shows them."""
    if request.param == "stand-in":
        return FOUR, stand_in.environ
    if not real():
        pytest.skip("this machine has no GPU, or no torch to use one")
    return real(), {}


async def seen(launch: Command) -> list[list[str]]:
    """Which GPUs each engine sees, as it says itself."""
    async with aiohttp.ClientSession() as session:
        return [await devices(session, worker["url"]) for worker in await launch.workers()]


async def devices(session: aiohttp.ClientSession, url: str) -> list[str]:
    async with session.post(f"{url}/v1/completions", json=ASK) as answer:
        return (await answer.json())["devices"]


# -- who sees what


async def test_each_engine_sees_the_gpu_of_its_worker_and_no_other(start, machine):
    uuids, environ = machine
    launch = await start("launch", *ENGINE, **environ)
    workers = await launch.ready(len(uuids))
    assert await seen(launch) == [[uuid] for uuid in uuids]
    assert [worker["devices"] for worker in workers] == [[str(index)] for index in range(len(uuids))]


async def test_uuids_in_the_inherited_pool_are_the_gpus_in_that_order(start, machine):
    uuids, environ = machine
    pool = uuids[::-1][:2]
    launch = await start("launch", *ENGINE, **environ, CUDA_VISIBLE_DEVICES=",".join(pool))
    await launch.ready(len(pool))
    assert await seen(launch) == [[uuid] for uuid in pool]


async def test_a_tensor_parallel_group_sees_its_gpus_together(start, stand_in):
    launch = await start("launch", *ENGINE, "--tp-size", "2", **stand_in.environ)
    await launch.ready(2)
    assert await seen(launch) == [FOUR[:2], FOUR[2:]]


async def test_slices_of_a_gpu_in_mig_mode_are_given_out_one_by_one(start, tmp_path):
    sliced = StandIn(tmp_path / "sliced", [{"uuid": FOUR[0], "mig": ["MIG-1", "MIG-2"]}, FOUR[1]])
    launch = await start("launch", *ENGINE, **sliced.environ)
    await launch.ready(3)
    assert await seen(launch) == [["MIG-1"], ["MIG-2"], [FOUR[1]]]


def test_nvml_and_this_machines_gpus_agree():
    found = gpus.visible({})
    if not found:
        pytest.skip("this machine has no GPU")
    driver = gpus.survey()
    assert driver is not None
    assert [memory.gpu.uuid for memory in driver.memories] == [gpu.uuid for gpu in found]
    assert all(0 <= memory.free <= memory.total for memory in driver.memories)
    used = gpus.usage([gpu.uuid for gpu in found])
    assert set(used) == {gpu.uuid for gpu in found}


# -- an engine is killed


@pytest.fixture
async def neighbour(machine) -> AsyncIterator[str]:
    """A server on the same GPU that another program started: its URL."""
    uuids, environ = machine
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "tests.gpu.server", "--port", str(port)]
    process = await asyncio.create_subprocess_exec(
        *argv, env={**os.environ, **environ, "CUDA_VISIBLE_DEVICES": uuids[0]}
    )
    yield f"http://127.0.0.1:{port}"
    process.kill()
    await process.wait()


async def test_an_engine_is_killed_while_its_neighbour_answers_and_comes_back_with_its_memory(
    start, machine, neighbour
):
    uuids, environ = machine
    launch = await start("launch", *ENGINE, "--policy", "round_robin", **environ, CUDA_VISIBLE_DEVICES=uuids[0])
    (worker,) = await launch.ready(1)
    assert (await launch.ask("POST", f"/add_worker?url={neighbour}"))[0] == 200
    for _ in range(2):
        os.kill(worker["pid"], signal.SIGKILL)
        while (await launch.workers())[0]["pid"] in (None, worker["pid"]) or (await state(launch)) != "ready":
            status, answer = await launch.ask("POST", "/v1/completions", json=ASK)
            assert (status, json.loads(answer)["choices"][0]["text"]) == (200, "3.0")
        worker = (await launch.workers())[0]
    assert worker["restarts"] == 2
    assert await seen(launch) == [[uuids[0]], [uuids[0]]]


async def state(launch: Command) -> str:
    return str((await launch.workers())[0]["state"])


async def test_an_engine_is_not_started_while_the_driver_still_holds_the_dead_ones_memory(start, stand_in):
    launch = await start("launch", *ENGINE, "--dp-size", "2", **stand_in.environ)
    dead = (await launch.ready(2))[0]["pid"]
    stand_in.hold(FOUR[0], dead)
    os.kill(dead, signal.SIGKILL)
    while await state(launch) != "backoff":
        assert (await launch.ask("POST", "/v1/completions", json=ASK))[0] == 200
    until = time.monotonic() + 1.0  # the pause before a restart is 0.5 s, with jitter
    while time.monotonic() < until:
        assert (await launch.ask("POST", "/v1/completions", json=ASK))[0] == 200
        assert (await launch.workers())[0]["pid"] in (None, dead)
    stand_in.give_back()
    await launch.ready(2)
    assert (await launch.workers())[0]["restarts"] == 1


# -- a driver that fails


@pytest.mark.parametrize(
    ("function", "code"),
    [
        ("nvmlInit", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH),
        ("nvmlInit", pynvml.NVML_ERROR_UNKNOWN),
        ("nvmlDeviceGetCount", pynvml.NVML_ERROR_NO_PERMISSION),
        ("nvmlDeviceGetHandleByIndex", pynvml.NVML_ERROR_GPU_IS_LOST),
    ],
)
async def test_a_driver_that_does_not_answer_ends_the_launch_with_one_line(start, stand_in, function, code):
    stand_in.fail(**{function: code})
    launch = await start("launch", *ENGINE, "--dp-size", "2", **stand_in.environ)
    assert await launch.end() != 0
    (told,) = [line for line in launch.lines if str(pynvml.NVMLError(code)) in line]
    assert "repair it" in told
    assert "Traceback" not in "\n".join(launch.lines)


async def test_a_driver_that_is_lost_later_stops_nothing(start, stand_in):
    launch = await start("launch", *ENGINE, "--dp-size", "2", **stand_in.environ)
    worker = (await launch.ready(2))[0]
    stand_in.fail(nvmlInit=pynvml.NVML_ERROR_GPU_IS_LOST)
    os.kill(worker["pid"], signal.SIGKILL)
    while (await launch.workers())[0]["restarts"] != 1 or await state(launch) != "ready":
        assert (await launch.ask("POST", "/v1/completions", json=ASK))[0] == 200
