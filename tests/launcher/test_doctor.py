"""What the doctor makes of what it finds, and that it looks at the real machine as a launch would."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launcher import doctor, survey
from launcher.cli import main
from launcher.config import LaunchConfig
from launcher.doctor import GIB, Facts, Mark
from launcher.gpus import Driver, Memory
from launcher.plan import Gpu
from router.config import RouterConfig

H100 = Gpu(0, "GPU-a", "H100", 80 * GIB)
HEALTHY = Facts(
    driver=Driver("570.86.10", "12.8", (Memory(H100, 79 * GIB, 80 * GIB),)),
    engines={"vllm": "0.11.0", "sglang": None},
    logs="/var/log",
    plan="m, 1 x vllm on GPU",
)


def said(facts: Facts, mark: Mark) -> str:
    return "\n".join(f"{finding.topic}: {finding.says}" for finding in doctor.findings(facts) if finding.mark is mark)


def test_a_healthy_machine_is_sound_and_all_of_it_is_told():
    assert doctor.sound(doctor.findings(HEALTHY))
    assert said(HEALTHY, Mark.NOTE) == said(HEALTHY, Mark.BAD) == ""
    for words in ("570.86.10", "CUDA up to 12.8", "H100, 79.0 of 80.0 GiB free", "vllm 0.11.0", "sglang", "/var/log"):
        assert words in said(HEALTHY, Mark.OK)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"driver_error": "the NVIDIA driver does not answer"}, "driver: the NVIDIA driver does not answer"),
        ({"router_free": False}, "127.0.0.1:30000 is in use: choose another --port"),
        ({"first_port": None}, "choose a lower --worker-base-port"),
        ({"logs_error": "/x cannot be used"}, "logs: /x cannot be used"),
        ({"plan": None, "plan_error": "--dp-size 4 needs 4 GPUs"}, "plan: --dp-size 4 needs 4 GPUs"),
    ],
)
def test_what_stands_in_the_way_of_a_launch_is_bad(change: dict[str, object], words: str):
    facts = replace(HEALTHY, **change)
    assert words in said(facts, Mark.BAD)
    assert not doctor.sound(doctor.findings(facts))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"driver": None}, "no NVIDIA driver: engines run on the CPU"),
        ({"driver": Driver("570", "12.8")}, "--gpus all"),
        (
            {"driver": Driver("570", "12.8", (Memory(H100, 20 * GIB, 80 * GIB, (7, 8)),))},
            "GPU 0: H100, 20.0 of 80.0 GiB free: others hold the rest (pids 7, 8)",
        ),
        ({"pool": "1,2"}, "CUDA_VISIBLE_DEVICES='1,2'"),
        ({"engines": {"vllm": None}}, "not installed in python: vllm"),
        ({"first_port": 31007}, "31000 cannot be had: workers begin at 31007"),
        ({"files": 1024}, "1024 may be open: 448 clients at once; more need ulimit -n 65536"),
        ({"tp_size": 2, "shm": 64 << 20}, "/dev/shm: 0.062 GiB free: too little for --tp-size 2"),
        ({"plan": None}, "give --model-path"),
    ],
)
def test_what_may_surprise_is_noted_and_keeps_nothing_from_starting(change: dict[str, object], words: str):
    facts = replace(HEALTHY, **change)
    assert words in said(facts, Mark.NOTE)
    assert doctor.sound(doctor.findings(facts))


def test_memory_that_is_the_machines_is_no_trouble():
    facts = replace(HEALTHY, driver=Driver("580", "13.0", (Memory(H100, 0, 0),)))
    assert "shares the machine's memory" in said(facts, Mark.OK)


def test_it_looks_as_a_launch_would_and_leaves_the_ports_free(tmp_path: Path):
    config = LaunchConfig(
        "any", engine="sim", dp_size=2, worker_base_port=23_170, log_dir=str(tmp_path), router=RouterConfig(port=0)
    )
    report = survey.look(config, planned=True)
    again = survey.look(config, planned=True)
    assert doctor.sound(report.findings)
    assert [worker["worker"] for worker in report.workers] == ["w0", "w1"]
    assert report.workers[0]["argv"][0] == sys.executable  # type: ignore[index]
    assert again.workers[0]["url"] == report.workers[0]["url"]


def test_a_port_that_is_taken_is_found(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        router = RouterConfig(port=taken.getsockname()[1])
        report = survey.look(LaunchConfig("any", log_dir=str(tmp_path), router=router), planned=False)
    assert not doctor.sound(report.findings)


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("LAUNCH_PORT", "0")


def test_the_command_shows_the_findings_and_the_commands(quiet: None, capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "--engine", "sim", "--model-path", "any", "--", "--label", "a b"]) == 0
    text = capsys.readouterr().out
    assert "any, 1 x sim" in text
    assert "--label 'a b'" in text


def test_the_command_has_an_answer_for_programs(quiet: None, capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "--json", "--engine", "sim", "--model-path", "any", "--log-dir", "/proc/nowhere"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["sound"] is False
    assert {"mark": "bad", "topic": "logs"}.items() <= next(
        f for f in answer["findings"] if f["topic"] == "logs"
    ).items()
    assert answer["workers"][0]["engine"] == "sim"


def test_an_interpreter_that_cannot_be_run_is_told_without_a_model(quiet: None, capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "--engine-python", "/nowhere/python"]) == 1
    assert "--engine-python /nowhere/python cannot be run" in capsys.readouterr().out


def test_bad_options_are_refused_as_a_launch_refuses_them(quiet: None, capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "--dp-size", "0"]) == 2
    assert main(["doctor", "word"]) == 2
    assert main(["doctor", "--dp-sise", "1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "See launch doctor --help" in lines[2]
