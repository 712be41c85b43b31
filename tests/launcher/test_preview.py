"""What a launch would start."""

from __future__ import annotations

import shlex

from launcher import preview
from launcher.config import LaunchConfig
from launcher.engines import Command
from launcher.engines.sim import Sim
from launcher.engines.vllm import VLLM
from launcher.plan import WorkerSpec

CONFIG = LaunchConfig(model_path="my model", tp_size=2, engine_args=("--label", "a b"))


def test_a_worker_on_gpus_is_pinned_to_them_by_its_environment():
    lines = preview.text(CONFIG, VLLM(), [WorkerSpec(0, 31000, devices=("2", "3"), threads=8)], {}).splitlines()
    assert lines[0] == "w0  GPU 2,3, http://127.0.0.1:31000"
    words = shlex.split(lines[1])
    assert words[:3] == ["CUDA_VISIBLE_DEVICES=2,3", "CUDA_DEVICE_ORDER=PCI_BUS_ID", "OMP_NUM_THREADS=8"]
    assert words[-2:] == ["--label", "a b"]
    assert "my model" in words


def test_a_value_with_blanks_stays_an_assignment():
    class Spaced(Sim):
        def command(self, spec: WorkerSpec, config: LaunchConfig) -> Command:
            return Command(("run",), {"NAME": "a b"})

    assert preview.text(CONFIG, Spaced(), [WorkerSpec(0, 31000)], {}).splitlines()[1] == "    NAME='a b' run"


def test_cores_are_written_as_ranges():
    assert preview.place(WorkerSpec(0, 1, cpus=(0, 1, 2, 3, 8, 10, 11))) == "CPU, cores 0-3,8,10-11"
    assert preview.place(WorkerSpec(0, 1)) == "CPU"


def test_programs_get_the_same_as_data():
    specs = [WorkerSpec(0, 31000, cpus=(0,), threads=1), WorkerSpec(1, 31100)]
    first, second = preview.describe(CONFIG, Sim(), specs, {})
    assert first == {
        "worker": "w0",
        "engine": "sim",
        "url": "http://127.0.0.1:31000",
        "devices": [],
        "cpus": [0],
        "env": {"OMP_NUM_THREADS": "1"},
        "argv": list(Sim().command(specs[0], CONFIG).argv),
    }
    assert second["worker"] == "w1"


def test_what_is_inherited_stands():
    (worker,) = preview.describe(CONFIG, Sim(), [WorkerSpec(0, 31000, threads=1)], {"OMP_NUM_THREADS": "4"})
    assert worker["env"] == {}
