"""Engines as process trees, with real processes: whatever ends them, nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from launcher import logs
from launcher.engines import Command
from launcher.plan import WorkerSpec
from launcher.process import MARKER, Process, environment

SPEC = WorkerSpec(replica=0, port=31000)
PYTHON = (sys.executable, "-I", "-S", "-c")
SLEEP = "import time; print('up', flush=True); time.sleep(600)"

# Three generations: a child, and a grandchild that left by double fork and setsid, its pid printed.
FAMILY = """
import os, signal, sys, time
if os.fork() == 0:
    time.sleep(600)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    {escaped}
    print('escaped', os.getpid(), flush=True)
    time.sleep(600)
{engine}
time.sleep(600)
"""


def family(engine: str = "", escaped: str = "") -> str:
    return FAMILY.format(engine=engine, escaped=escaped)


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Real processes give no other sign than what can be looked at."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(tmp_path: Path):
    started: list[Process] = []

    async def start(code: str, spec: WorkerSpec = SPEC, **env: str) -> Process:
        process = await Process.start(Command((*PYTHON, code), env), spec, tmp_path / "log")
        started.append(process)
        return process

    yield start
    for process in started:
        await process.stop(0)


@pytest.fixture
def said(tmp_path: Path) -> Callable[[str], list[str]]:
    """The words of the log's lines that begin with a word."""

    def said(word: str) -> list[str]:
        return [part for line in logs.tail(tmp_path / "log") if line.startswith(word) for part in line.split()]

    return said


async def test_an_exit_code_is_reported(start: Start):
    assert await (await start("raise SystemExit(7)")).wait() == 7


async def test_a_deadly_signal_is_reported(start: Start, said):
    engine = await start(SLEEP)
    await until(lambda: said("up"))
    os.kill(engine.pid, signal.SIGKILL)
    assert await engine.wait() == -signal.SIGKILL


async def test_the_pid_is_the_engines_own(start: Start, said):
    engine = await start("import os, time; print('pid', os.getpid(), flush=True); time.sleep(600)")
    await until(lambda: said("pid"))
    assert said("pid") == ["pid", str(engine.pid)]


async def test_what_the_engine_prints_is_in_its_log(start: Start, tmp_path: Path):
    engine = await start("import sys; print('out', flush=True); print('err', file=sys.stderr)")
    await engine.wait()
    assert logs.tail(tmp_path / "log") == ["out", "err"]


async def test_the_engine_reads_nothing_from_the_terminal(start: Start):
    assert await (await start("import sys; raise SystemExit(5 if sys.stdin.read() == '' else 1)")).wait() == 5


async def test_an_engine_that_is_not_there_exits_with_127_and_says_so(tmp_path: Path):
    engine = await Process.start(Command(("/no/such/engine",)), SPEC, tmp_path / "log")
    assert await engine.wait() == 127
    await engine.stop(0)
    assert "cannot start /no/such/engine: No such file" in logs.last_line(tmp_path / "log")


async def test_a_file_that_cannot_be_executed_exits_with_126(tmp_path: Path):
    engine = await Process.start(Command((str(tmp_path),)), SPEC, tmp_path / "log")
    assert await engine.wait() == 126
    await engine.stop(0)


async def test_stop_lets_the_engine_end_itself(start: Start, said):
    engine = await start("import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); " + SLEEP)
    await until(lambda: said("up"))
    await engine.stop(60)
    assert await engine.wait() == 9


async def test_an_engine_that_ignores_sigterm_is_killed_at_the_timeout(start: Start, said):
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    engine = await start(ignore + SLEEP)
    await until(lambda: said("up"))
    await engine.stop(0.1)
    assert await engine.wait() == -signal.SIGKILL
    assert not alive(engine.pid)


