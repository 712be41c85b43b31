"""Why a launch ends, as types: each error is one line for a person and carries the exit code. Pure."""

from __future__ import annotations


class LaunchError(Exception):
    """Ends the program with `exit_code` and the message, never with a traceback."""

    exit_code = 1


class BadConfig(LaunchError):
    exit_code = 2


class NoGpu(LaunchError):
    """Fewer GPUs than the plan needs."""

    exit_code = 3


class EngineMissing(LaunchError):
    """The engine, or the model, is not installed here."""

    exit_code = 4


class StartFailed(LaunchError):
    """No worker ever became ready."""

    exit_code = 5
