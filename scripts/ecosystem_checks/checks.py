"""What is checked, as a table: how each tool gets here, what it is told to do, and what must come of it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.ecosystem_checks.deployment import KEY, MODEL, Deployment

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / ".venv-ecosystem"
PATIENCE = 600  # seconds for an installation, or for a tool's run
REQUESTS = 20


class Failed(Exception):
    """It did not do what it should have done; one line."""


class Missing(Exception):
    """It is not to be had here; one line."""


@dataclass(frozen=True)
class Check:
    """`package` is what pip installs, or None for a program of the system."""

    asks: str
    package: str | None
    run: Callable[[str, Deployment], str]  # what came back; raises Failed

    def install(self, name: str) -> str:
        """Make the environment, unless it is there; returns the version. Raises Missing."""
        if self.package is None:
            return version_of_program(name)
        python = ENVIRONMENTS / name / "bin" / "python"
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        try:
            if not python.exists():
                call([sys.executable, "-m", "venv", str(python.parents[1])])
            call([*pip, "install", "-q", self.package])
            listed = json.loads(call([*pip, "list", "--format", "json"]))
        except Failed as failed:
            raise Missing(f"pip install {self.package}: {failed}") from None
        return next(each["version"] for each in listed if each["name"] == self.package)


def version_of_program(name: str) -> str:
    if not shutil.which(name):
        raise Missing(f"apt-get install {name}, then it is checked, too")
    return call([name, "--version"]).split()[2]


def call(words: list[str], **environ: str) -> str:
    """Its output. Raises Failed with the last line that it wrote."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, env={**clean, **environ})
    except subprocess.TimeoutExpired:
        raise Failed(f"{Path(words[0]).name} had not ended after {PATIENCE} s") from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise Failed(lines[-1].strip())
    return done.stdout or done.stderr


def tool(name: str, program: str) -> str:
    return str(ENVIRONMENTS / name / "bin" / program)


# -- clients: each is asked by a script of its own in its own environment, which prints what came back


def client(name: str, deployment: Deployment) -> str:
    script = HERE / f"ask_{name.partition('-')[0]}.py"
    return call([tool(name, "python"), str(script), deployment.url, KEY, MODEL]).strip()


# -- benchmarks, which count tokens by a tokenizer that would come from a hub: here it is made on the spot


def tokenizer(name: str, deployment: Deployment) -> str:
    folder = deployment.folder / f"{name}-tokenizer"
    call([tool(name, "python"), str(HERE / "make_tokenizer.py"), str(folder)])
    return str(folder)


def aiperf(name: str, deployment: Deployment) -> str:
    results = deployment.folder / name
    target = ("--url", deployment.url, "--api-key", KEY, "--model", MODEL, "--endpoint-type", "chat", "--streaming")
    load = ("--request-count", str(REQUESTS), "--concurrency", "4")
    shape = ("--synthetic-input-tokens-mean", "100", "--output-tokens-mean", "16")
    where = ("--tokenizer", tokenizer(name, deployment), "--artifact-dir", str(results), "--ui", "none")
    call([tool(name, "aiperf"), "profile", *target, *load, *shape, *where])
    figures = json.loads((results / "profile_export_aiperf.json").read_text())
    first = figures["time_to_first_token"]
    return counted(
        int(figures["request_count"]["avg"]), len(figures["error_summary"]), f"TTFT p50 {first['p50']:.0f} ms"
    )


def genai_bench(name: str, deployment: Deployment) -> str:
    target = ("--api-backend", "openai", "--api-base", deployment.url, "--api-key", KEY, "--api-model-name", MODEL)
    load = ("--task", "text-to-text", "--traffic-scenario", "D(100,16)", "--num-concurrency", "2")
    limits = ("--max-time-per-run", "1", "--max-requests-per-run", str(REQUESTS))
    base = str(deployment.folder / name)
    where = ("--experiment-base-dir", base, "--experiment-folder-name", "run", "--log-dir", base)
    words = [tool(name, "genai-bench"), "benchmark", *target, *load, *limits, *where]
    call([*words, "--model-tokenizer", tokenizer(name, deployment)], HF_HUB_OFFLINE="1")
    (result,) = (deployment.folder / name / "run").glob("D100_16_*.json")
    figures = json.loads(result.read_text())["aggregated_metrics"]
    first = figures["stats"]["ttft"]["p50"]
    return counted(figures["num_completed_requests"], figures["num_error_requests"], f"TTFT p50 {first * 1e3:.0f} ms")


def counted(answered: int, errors: int, figure: str) -> str:
    """Raises Failed for fewer answers than were asked for, or an error."""
    if errors or answered < REQUESTS:
        raise Failed(f"{answered} requests answered of at least {REQUESTS}, {errors} errors")
    return f"{answered} requests, no error, {figure}"


# -- Prometheus


def prometheus(name: str, deployment: Deployment) -> str:
    """It scrapes every second; asked for requests_total until it has an answer, and the target is up."""
    folder = deployment.folder / name
    folder.mkdir()
    job = {"job_name": "llm-launch", "static_configs": [{"targets": [deployment.address]}]}
    settings = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job], "rule_files": [str(ALERTS)]}
    (folder / "prometheus.yml").write_text(json.dumps(settings))  # JSON is YAML
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    words = [name, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    served = subprocess.Popen([*words, f"--web.listen-address={address}"], stderr=subprocess.DEVNULL)
    try:
        up = query(address, "up")
        total = query(address, "sum(llm_router_requests_total)")
        rules = get(address, "/api/v1/rules")["data"]["groups"]
    finally:
        served.terminate()
        served.wait(PATIENCE)
    return f"up {up}, sum(llm_router_requests_total) {total}, {sum(len(g['rules']) for g in rules)} alert rules loaded"


ALERTS = HERE.parent / "grafana" / "alerts.yaml"


def query(address: str, words: str) -> str:
    """The value of an expression, once it is more than 0. Raises Failed when it never is."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        answer = get(address, "/api/v1/query?" + urllib.parse.urlencode({"query": words}))
        found = answer["data"]["result"] if answer else []
        if found and float(found[0]["value"][1]) > 0:
            return str(found[0]["value"][1])
        time.sleep(0.2)
    raise Failed(f"{words} had no value after 30 s")


def get(address: str, path: str) -> Any:
    """What it answers, or None while it starts."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return None


CHECKS: dict[str, Check] = {
    "openai": Check("chat, chat stream, completions, embeddings, models, a wrong key", "openai", client),
    "anthropic": Check("/v1/messages, streamed too, a wrong key", "anthropic", client),
    "langchain-openai": Check("ChatOpenAI invoke and stream", "langchain-openai", client),
    "aiperf": Check(f"profile, {REQUESTS} streamed chats, 4 at a time", "aiperf", aiperf),
    "genai-bench": Check("benchmark text-to-text, D(100,16), 2 at a time", "genai-bench", genai_bench),
    "prometheus": Check("/metrics every second, the alert rules", None, prometheus),
}
