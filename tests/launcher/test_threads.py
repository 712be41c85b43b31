"""Work in threads that nobody waits for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from launcher.threads import unawaited


async def test_what_the_work_returns_or_raises_is_told():
    assert await unawaited(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await unawaited(lambda: 1 // 0)


def test_work_that_hangs_does_not_keep_the_process_from_ending():
    code = """
import asyncio, threading
from launcher.threads import unawaited
async def main():
    await asyncio.wait({unawaited(threading.Event().wait)}, timeout=0)
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
