"""`launch` as a whole: it serves, gives up what cannot be had, and leaves nothing. Faults under load: tests/chaos."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import aiohttp
import psutil
import pytest

from tests.e2e.commands import gone

pytestmark = pytest.mark.e2e


async def generate(session: aiohttp.ClientSession, url: str, text: str) -> aiohttp.ClientResponse:
    async with session.post(url + "/generate", json={"text": text, "sampling_params": {"max_new_tokens": 4}}) as answer:
        await answer.read()
        return answer


async def test_four_workers_answer_behind_one_port_and_a_prefix_stays_where_it_is(sim):
    launch = await sim(4)
    workers = await launch.ready(4)
    assert [w["id"] for w in workers] == ["w0", "w1", "w2", "w3"]
    async with aiohttp.ClientSession() as session:
        prefixes = [f"{n} is the conversation " * 20 for n in range(60)]
        homes = [(await generate(session, launch.url, text)).headers["x-worker-id"] for text in prefixes]
        again = [(await generate(session, launch.url, text + " more")).headers["x-worker-id"] for text in prefixes]
    assert again == homes
    assert len(set(homes)) == 4


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_everything_with_exit_code_0(sim, how):
    launch = await sim(2, engine=("--spawn-child",))
    await launch.ready(2)
    family = launch.family()
    assert len(family) >= 6  # two guardians, two engines, two grandchildren
    launch.process.send_signal(how)
    assert await launch.end() == 0
    await gone(family)


async def test_a_stream_under_way_is_finished_before_the_end(start):
    options = ("--engine", "sim", "--model-path", "any", "--dp-size", "1")
    launch = await start("launch", *options, "--", "--time-scale", "1")
    await launch.ready(1)
    body = {"text": "hi", "stream": True, "sampling_params": {"max_new_tokens": 60}}
    async with aiohttp.ClientSession() as session, session.post(launch.url + "/generate", json=body) as answer:
        assert await answer.content.readline()
        launch.process.send_signal(signal.SIGTERM)
        assert b"[DONE]" in await answer.read()
    assert await launch.end() == 0


@pytest.mark.parametrize("ready", [True, False], ids=["serving", "starting"])
async def test_nothing_outlives_a_launcher_that_is_killed(sim, ready):
    launch = await sim(2, engine=("--spawn-child",) if ready else ("--startup-delay", "60"))
    if ready:
        await launch.ready(2)
    else:
        await launch.until(lambda: len(launch.family()) >= 4)
    family = launch.family()
    launch.process.kill()
    await launch.end()
    await asyncio.wait_for(gone(family), 20)


async def test_an_engine_that_cannot_start_ends_the_launch_and_shows_why(sim):
    launch = await sim(2, "--max-restarts", "0", engine=("--fail-start",))
    assert await launch.end() == 5
    assert any("no worker ever became ready" in line for line in launch.lines)
    assert "Traceback" not in "\n".join(launch.lines)


async def test_a_worker_past_its_limit_is_failed_and_revived_by_hand(sim):
    launch = await sim(2, "--max-restarts", "0")
    victim = (await launch.ready(2))[0]
    os.kill(victim["pid"], signal.SIGKILL)
    while (await launch.workers())[0]["state"] != "failed":
        await asyncio.sleep(0.02)
    assert (await launch.ask("POST", "/generate", json={"text": "hi"}))[0] == 200
    assert (await launch.ask("POST", "/workers/w0/restart"))[0] == 200
    assert (await launch.workers())[0]["state"] == "ready"


async def test_engines_listen_on_loopback_only(sim):
    launch = await sim(1, "--host", "0.0.0.0")
    await launch.ready(1)
    engine = psutil.Process((await launch.workers())[0]["pid"])
    listening = [c.laddr.ip for c in engine.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]


BAD = {
    "unknown engine": (["--model-path", "x", "--engine", "tgi"], 2, "tgi"),
    "no model": ([], 2, "--model-path"),
    "missing model": (["--model-path", "./nowhere.gguf"], 4, "nowhere.gguf"),
    "engine not installed": (["--model-path", "m", "--engine", "sglang"], 4, "pip install"),
    "bad number": (["--model-path", "x", "--dp-size", "many"], 2, "many"),
    "bad range": (["--model-path", "x", "--engine", "sim", "--cache-threshold", "7"], 2, "--cache-threshold"),
    "bad policy": (["--model-path", "x", "--policy", "best"], 2, "best"),
    "template without engine": (["--model-path", "x", "--engine", "command"], 2, "--engine-command"),
    "bad placeholder": (
        ["--model-path", "x", "--engine", "command", "--engine-command", "serve {modle} {port}"], 2, "modle"),
    "half a certificate": (["--model-path", "x", "--engine", "sim", "--ssl-certfile", "c.pem"], 2, "--ssl-keyfile"),
    "missing key file": (["--model-path", "x", "--engine", "sim", "--api-key-file", "/nowhere/key"], 2, "key"),
}  # fmt: skip


@pytest.mark.parametrize(("args", "code", "says"), BAD.values(), ids=BAD.keys())
async def test_bad_input_is_one_clear_line(start, args, code, says):
    launch = await start("launch", *args)
    assert await launch.end() == code
    said = [line for line in launch.lines if line and not line.startswith(("Usage:", "Try '"))]
    assert len(said) == 1, said
    assert says in said[0]


async def test_a_port_in_use_is_one_clear_line(sim):
    first = await sim(1)
    port = first.url.rpartition(":")[2]
    second = await sim(1, "--port", port)
    assert await second.end() == 2
    assert second.lines == [line for line in second.lines if "Traceback" not in line]
    assert f"port {port} on 127.0.0.1 is in use" in second.lines[-1]


async def test_a_worker_of_this_launch_cannot_be_named_as_one_from_elsewhere(sim):
    first = await sim(1)
    (worker,) = await first.ready(1)
    first.process.send_signal(signal.SIGTERM)
    await first.end()
    port = worker["url"].rpartition(":")[2]
    second = await sim(1, "--worker-base-port", port, "--worker-urls", worker["url"])
    assert await second.end() == 2
    assert "--worker-urls" in second.lines[-1]


async def test_the_log_is_json_for_programs_from_the_first_line_to_the_last(start):
    launch = await start(
        "launch",
        "--log-format",
        "json",
        "--engine",
        "sim",
        "--model-path",
        "any",
        "--",
        "--fail-start",
        LAUNCH_MAX_RESTARTS="0",
    )
    assert await launch.end() == 5
    said = [json.loads(line) for line in launch.lines]
    assert any("listening on http://127.0.0.1:" in line["message"] for line in said)
    assert said[-1]["level"] == "error"
    assert "no worker ever became ready" in said[-1]["message"]


async def test_options_may_come_from_the_environment(start):
    environ = {"LAUNCH_MODEL_PATH": "any", "LAUNCH_ENGINE": "sim", "LAUNCH_DP_SIZE": "2", "LAUNCH_PORT": "0"}
    launch = await start("launch", **environ)
    assert len(await launch.ready(2)) == 2


async def test_a_key_from_the_environment_guards_and_never_shows(start):
    options = ("--engine", "sim", "--model-path", "any", "--log-level", "debug")
    launch = await start("launch", *options, LAUNCH_API_KEY="s3cret", LAUNCH_ADMIN_API_KEY="adm1n")
    admin = {"Authorization": "Bearer adm1n"}
    while '"ready"' not in (await launch.ask("GET", "/workers", headers=admin))[1]:
        await asyncio.sleep(0.02)
    assert (await launch.ask("GET", "/workers"))[0] in (401, 403)
    assert (await launch.ask("POST", "/generate", json={"text": "hi"}))[0] == 401
    answer = await launch.ask("POST", "/generate", json={"text": "hi"}, headers={"Authorization": "Bearer s3cret"})
    assert answer[0] == 200
    metrics = (await launch.ask("GET", "/metrics", headers=admin))[1]
    argv = [word for process in [psutil.Process(launch.process.pid), *launch.family()] for word in process.cmdline()]
    for place in (metrics, "\n".join(launch.lines), " ".join(argv)):
        assert "s3cret" not in place
        assert "adm1n" not in place
