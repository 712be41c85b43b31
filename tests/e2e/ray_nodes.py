"""A real Ray cluster on this machine, with nodes that pretend to have GPUs, as a process that is told what to do.

It says the head's address, and then does a line of its input at a time and repeats it: `add NAME GPUS`, `kill NAME`.
The nodes end with it.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any


class Nodes:
    """The tests' side."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.address = self._next()

    def tell(self, line: str) -> None:
        """Have it done."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        while self._next() != line:
            pass

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]

    def _next(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the Ray cluster has ended"
        return line.strip()


def main() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "node_name": "head"})
    nodes: dict[str, Any] = {"head": cluster.head_node}
    print(cluster.address, flush=True)
    for line in sys.stdin:
        verb, name, *gpus = line.split()
        if verb == "add":
            nodes[name] = cluster.add_node(num_cpus=1, num_gpus=int(gpus[0]), node_name=name)
        else:
            cluster.remove_node(nodes.pop(name), allow_graceful=False)
        print(line.strip(), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
