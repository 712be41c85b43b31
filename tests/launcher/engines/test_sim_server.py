from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

import aiohttp
import psutil
import pytest
from click.testing import CliRunner

from launcher.engines.sim_server import main
from tests.launcher.engines.test_sim_api import until_broken

PATIENCE = 10  # seconds until a test that waits in vain gives up


class Server:
    def __init__(self, process, port):
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.port = port

    async def exit(self) -> int:
        return await asyncio.wait_for(self.process.wait(), PATIENCE)

    async def line(self) -> str:
        return (await self.process.stdout.readline()).decode().strip()

    async def get(self, path: str) -> int:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
            await response.read()
            return response.status


@pytest.fixture
async def start(unused_tcp_port):
    """start(*options) -> Server, without waiting for it; whatever is left of it is killed in the end."""
    started = []

    async def start(*options: str) -> Server:
        argv = (sys.executable, "-m", "launcher.engines.sim_server", "--port", str(unused_tcp_port), *options)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*argv, stdout=pipe, stderr=pipe)
        started.append(process)
        return Server(process, unused_tcp_port)

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@pytest.fixture
def ready(start):
    async def ready(*options: str) -> Server:
        server = await start("--model", "m", "--time-scale", "0", *options)
        assert await server.line() == "sim: loading m"
        assert await server.line() == f"sim: ready: m on {server.url}"
        return server

    return ready


async def test_it_serves_until_sigterm(ready):
    server = await ready()
    assert await server.get("/health") == 200
    server.process.terminate()
    assert await server.exit() == 0


async def test_sigterm_does_not_wait_for_requests(ready):
    server = await ready("--hang", "requests")
    async with aiohttp.ClientSession() as session:
        request = asyncio.create_task(session.post(server.url + "/generate", json={"text": "a"}))
        while True:
            async with session.get(server.url + "/fault") as response:
                if (await response.json())["requests"]["seen"]:
                    break
        server.process.terminate()
        assert await server.exit() == 0
        with pytest.raises(aiohttp.ClientError):
            await request


async def test_sigterm_can_be_ignored_and_terminate_still_works(ready):
    server = await ready("--ignore-sigterm")
    server.process.terminate()
    assert await server.get("/health") == 200
    assert await server.get("/terminate") == 200
    assert await server.exit() == 0


async def test_it_listens_while_it_loads_and_can_be_stopped_then(start):
    server = await start("--startup-delay", "3600")
    assert await server.line() == "sim: loading sim"
    assert await server.get("/health") == 503
    server.process.terminate()
    assert await server.exit() == 0


async def test_a_start_can_fail(start):
    server = await start("--fail-start", "--startup-delay", "0.01")
    assert await server.exit() == 3
    assert b"cannot load sim" in await server.process.stderr.read()


async def test_an_address_that_is_taken_is_said_in_one_line(start, ready):
    await ready()
    second = await start()
    assert await second.exit() == 1
    [line] = (await second.process.stderr.read()).decode().splitlines()
    assert "address already in use" in line.lower()


@pytest.mark.parametrize(("die_by", "code"), [("kill", -signal.SIGKILL), ("exit", 1)])
async def test_it_can_die_of_a_request(ready, die_by, code):
    server = await ready("--die-after", "1", "--die-by", die_by)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.post(server.url + "/generate", json={"text": "a"})
    assert await server.exit() == code


async def test_it_can_die_after_the_first_token_of_a_stream(ready):
    server = await ready("--die-after", "1", "--die-at", "first-token")
    async with aiohttp.ClientSession() as session:
        body = {"text": "a", "stream": True, "sampling_params": {"max_new_tokens": 100_000}}
        async with session.post(server.url + "/generate", json=body) as response:
            got = await until_broken(response)
    assert got.startswith(b"data: ")
    assert b"DONE" not in got
    assert await server.exit() == -signal.SIGKILL


async def test_a_child_can_be_left_in_its_own_session(ready):
    server = await ready("--spawn-child")
    async with aiohttp.ClientSession() as session, session.get(server.url + "/fault") as response:
        pid = (await response.json())["child"]
    try:
        assert psutil.Process(pid).ppid() == server.process.pid
        assert os.getsid(pid) != os.getsid(server.process.pid)
        server.process.terminate()
        await server.exit()
        assert psutil.pid_exists(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


async def test_an_idle_connection_is_closed(ready):
    server = await ready("--keepalive-timeout", "0.01")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), PATIENCE)).startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mfu", "0"], "--mfu is 0.0: it must be greater than 0"),
        (["--kv-tokens", "3"], "--kv-tokens is 3"),
        (["--status", "7"], "--status must lie between"),
        (["--hang", "often"], "'often' is not one of"),
        (["--time-scale", "-1"], "--time-scale"),
    ],
)
def test_a_bad_option_is_said_in_a_line(options, message):
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 2
    assert message in result.output


def test_help_names_every_setting():
    text = CliRunner().invoke(main, ["--help"]).output
    for option in ("--time-scale", "--kv-tokens", "--seconds-per-step", "--die-after", "--break-after"):
        assert option in text
