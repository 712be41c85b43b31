"""Requests that were on a worker when it died: one at a time on each worker, and nobody is forgotten."""

from __future__ import annotations

import pytest

from router.fleet import Worker
from router.suspects import PATIENCE, Suspects

A, B = Worker("w0", "http://a"), Worker("w1", "http://b")


@pytest.fixture
def suspects() -> Suspects[str]:
    return Suspects()


def test_a_worker_with_a_suspect_is_not_free(suspects: Suspects[str]) -> None:
    suspects.take("x", A, 10.0)
    assert suspects.free((A, B), 10.0) == (B,)


def test_a_worker_is_free_when_its_suspect_has_left(suspects: Suspects[str]) -> None:
    suspects.take("x", A, 10.0)
    assert suspects.leave("x") is False
    assert suspects.free((A, B), 10.0) == (A, B)


def test_a_worker_that_its_suspect_has_not_killed_for_long_is_free(suspects: Suspects[str]) -> None:
    suspects.take("x", A, 10.0)
    assert suspects.free((A,), 10.0 + PATIENCE - 0.1) == ()
    assert suspects.free((A,), 10.0 + PATIENCE) == (A,)


def test_one_that_leaves_a_worker_does_not_free_it_of_the_one_that_came_after(suspects: Suspects[str]) -> None:
    suspects.take("x", A, 10.0)
    suspects.take("y", A, 10.0 + PATIENCE)
    suspects.leave("x")
    assert suspects.free((A,), 10.0 + PATIENCE) == ()


def test_those_who_wait_are_told_of_in_their_order_and_once(suspects: Suspects[str]) -> None:
    suspects.take("x", A, 10.0)
    suspects.wait("y")
    suspects.wait("z")
    assert suspects.leave("x") is True
    assert (suspects.waiting(), suspects.waiting()) == (["y", "z"], [])


def test_one_that_leaves_the_queue_is_not_told_of(suspects: Suspects[str]) -> None:
    suspects.wait("y")
    assert suspects.leave("y") is False
    assert suspects.waiting() == []