async def test_a_second_stop_may_cut_the_first_one_short(start: Start, said, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("launcher.process.STUCK", 3600)
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    engine = await start(ignore + SLEEP)
    await until(lambda: said("up"))
    patient = asyncio.create_task(engine.stop(3600))
    await asyncio.sleep(0)
    await asyncio.wait_for(engine.stop(0), 20)
    await patient
    assert not alive(engine.pid)


async def test_a_stopped_process_is_woken_to_end_itself(start: Start, said):
    engine = await start(SLEEP)
    await until(lambda: said("up"))
    os.kill(engine.pid, signal.SIGSTOP)
    await engine.stop(60)
    assert await engine.wait() == -signal.SIGTERM


async def test_a_grandchild_that_left_by_double_fork_and_setsid_is_gone_after_stop(start: Start, said):
    engine = await start(family())
    await until(lambda: said("escaped"))
    escaped = int(said("escaped")[1])
    assert os.getsid(escaped) != os.getsid(engine.pid)
    await engine.stop(60)
    assert not alive(escaped)
    assert not alive(engine.pid)
    assert {escaped, engine.pid} <= engine.members


async def test_the_tree_is_ended_when_the_engine_itself_dies(start: Start, said):
    engine = await start(family())
    await until(lambda: said("escaped"))
    os.kill(engine.pid, signal.SIGKILL)
    await engine.wait()
    await until(lambda: not alive(int(said("escaped")[1])))


async def test_stop_after_the_engines_death_waits_for_the_stubborn_rest(start: Start, said):
    engine = await start(family(escaped="signal.signal(signal.SIGTERM, signal.SIG_IGN)"))
    await until(lambda: said("escaped"))
    os.kill(engine.pid, signal.SIGKILL)
    await engine.stop(0.2)
    assert not alive(int(said("escaped")[1]))


async def test_nothing_is_left_when_the_guardian_is_killed(start: Start, said):
    engine = await start(family(escaped="signal.signal(signal.SIGTERM, signal.SIG_IGN)"))
    await until(lambda: said("escaped"))
    os.kill(psutil.Process(engine.pid).ppid(), signal.SIGKILL)
    assert await engine.wait() == -signal.SIGKILL
    await engine.stop(60)
    assert not alive(engine.pid)
    assert not alive(int(said("escaped")[1]))


async def test_a_guardian_that_does_not_react_is_not_waited_for(start: Start, said, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("launcher.process.STUCK", 0.1)
    engine = await start(family())
    await until(lambda: said("escaped"))
    os.kill(psutil.Process(engine.pid).ppid(), signal.SIGSTOP)
    await engine.stop(0)
    assert not alive(engine.pid)
    assert not alive(int(said("escaped")[1]))


async def test_stopping_leaves_no_zombie(start: Start):
    engine = await start("pass")
    await engine.wait()
    await engine.stop(0)
    assert [p for p in psutil.Process().children() if p.status() == psutil.STATUS_ZOMBIE] == []


LAUNCHER = """
import asyncio, sys
from pathlib import Path
from launcher.engines import Command
from launcher.plan import WorkerSpec
from launcher.process import Process

async def main():
    log = Path(sys.argv[1])
    engine = await Process.start(Command((sys.executable, "-c", sys.argv[2])), WorkerSpec(0, 31000), log)
    print(engine.pid, flush=True)
    await engine.wait()

asyncio.run(main())
"""


async def test_sigkill_of_the_launcher_leaves_nothing(tmp_path: Path, said):
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    argv = [sys.executable, "-c", LAUNCHER, str(tmp_path / "log"), family(stubborn, stubborn)]
    launcher = subprocess.Popen(argv, stdout=subprocess.PIPE)
    with launcher:
        assert launcher.stdout is not None
        engine = int(launcher.stdout.readline())
        await until(lambda: said("escaped"))
        tree = [engine, int(said("escaped")[1]), psutil.Process(engine).ppid()]
        tree += [child.pid for child in psutil.Process(engine).children()]
        before = [pid for pid in tree if alive(pid)]
        launcher.kill()
    assert len(before) == 4
    await until(lambda: not any(map(alive, tree)), 5.0)


async def test_the_guardian_hears_of_the_launchers_death_though_another_holds_its_socket_open(tmp_path: Path, said):
    """A child of the launcher that was forked without exec, as multiprocessing's are, has all its descriptors."""
    fork = "    print(os.fork() or time.sleep(600), flush=True)\n    await engine.wait()"
    code = "import os, time\n" + LAUNCHER.replace("    await engine.wait()", fork)
    argv = [sys.executable, "-c", code, str(tmp_path / "log"), SLEEP]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        engine, holder = int(launcher.stdout.readline()), int(launcher.stdout.readline())
        try:
            await until(lambda: said("up"))
            launcher.kill()
            await until(lambda: not alive(engine), 5.0)
            assert alive(holder)
        finally:
            os.kill(holder, signal.SIGKILL)


async def test_sigkill_of_launcher_and_guardian_together_ends_the_engine(tmp_path: Path, said):
    argv = [sys.executable, "-c", LAUNCHER, str(tmp_path / "log"), SLEEP]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        engine = int(launcher.stdout.readline())
        await until(lambda: said("up"))
        launcher.send_signal(signal.SIGSTOP)  # it must not have the time to sweep up
        os.kill(psutil.Process(engine).ppid(), signal.SIGKILL)
        launcher.kill()
    await until(lambda: not alive(engine), 5.0)


def test_engines_are_not_started_from_other_threads(tmp_path: Path):
    """The kernel sends the parent-death signal when the thread that spawned ends, whoever else is alive."""
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            asyncio.run(Process.start(Command(PYTHON), SPEC, tmp_path / "log"))
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])


