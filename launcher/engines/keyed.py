"""Runs a server that takes its key as an option only, so that the key is in its options and not in argv.

    keyed.py MODULE OPTION ...    runs `python -m MODULE ... OPTION KEY`, with the key from the environment

Run by its path, by an interpreter that may not have this package: standard library only.
"""

from __future__ import annotations

import os
import runpy
import sys

VARIABLE = "ENGINE_API_KEY"


def main() -> None:
    module, option, *rest = sys.argv[1:]
    sys.argv[1:] = [*rest, option, os.environ.pop(VARIABLE)]
    sys.path[0] = os.getcwd()  # as with -m
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
