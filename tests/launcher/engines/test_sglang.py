"""SGLang's dialect."""

from __future__ import annotations

import sys

from launcher.config import LaunchConfig
from launcher.engines.sglang import SGLang
from launcher.plan import WorkerSpec


def test_it_is_started_with_its_documented_flags_and_the_users_last():
    config = LaunchConfig("org/m", tp_size=2, engine_python="/venv/bin/python", engine_args=("--mem-fraction", "0.8"))
    command = SGLang().command(WorkerSpec(1, 31100, ("2", "3"), threads=4), config)
    assert " ".join(command.argv) == (
        "/venv/bin/python -m sglang.launch_server --model-path org/m --host 127.0.0.1 --port 31100 --tp-size 2 "
        "--enable-metrics --enable-cache-report --mem-fraction 0.8"
    )
    assert command.env == {}


def test_without_another_interpreter_it_runs_in_this_one():
    assert SGLang().command(WorkerSpec(0, 31000), LaunchConfig("m")).argv[0] == sys.executable


def test_generate_is_its_own():
    assert SGLang().native_generate is True
