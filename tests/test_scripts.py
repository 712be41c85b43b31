"""The scripts are found: each is executable and listed."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_script_is_executable_and_listed_in_the_readme():
    listed = (ROOT / "scripts" / "README.md").read_text()
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and path.suffix == ""]
    assert scripts
    assert [path.name for path in scripts if not os.access(path, os.X_OK)] == []
    assert [path.name for path in scripts if f"`{path.name}`" not in listed] == []