def test_an_actor_starts_its_engine_on_the_thread_that_it_calls_home(tmp_path: Path):
    async def run() -> None:
        engine = await Process.start(Command((*PYTHON, "pass")), SPEC, tmp_path / "log", threading.current_thread())
        codes.append(await engine.wait())
        await engine.stop(1)

    codes: list[int] = []
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join()
    assert codes == [0]


async def test_the_engine_may_run_on_its_own_cores_only(start: Start, said):
    core = min(os.sched_getaffinity(0))
    spec = WorkerSpec(replica=0, port=31000, cpus=(core,))
    engine = await start("import os; print('cores', *os.sched_getaffinity(0))", spec)
    await engine.wait()
    assert said("cores") == ["cores", str(core)]


def test_an_engine_is_pinned_to_its_devices():
    env = environment(Command(()), WorkerSpec(0, 31000, devices=("2", "3")), "m")
    assert env["CUDA_VISIBLE_DEVICES"] == "2,3"


def test_an_engine_sees_our_environment_and_its_own_but_not_our_settings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAUNCH_API_KEY", "secret")
    monkeypatch.setenv("ROUTER_ADMIN_API_KEY", "secret")
    monkeypatch.setenv("HF_HOME", "/models")
    env = environment(Command((), {"OMP_NUM_THREADS": "4"}), SPEC, "m")
    assert "secret" not in env.values()
    assert env["HF_HOME"] == "/models"
    assert env["OMP_NUM_THREADS"] == "4"
    assert env[MARKER] == "m"


async def test_a_tree_of_very_many_processes_is_gone_when_it_is(start: Start):
    """The guardian's list of them is then longer than a stream reader's longest line."""
    process = await start(SLEEP)
    process._listener.cancel()
    reader = asyncio.StreamReader()
    reader.feed_data(b"gone " + b"1234567 " * 20_000 + b"\n")
    reader.feed_eof()
    process._guardian.kill()
    await asyncio.wait_for(process._listen(reader), 20)
    await asyncio.wait_for(process.stop(0), 20)
    assert not alive(process.pid)


async def test_what_the_whole_tree_computes_is_counted(start: Start):
    engine = await start("import os, time\nif os.fork(): time.sleep(60)\nwhile True: pass")
    before = await engine.cpu()
    while await engine.cpu() < before + 0.1:
        await asyncio.sleep(0.02)


async def test_a_listener_that_was_there_before_the_engine_is_an_outsider(start: Start):
    with socket.create_server(("127.0.0.1", 0)) as server:
        engine = await start(SLEEP)
        port = server.getsockname()[1]
        assert await engine.outsider(port) == f"another program holds port {port} (pid {os.getpid()})"
    assert await engine.outsider(port) is None


async def test_a_listener_of_the_engines_own_is_no_outsider(start: Start, said):
    engine = await start(
        "import os, socket, time\nif os.fork(): time.sleep(60)\n"
        "s = socket.create_server(('127.0.0.1', 0)); print('port', s.getsockname()[1], flush=True); time.sleep(60)"
    )
    await until(lambda: said("port"))
    assert await engine.outsider(int(said("port")[1])) is None
