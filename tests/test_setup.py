"""What setup.cfg asks for: no release of a dependency with a known vulnerability can be installed with this."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# The first release without what is known of each as of November 2026; SECURITY.md tells what that was.
MENDED = {"aiohttp": (3, 14, 4), "httptools": (0, 6, 0), "uvloop": (0, 21), "PyYAML": (5, 4), "psutil": (5, 6, 6)}
SWAGGER_UI = (4, 1, 3)  # CVE-2021-46708, in the pages' own copy of it
DOMPURIFY = (3, 4, 0)  # CVE-2026-41238 to 41240, inside that


def version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split("."))


@pytest.mark.parametrize("name", MENDED)
def test_a_dependency_is_held_at_or_above_the_release_that_mends_what_is_known(name: str):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lowest = dict(line.split(">=") for line in setup["options"]["install_requires"].split())
    assert version(lowest[name]) >= MENDED[name]


def test_the_copy_of_swagger_ui_is_a_mended_one():
    bundle = (ROOT / "router/static/swagger/swagger-ui-bundle.js").read_text()
    found = re.search(r'VERSION:"([\d.]+)"', bundle)
    assert found
    assert version(found[1]) >= SWAGGER_UI
    purify = re.search(r'version="(3\.[\d.]+)",\w+\.removed=\[\]', bundle)
    assert purify
    assert version(purify[1]) >= DOMPURIFY
