"""Which GPUs are seen, by a stand-in for NVML that fails as NVML fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from launcher import gpus
from launcher.errors import NoGpu

GIB = 1 << 30


class Card:
    """A GPU, or a MIG slice of one."""

    def __init__(self, uuid: str, bus: int = 0, slices: list[Card | None] | None = None, pids: tuple[int, ...] = ()):
        self.uuid = uuid
        self.bus = bus
        self.slices = slices  # None: MIG mode is off; a None inside: a place without a slice
        self.pids = pids
        self.name = "MIG 1g.10gb" if uuid.startswith("MIG") else "H100"


class Nvml:
    """What launcher.gpus uses of pynvml; `breaks` maps a function's name to the error that it raises."""

    NVML_DEVICE_MIG_ENABLE = pynvml.NVML_DEVICE_MIG_ENABLE

    def __init__(self, *cards: Card, breaks: dict[str, int] | None = None):
        self.cards = cards
        self.breaks = breaks or {}
        self.open = 0
        for name in dir(pynvml):
            if name.startswith("NVMLError"):
                setattr(self, name, getattr(pynvml, name))

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in self.breaks:
            raise_it = pynvml.NVMLError(self.breaks[name])
            return lambda *_: (_ for _ in ()).throw(raise_it)
        return super().__getattribute__(name)

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        assert self.open == 1
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> Card:
        if self.cards[number].uuid == "":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
        return self.cards[number]

    def nvmlDeviceGetPciInfo(self, card: Card) -> SimpleNamespace:
        return SimpleNamespace(domain=0, bus=card.bus, device=0)

    def nvmlDeviceGetUUID(self, card: Card) -> str:
        return card.uuid

    def nvmlDeviceGetName(self, card: Card) -> str:
        return card.name

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> SimpleNamespace:
        return SimpleNamespace(total=80 * GIB, free=60 * GIB, used=20 * GIB)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.86.10"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 12080

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:
        parts = [part for card in self.cards for part in card.slices or () if part is not None]
        return next(card for card in (*self.cards, *parts) if card.uuid == uuid)

    def nvmlDeviceGetUtilizationRates(self, card: Card) -> SimpleNamespace:
        if card.uuid.startswith("MIG"):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=10 * card.bus)

    def nvmlDeviceGetMigMode(self, card: Card) -> list[int]:
        return [int(card.slices is not None), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, card: Card) -> int:
        return len(card.slices or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, number: int) -> Card:
        part = (card.slices or [])[number]
        if part is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return part

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card) -> list[SimpleNamespace]:
        if card.uuid == "GPU-lost":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return [SimpleNamespace(pid=pid, usedGpuMemory=GIB) for pid in card.pids]


def four() -> Nvml:
    return Nvml(Card("GPU-aa11", 1), Card("GPU-aa22", 2), Card("GPU-bb33", 3), Card("GPU-cc44", 4))


def uuids(found: list[Any]) -> list[str]:
    return [gpu.uuid for gpu in found]


def pool(value: str) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": value}


def test_gpus_are_counted_in_pci_order_whatever_order_nvml_has():
    found = gpus.visible({}, Nvml(Card("GPU-late", 9), Card("GPU-early", 2)))
    assert [(gpu.index, gpu.uuid, gpu.name, gpu.memory) for gpu in found] == [
        (0, "GPU-early", "H100", 80 * GIB),
        (1, "GPU-late", "H100", 80 * GIB),
    ]
    assert all(gpu.token is None and not gpu.mig for gpu in found)


def test_nvml_is_shut_down_after_use_and_after_a_failure():
    good, bad = four(), four()
    bad.breaks = {"nvmlDeviceGetUUID": pynvml.NVML_ERROR_UNKNOWN}
    gpus.visible({}, good)
    with pytest.raises(NoGpu):
        gpus.visible({}, bad)
    assert good.open == bad.open == 0


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_a_machine_without_a_driver_has_no_gpu(code: int):
    assert gpus.visible(pool("0"), Nvml(breaks={"nvmlInit": code})) == []


def test_a_driver_without_gpus_has_none_whatever_the_pool_says():
    assert gpus.visible({}, Nvml()) == []
    assert gpus.visible(pool("0"), Nvml()) == []


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, pynvml.NVML_ERROR_NO_PERMISSION])
def test_a_driver_that_does_not_answer_is_an_error_in_nvmls_words(code: int):
    with pytest.raises(NoGpu, match=str(pynvml.NVMLError(code))) as caught:
        gpus.visible({}, Nvml(breaks={"nvmlInit": code}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["", " ", "-1", "NoDevFiles"])
def test_a_pool_that_hides_all_needs_no_driver(value: str):
    broken = Nvml(breaks={"nvmlInit": pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH})
    assert gpus.visible(pool(value), broken) == []


def test_an_inherited_pool_is_kept_in_its_order_and_its_own_words():
    found = gpus.visible(pool("3, GPU-aa11,GPU-b"), four())
    assert [(gpu.index, gpu.token) for gpu in found] == [(3, "3"), (0, "GPU-aa11"), (2, "GPU-b")]


def test_minus_one_ends_the_pool():
    assert uuids(gpus.visible(pool("1,-1,0"), four())) == ["GPU-aa22"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("0,7,1", "'7' names no GPU here"),
        ("0,,1", "'' names no GPU here"),
        ("0,all", "'all' names no GPU here"),
        ("GPU-zz", "'GPU-zz' names no GPU here"),
        ("GPU-aa", "'GPU-aa' is the beginning of 2 UUIDs"),
        ("1,GPU-aa22", "'GPU-aa22' names a GPU for the second time"),
    ],
)
def test_an_entry_that_cuda_would_hide_the_rest_for_is_an_error(value: str, why: str):
    with pytest.raises(NoGpu, match=why) as caught:
        gpus.visible(pool(value), four())
    assert "0: GPU-aa11, 1: GPU-aa22, 2: GPU-bb33, 3: GPU-cc44" in str(caught.value)


