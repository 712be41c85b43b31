"""LMDeploy's dialect."""

from __future__ import annotations

from launcher.config import LaunchConfig
from launcher.engines.lmdeploy import LMDeploy
from launcher.plan import WorkerSpec


def test_it_is_started_with_its_documented_flags_and_the_users_last():
    config = LaunchConfig("org/m", tp_size=2, engine_python="/v/python", engine_args=("--session-len", "4096"))
    command = LMDeploy().command(WorkerSpec(0, 31000, ("0", "1")), config)
    assert " ".join(command.argv) == (
        "/v/python -m lmdeploy serve api_server org/m --server-name 127.0.0.1 --server-port 31000 --tp 2 "
        "--enable-prefix-caching --session-len 4096"
    )


def test_sglangs_generate_is_translated_for_it():
    assert LMDeploy().native_generate is False
