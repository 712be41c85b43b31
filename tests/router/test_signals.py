"""Signals as a queue."""

from __future__ import annotations

import ctypes
import os
import signal

import pytest

from router import signals
from router.signals import Signals


async def test_signals_are_read_in_the_order_in_which_they_came():
    queue = Signals()
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
        assert await queue.next() == number


async def test_end_passes_over_what_does_not_end_the_program():
    queue = Signals()
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGINT)
    assert await queue.end() == signal.SIGINT


async def test_a_closed_terminal_ends_the_program(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(signals, "has_terminal", lambda: True)
    queue = Signals()
    monkeypatch.setattr(signals, "has_terminal", lambda: False)
    os.kill(os.getpid(), signal.SIGHUP)
    assert await queue.next() == signal.SIGTERM


async def test_under_nohup_a_hang_up_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        queue = Signals()
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await queue.next() == signal.SIGTERM
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_a_handler_that_a_library_has_put_before_is_passed_over():
    queue = Signals()
    ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(1))  # SIG_IGN, behind Python's back
    os.kill(os.getpid(), signal.SIGTERM)
    queue.renew()
    os.kill(os.getpid(), signal.SIGINT)
    assert await queue.next() == signal.SIGINT
    os.kill(os.getpid(), signal.SIGTERM)
    assert await queue.next() == signal.SIGTERM
