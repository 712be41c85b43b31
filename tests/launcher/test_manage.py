"""The commands for a node that runs, called wrongly. What they do when called rightly: tests/e2e/test_commands.py."""

from __future__ import annotations

import pytest

from launcher.cli import main


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("restart",), "name the workers, or give --all. See launch restart --help"),
        (("restart", "w0", "--all"), "name the workers, or give --all"),
        (("drain",), "Missing argument 'WORKER...'"),
        (("status", "--url", "nonsense"), "--url must look like http://127.0.0.1:30000"),
        (("status", "--jsn"), "No such option '--jsn'"),
        (("logs", "w0", "-n", "0"), "0 is not in the range 1<=x<=1000"),
        (("workers", "--admin-api-key", "k"), "No such option '--admin-api-key'"),
        (("workers", "--admin-api-key-file", "/nowhere"), "--admin-api-key-file /nowhere cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_one_line(argv: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]):
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
