"""A small model server on the GPUs that it is given: torch on real ones, only names on a stand-in driver's.

With torch it holds some memory of each. It answers every POST with what it computed there, which GPUs it sees, and its
pid.
"""

from __future__ import annotations

import argparse
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

SIDE = 8192  # of a square matrix of float32: 256 MiB


class Devices(Protocol):
    uuids: list[str]

    def compute(self, seed: int) -> float: ...


class Torch:
    """A matrix on each GPU that CUDA shows; a request multiplies it by a vector."""

    def __init__(self) -> None:
        import torch  # here, since it takes seconds, and is not there where the stand-in is

        self._torch = torch
        count = torch.cuda.device_count()
        self.uuids = [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in range(count)]
        self._matrices = [torch.eye(SIDE, device=f"cuda:{index}") for index in range(count)]

    def compute(self, seed: int) -> float:
        ones = (self._torch.full((SIDE,), float(seed), device=matrix.device) for matrix in self._matrices)
        return sum(float((matrix @ vector).mean()) for matrix, vector in zip(self._matrices, ones, strict=True))


class Pretended:
    """Sees what CUDA would: indices in PCI order and UUIDs, cut off at the first that names nothing."""

    def __init__(self, driver: Path) -> None:
        boards = json.loads((driver / "gpus.json").read_text())
        known = [board.get("mig", [board["uuid"]]) for board in boards]
        self.uuids: list[str] = []
        for token in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","):
            index = int(token) if token.isdecimal() else -1
            named = known[index][:1] if 0 <= index < len(known) else [u for us in known for u in us if u == token]
            if not named:
                break
            self.uuids += named

    def compute(self, seed: int) -> float:
        return float(seed * len(self.uuids))


def serve(port: int, devices: Devices) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known = {"/health": {}, "/v1/models": {"object": "list", "data": [{"id": "m", "object": "model"}]}}
            self._answer(200 if self.path in known else 404, known.get(self.path, {}))

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = str(devices.compute(int(asked.get("seed", 1))))
            choice = {"index": 0, "text": text, "finish_reason": "stop"}
            self._answer(200, {"choices": [choice], "devices": devices.uuids, "pid": os.getpid()})

        def _answer(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    driver = os.environ.get("STAND_IN_DRIVER")
    serve(parser.parse_args().port, Pretended(Path(driver)) if driver else Torch())
