"""GPUs x dp x tp -> devices, ports and cores."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from launcher.config import LaunchConfig
from launcher.errors import BadConfig, NoGpu
from launcher.plan import Gpu, WorkerSpec, cuda_env, next_port, plan, thread_env


def engine(name: str = "sglang", uuid_devices: bool = False) -> Any:
    return SimpleNamespace(name=name, uuid_devices=uuid_devices)


def cards(count: int, tokens: list[str] | None = None) -> list[Gpu]:
    return [Gpu(i, f"GPU-{i}", "NVIDIA H100 80GB", 80 << 30, tokens[i] if tokens else None) for i in range(count)]


def make(
    gpus: list[Gpu],
    cores: int = 8,
    taken: tuple[int, ...] = (),
    eng: Any = None,
    ephemeral: tuple[int, int] = (32768, 60999),
    **settings: Any,
) -> list[WorkerSpec]:
    config = LaunchConfig("m", **settings)
    return plan(config, gpus, eng or engine(), range(cores), lambda port: port not in taken, ephemeral)


def devices(specs: list[WorkerSpec]) -> list[tuple[str, ...]]:
    return [spec.devices for spec in specs]


def test_each_replica_gets_the_next_tp_gpus():
    assert devices(make(cards(4), tp_size=2)) == [("0", "1"), ("2", "3")]


def test_the_default_is_as_many_replicas_as_the_gpus_hold():
    assert len(make(cards(8))) == 8
    assert len(make(cards(7), tp_size=3)) == 2
    assert devices(make(cards(4), dp_size=1)) == [("0",)]


def test_an_inherited_pool_is_sliced_as_the_strings_it_has():
    pool = cards(4, ["5", "GPU-1", "7", "GPU-3"])
    assert devices(make(pool, tp_size=2, eng=engine(uuid_devices=True))) == [("5", "GPU-1"), ("7", "GPU-3")]


def test_an_engine_that_cannot_read_uuids_gets_indices():
    pool = [Gpu(6, "GPU-x", "H100", 0, "GPU-x"), Gpu(2, "GPU-y", "H100", 0, "2")]
    assert devices(make(pool)) == [("6",), ("2",)]


def test_a_mig_slice_is_named_by_its_uuid_for_every_engine():
    slices = [Gpu(0, "MIG-a", "MIG 1g", 0, mig=True), Gpu(0, "MIG-b", "MIG 1g", 0, "MIG-b", mig=True)]
    for uuid_devices in (True, False):
        assert devices(make(slices, eng=engine(uuid_devices=uuid_devices))) == [("MIG-a",), ("MIG-b",)]


def test_mig_slices_cannot_be_joined():
    slices = [Gpu(0, f"MIG-{i}", "MIG 1g", 0, mig=True) for i in range(2)]
    with pytest.raises(BadConfig, match="--tp-size 2 cannot join MIG slices"):
        make(slices, tp_size=2)


@pytest.mark.parametrize(
    ("count", "dp", "tp", "says"),
    [
        (4, 4, 2, "--dp-size 4 x --tp-size 2 needs 8 GPUs, but 4 are visible (0: NVIDIA H100 80GB, 1: "),
        (4, 4, 2, "--dp-size 2 would fit"),
        (1, 2, 1, "but 1 is visible (0: NVIDIA H100 80GB): --dp-size 1 would fit"),
        (2, None, 4, "needs 4 GPUs, but 2 are visible"),
        (2, None, 4, "--tp-size 2 with --dp-size 1 would fit"),
    ],
)
def test_too_few_gpus_says_what_there_is_and_what_would_fit(count: int, dp: int | None, tp: int, says: str):
    with pytest.raises(NoGpu) as caught:
        make(cards(count), dp_size=dp, tp_size=tp)
    assert says in str(caught.value)


def test_many_gpus_are_not_all_listed():
    with pytest.raises(NoGpu, match=r"3: NVIDIA H100 80GB, \.\.\.\)"):
        make(cards(8), dp_size=9)


def test_gpu_replicas_share_the_threads_but_are_not_bound_to_cores():
    specs = make(cards(4), cores=16, tp_size=2)
    assert [(spec.cpus, spec.threads) for spec in specs] == [((), 4), ((), 4)]
    assert make(cards(4), cores=2)[0].threads == 1


def test_without_gpus_there_is_one_replica_on_all_cores():
    (spec,) = make([], cores=4)
    assert (spec.devices, spec.cpus, spec.threads) == ((), (0, 1, 2, 3), 4)


def test_cpu_replicas_share_the_cores_evenly_and_each_core_once():
    assert [spec.cpus for spec in make([], cores=5, dp_size=2)] == [(0, 1), (2, 3, 4)]
    assert [spec.threads for spec in make([], cores=5, dp_size=2)] == [2, 3]


def test_more_replicas_than_cores_share_them_in_turn():
    specs = make([], cores=2, dp_size=3)
    assert [(spec.cpus, spec.threads) for spec in specs] == [((0,), 1), ((1,), 1), ((0,), 1)]


def test_tensor_parallelism_needs_gpus():
    with pytest.raises(NoGpu, match="--tp-size 2 needs GPUs, but none is visible"):
        make([], tp_size=2)


@pytest.mark.parametrize("name", ["sim", "command"])
def test_a_simulation_and_a_command_may_have_any_tp_without_gpus(name: str):
    assert len(make([], tp_size=2, dp_size=3, eng=engine(name))) == 3


def test_a_simulation_takes_no_gpu_and_a_command_does():
    assert devices(make(cards(2), eng=engine("sim"), dp_size=2)) == [(), ()]
    assert devices(make(cards(2), eng=engine("command"))) == [("0",), ("1",)]


def test_ports_are_far_enough_apart_for_those_that_engines_derive():
    assert [spec.port for spec in make(cards(3))] == [31000, 31100, 31200]


def test_a_taken_port_is_passed_over_and_the_distance_kept():
    assert [spec.port for spec in make(cards(3), taken=(31000, 31001, 31102))] == [31002, 31103, 31203]


def test_the_ephemeral_range_is_passed_over():
    assert [spec.port for spec in make(cards(3), worker_base_port=32700)] == [32700, 61000, 61100]
    assert make(cards(1), worker_base_port=40000)[0].port == 61000


def test_an_ephemeral_range_up_to_the_top_does_not_leave_us_without_ports():
    assert [spec.port for spec in make(cards(2), ephemeral=(1024, 65535))] == [31000, 31100]


def test_ports_end_at_65535():
    assert make(cards(1), worker_base_port=65000, taken=tuple(range(65000, 65535)))[0].port == 65535
    with pytest.raises(BadConfig, match="choose a lower --worker-base-port"):
        make(cards(8), worker_base_port=65000)


def test_next_port_is_the_next_free_one():
    assert next_port(31000, lambda port: True) == 31001
    assert next_port(31000, lambda port: port > 31004) == 31005
    assert next_port(32767, lambda port: True) == 61000


def test_a_replica_is_pinned_by_its_devices_in_pci_order():
    spec = WorkerSpec(0, 31000, ("2", "3"))
    assert cuda_env(spec) == {"CUDA_VISIBLE_DEVICES": "2,3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_nothing_is_hidden_from_a_replica_without_devices():
    assert cuda_env(WorkerSpec(0, 31000)) == {}


def test_threads_are_limited_unless_the_user_has_said_how_many():
    spec = WorkerSpec(0, 31000, threads=3)
    assert thread_env(spec, {}) == {"OMP_NUM_THREADS": "3"}
    assert thread_env(spec, {"OMP_NUM_THREADS": "8"}) == {}
    assert thread_env(WorkerSpec(0, 31000), {}) == {}
