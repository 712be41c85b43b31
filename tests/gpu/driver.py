"""GPUs for the tests: this machine's own, or a stand-in driver's, which can also fail as NVML does."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher import gpus

NVML = Path(__file__).parent / "nvml"  # the stand-in, to be first on the path
ROOT = Path(__file__).parents[2]


class StandIn:
    """A folder that plays the driver; tests/gpu/nvml/pynvml.py reads it. This is its one writer."""

    def __init__(self, folder: Path, devices: Sequence[str | dict[str, Any]]):
        self.folder = folder
        (folder / "held").mkdir(parents=True)
        self._write("gpus.json", [{"uuid": device} if isinstance(device, str) else device for device in devices])
        self._write("fails.json", {})

    @property
    def environ(self) -> dict[str, str]:
        """What makes a process see these GPUs."""
        path = os.pathsep.join([str(NVML), os.environ.get("PYTHONPATH", str(ROOT))])
        return {"PYTHONPATH": path, "STAND_IN_DRIVER": str(self.folder)}

    def hold(self, uuid: str, pid: int) -> None:
        """From now on this process has memory of that GPU, dead or alive."""
        (self.folder / "held" / f"{uuid}.{pid}").touch()

    def give_back(self) -> None:
        """Nobody holds memory any more."""
        for file in (self.folder / "held").iterdir():
            file.unlink()

    def fail(self, **codes: int) -> None:
        """Have these functions of NVML raise these errors, and no others any."""
        self._write("fails.json", codes)

    def _write(self, name: str, content: Any) -> None:
        new = self.folder / f"{name}.new"
        new.write_text(json.dumps(content))
        new.replace(self.folder / name)


def real() -> list[str]:
    """The UUIDs of this machine's GPUs; none where torch cannot be had to use them."""
    if importlib.util.find_spec("torch") is None:
        return []
    return [gpu.uuid for gpu in gpus.visible({})]
