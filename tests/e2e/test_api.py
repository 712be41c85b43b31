"""The API against its own description: schemathesis makes requests of it, right and wrong, and judges the answers."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest

from router.request import INFERENCE_PATHS
from tests.router.engines import MODELS, Engine

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed"),
]
KEY = "sesame-1"
QUICK = {"worker-startup-timeout": 0.05, "health-check-timeout": 0.05, "drain-timeout": 0.05}  # seconds
OPTIONS = (
    *("--phases", "examples,coverage", "--generation-deterministic", "--max-time", "60"),
    *("--exclude-path", "/events", "--warnings", "off", "--no-color"),
)
ENGINE = {
    "/health": 200,
    "/v1/models": MODELS,
    "/get_model_info": {},
    "/get_server_info": {},
    "/flush_cache": 200,
    "/terminate": 200,
    "/metrics": "running 1\n",
    **{path: {} for path in INFERENCE_PATHS},
}


async def test_every_answer_is_one_that_the_description_promises(start, tmp_path: Path):
    """The same requests each time. /events is left out: it never ends."""
    async with Engine(ENGINE) as engine:
        options = [word for name, value in QUICK.items() for word in (f"--{name}", str(value))]
        keys = ("--api-key", KEY, "--admin-api-key", KEY)
        router = await start("router", "--worker-urls", engine.url, *options, *keys)
        config = Path(__file__).parent / "schemathesis.toml"
        trial = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", *OPTIONS),
            *("--header", f"Authorization: Bearer {KEY}", f"{router.url}/openapi.json"),
            cwd=tmp_path,  # it leaves notes
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said = (await trial.communicate())[0].decode()
        finally:
            if trial.returncode is None:
                trial.kill()
        assert trial.returncode == 0, said
        assert "Coverage" in said
        log = "\n".join(router.lines)
        assert "Traceback" not in log, log
        assert KEY not in log
