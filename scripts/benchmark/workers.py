"""The stand-in workers and the streaming client: two C programs of this folder, compiled at the start."""

from __future__ import annotations

import subprocess
from pathlib import Path

from scripts.benchmark.processes import LOAD_CPU, Child

HERE = Path(__file__).parent


def compile(name: str, folder: Path) -> Path:
    """The program made of `name`.c, in `folder`. Raises RuntimeError with what cc said."""
    program, source = folder / name, HERE / f"{name}.c"
    made = subprocess.run(["cc", "-O2", "-o", str(program), str(source)], capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(f"cc cannot compile {source.name}: {made.stderr.strip()[:200]}")
    return program


class Workers:
    """Stand-in workers, as many as asked for, served by one process on the load's CPU."""

    def __init__(self, program: Path, count: int):
        self.child = Child([str(program), str(count)], LOAD_CPU, stdout=subprocess.PIPE)
        assert self.child.process.stdout is not None
        self.ports = [int(port) for port in self.child.process.stdout.readline().split()]
        if len(self.ports) != count:
            self.child.stop()
            raise RuntimeError(f"the stand-in workers did not start: {len(self.ports)} of {count} ports")

    def urls(self, count: int) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports[:count]]