def sliced() -> Nvml:
    parts = [Card("MIG-1111"), None, Card("MIG-2222")]
    return Nvml(Card("GPU-whole", 1), Card("GPU-sliced", 2, slices=parts), Card("GPU-empty", 3, slices=[None]))


def test_a_gpu_in_mig_mode_is_replaced_by_its_slices():
    found = gpus.visible({}, sliced())
    assert [(gpu.index, gpu.uuid, gpu.mig) for gpu in found] == [
        (0, "GPU-whole", False),
        (1, "MIG-1111", True),
        (1, "MIG-2222", True),
    ]
    assert found[1].name == "MIG 1g.10gb"


def test_a_pool_may_name_slices_and_a_sliced_gpu_means_its_first_slice():
    assert uuids(gpus.visible(pool("MIG-2222,0"), sliced())) == ["MIG-2222", "GPU-whole"]
    assert uuids(gpus.visible(pool("1"), sliced())) == ["MIG-1111"]
    assert uuids(gpus.visible(pool("GPU-sliced"), sliced())) == ["MIG-1111"]
    with pytest.raises(NoGpu, match="'2' names no GPU"):
        gpus.visible(pool("2"), sliced())


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND])
def test_gpus_older_than_mig_are_whole(code: int):
    nvml = four()
    nvml.breaks = {"nvmlDeviceGetMigMode": code}
    assert len(gpus.visible({}, nvml)) == 4


def test_a_gpu_without_memory_of_its_own_has_no_figure():
    nvml = four()
    nvml.breaks = {"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_NOT_SUPPORTED}
    assert [gpu.memory for gpu in gpus.visible({}, nvml)] == [0, 0, 0, 0]


def test_gpus_that_a_cgroup_keeps_from_us_are_not_counted():
    found = gpus.visible({}, Nvml(Card("", 1), Card("GPU-ours", 2)))
    assert [(gpu.index, gpu.uuid) for gpu in found] == [(0, "GPU-ours")]


def test_holding_names_the_pids_that_still_have_gpu_memory():
    slice_ = Card("MIG-1", pids=(30,))
    nvml = Nvml(Card("GPU-lost", 1), Card("GPU-a", 2, pids=(10, 20)), Card("GPU-b", 3, slices=[slice_]))
    assert gpus.holding([20, 30, 40], nvml) == {20, 30}
    assert gpus.holding([40], nvml) == set()
    assert nvml.open == 0


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlShutdown"])
def test_holding_never_raises(function: str):
    nvml = Nvml(Card("GPU-a", pids=(10,)), breaks={function: pynvml.NVML_ERROR_GPU_IS_LOST})
    assert gpus.holding([10], nvml) == set()


def test_this_machines_own_nvml_can_be_asked():
    assert isinstance(gpus.visible({}), list)
    assert gpus.holding([1]) <= {1}


def test_a_survey_tells_the_driver_and_the_free_memory_in_pci_order():
    driver = gpus.survey(Nvml(Card("GPU-b", bus=2), Card("GPU-a", bus=1, pids=(4711,))))
    assert driver is not None
    assert (driver.version, driver.cuda) == ("570.86.10", "12.8")
    first, second = driver.memories
    assert (first.gpu.index, first.gpu.uuid, first.free, first.total) == (0, "GPU-a", 60 * GIB, 80 * GIB)
    assert (first.pids, second.pids) == ((4711,), ())


def test_a_survey_without_a_driver_is_none():
    assert gpus.survey(Nvml(breaks={"nvmlInit": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND})) is None


def test_a_survey_of_memory_that_is_the_hosts_has_no_figure():
    driver = gpus.survey(Nvml(Card("GPU-a"), breaks={"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_NOT_SUPPORTED}))
    assert driver is not None
    assert (driver.memories[0].free, driver.memories[0].total) == (0, 0)


def test_a_survey_of_a_broken_driver_says_so():
    with pytest.raises(NoGpu, match="does not answer"):
        gpus.survey(Nvml(breaks={"nvmlInit": pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH}))


# -- what is in use


def test_use_is_told_by_the_names_that_workers_have():
    nvml = Nvml(Card("GPU-late", 9), Card("GPU-early", 2), Card("GPU-whole", 12, [Card("MIG-1")]))
    used, total = 20 * GIB, 80 * GIB
    assert gpus.usage(["1", "GPU-early", "MIG-1", "7", "GPU-nobodys"], nvml) == {
        "1": (used, total, 0.9),
        "GPU-early": (used, total, 0.2),
        "MIG-1": (used, total, None),
    }
    assert nvml.open == 0


def test_what_the_driver_does_not_tell_of_use_is_left_open():
    shared = Nvml(Card("GPU-shared", 1), breaks={"nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_NOT_SUPPORTED})
    assert gpus.usage(["0"], shared) == {"0": (None, None, 0.1)}
    assert gpus.usage(["0"], Nvml(breaks={"nvmlInit": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND})) == {}
    assert gpus.usage(["0"], Nvml(Card("GPU-a"), breaks={"nvmlDeviceGetUUID": pynvml.NVML_ERROR_GPU_IS_LOST})) == {}
