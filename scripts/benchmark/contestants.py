"""Who takes part: how each router is started over a set of workers, and when it serves."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.benchmark.processes import ROUTER_CPU, Child
from scripts.benchmark.program import Program

OURS = "llm-launch"
NGINX = "nginx"
POLICY = "cache_aware"  # what all of them can do
PEERS = {"sglang-router": "sglang_router", "vllm-router": "vllm_router", "smg": "smg"}  # distribution: package
NAMES = (OURS, *PEERS, NGINX)
STARTUP = 60.0  # seconds

# Nothing a router of prompts does is asked of nginx: no look into the body, no log; it only passes on.
NGINX_CONF = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 19000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    client_max_body_size 512m;
    client_body_buffer_size 2m;
    keepalive_requests 100000000;
    upstream workers {{
        least_conn;
        {servers}
        keepalive 512;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://workers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Contestant:
    """A router that can be started. `header` is the header line that requests to it need, if any."""

    name: str
    version: str
    command: Callable[[int, Sequence[str], Path], list[str]]  # (port, worker URLs, scratch folder)
    header: str | None = None
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """A request that is answered once a router serves."""

    path: str
    body: bytes


GENERATE = Probe("/generate", b'{"text":"hello","sampling_params":{"max_new_tokens":8}}')


class Running:
    """A contestant that serves."""

    def __init__(self, contestant: Contestant, child: Child, port: int):
        self.name = contestant.name
        self.header = contestant.header
        self.child = child
        self.port = port


def find(peers: str | None) -> tuple[list[Contestant], list[str]]:
    """The others that are installed, and a line on each that is not. `peers`: the Python that has the peers."""
    found, missing = [], []
    for name in PEERS:
        contestant = peer(peers, name)
        if contestant:
            found.append(contestant)
        else:
            missing.append(f"{name}: not measured; {how_to_install(name)}")
    if shutil.which("nginx"):
        told = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr
        found.append(Contestant(NGINX, told.strip().rpartition("/")[2], _nginx))
    else:
        missing.append("nginx: not measured; apt-get install nginx-light, or the like")
    return found, missing


def peer(peers: str | None, name: str, policy: str | None = None) -> Contestant | None:
    """One of PEERS, if the Python `peers` has it; with that policy as it is by default.

    None: the same one as all, and smg limits and polls less than it would.
    """
    version = _version(peers, name) if peers else None
    return Contestant(name, version, _peer(peers, PEERS[name], policy)) if peers and version else None


def how_to_install(peer: str) -> str:
    return f"python3 -m venv peers && peers/bin/pip install {peer}, then --peers peers/bin/python"


def ours(program: Program, folder: Path, policy: str = POLICY) -> Contestant:
    """All else as it is by default, and a key that every request must carry."""
    key = secrets.token_hex(16)

    def command(port: int, urls: Sequence[str], folder: Path) -> list[str]:
        file = folder / "key"
        file.write_text(key)
        return program.command(
            *("-m", "router", "--port", str(port), "--worker-urls", *urls),
            *("--api-key-file", str(file), "--policy", policy),
        )

    return Contestant(OURS, program.version(folder), command, f"authorization: Bearer {key}", program.env)


def _peer(python: str, package: str, policy: str | None) -> Callable[[int, Sequence[str], Path], list[str]]:
    """They share their ancestor's command line. Quieter than their default."""
    less = ["--disable-load-monitoring", "--max-concurrent-requests", "0"] if package == "smg" and not policy else []

    def command(port: int, urls: Sequence[str], folder: Path) -> list[str]:
        return [
            python, "-m", f"{package}.launch_router",
            "--host", "127.0.0.1", "--port", str(port), "--worker-urls", *urls,
            "--policy", policy or POLICY, "--log-level", "error",
            "--prometheus-port", str(free_port()), "--worker-startup-check-interval", "1",
            *less,
        ]  # fmt: skip

    return command


def _nginx(port: int, urls: Sequence[str], folder: Path) -> list[str]:
    servers = " ".join(f"server {url.removeprefix('http://')};" for url in urls)
    conf = folder / "nginx.conf"
    conf.write_text(NGINX_CONF.format(folder=folder, port=port, servers=servers))
    return ["nginx", "-c", str(conf)]


def _version(python: str, distribution: str) -> str | None:
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    told = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return told.stdout.strip() or None


def start(contestant: Contestant, urls: Sequence[str], folder: Path, probe: Probe = GENERATE) -> Running:
    """Start it, pinned, and return once it has answered a request. Raises RuntimeError when it does not."""
    port = free_port()
    log = folder / f"{contestant.name}-{port}.log"
    with log.open("wb") as out:
        child = Child(
            contestant.command(port, urls, folder), ROUTER_CPU, stdout=out, stderr=out, env=contestant.env, cwd=folder
        )
    running = Running(contestant, child, port)
    try:
        _wait(running, len(urls), probe)
    except BaseException as error:
        child.stop()
        if isinstance(error, TimeoutError):
            tail = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"{contestant.name} did not serve: {' '.join(tail) or 'no word from it'}") from None
        raise
    return running


def _wait(running: Running, workers: int, probe: Probe) -> None:
    deadline = time.monotonic() + STARTUP
    while time.monotonic() < deadline and running.child.process.poll() is None:
        if answers(running, probe) and (running.name != OURS or _ready(running, workers)):
            return
        time.sleep(0.2)
    raise TimeoutError


def answers(running: Running, probe: Probe) -> bool:
    """Whether it answers the probe with status 200."""
    headers = {"content-type": "application/json"}
    if running.header:
        name, _, value = running.header.partition(": ")
        headers[name] = value
    url = f"http://127.0.0.1:{running.port}{probe.path}"
    return _status(urllib.request.Request(url, data=probe.body, headers=headers)) is not None


def _ready(running: Running, workers: int) -> bool:
    """Whether all workers are in use; of the others one answer must do, and the warm-up that follows."""
    told = _status(urllib.request.Request(f"http://127.0.0.1:{running.port}/readiness"))
    return told is not None and f'"healthy_workers":{workers},' in told.replace(" ", "")


def _status(request: urllib.request.Request) -> str | None:
    """The body of an answer of status 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError, urllib.error.URLError), opener.open(request, timeout=5) as answer:
        return answer.read().decode() if answer.status == 200 else None
    return None


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
