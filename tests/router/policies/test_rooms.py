"""How large each worker's cache is believed to be."""

from __future__ import annotations

import pytest

from router.policies.rooms import DENSEST, MORE, NOISE, Rooms
from router.usage import Usage
from tests.router.policies.worlds import workers

LEAST = 1 << 20


def test_what_an_engine_tells_counts_four_bytes_a_token_and_one_that_tells_nothing_may_take_all() -> None:
    rooms, (told, untold) = Rooms(LEAST), workers(0, 0)
    told.kv_tokens = 1000
    rooms.among((told, untold))
    assert (rooms.of(told), rooms.of(untold), rooms.total) == (4000, LEAST, LEAST)


def test_all_that_is_told_together_is_the_least_there_must_be() -> None:
    rooms, members = Rooms(LEAST), workers(0, 0)
    for worker in members:
        worker.kv_tokens = LEAST
    rooms.among(members)
    assert rooms.total == 2 * 4 * LEAST


@pytest.mark.parametrize(("size", "tokens", "density"), [(6000, 1000, 6.0), (2000, 1000, 4.0), (90_000, 100, DENSEST)])
def test_bytes_a_token_are_learnt_from_usage_as_far_as_they_add_room(size: int, tokens: int, density: float) -> None:
    rooms, (worker,) = Rooms(LEAST), workers(0)
    worker.kv_tokens = LEAST
    rooms.among((worker,))
    for _ in range(500):
        rooms.told(worker, size, size, Usage(tokens, None))
    assert rooms.of(worker) / LEAST == pytest.approx(density, rel=0.01)
    assert rooms.total == rooms.of(worker)


def test_who_held_more_than_was_believed_has_more_room_up_to_a_bound() -> None:
    rooms, (more, other) = Rooms(LEAST), workers(0, 0)
    more.kv_tokens = other.kv_tokens = LEAST
    rooms.among((more, other))
    before = rooms.of(more)
    rooms.told(more, 40_000, 0, Usage(10_000, 8000))
    assert before < rooms.of(more) < MORE * before
    assert rooms.of(other) == before
    for _ in range(10_000):
        rooms.told(more, 40_000, 0, Usage(10_000, 8000))
    assert rooms.of(more) == MORE * before
    assert rooms.total == (MORE + 1) * before


def test_workers_that_do_not_tell_get_more_room_together() -> None:
    rooms, members = Rooms(LEAST), workers(0, 0)
    rooms.among(members)
    for _ in range(10_000):
        rooms.told(members[0], 40_000, 0, Usage(10_000, 8000))
    assert rooms.total == rooms.of(members[1]) == MORE * LEAST


def test_what_was_believed_or_nearly_so_or_less_changes_nothing() -> None:
    rooms, (worker,) = Rooms(LEAST), workers(0)
    rooms.among((worker,))
    for held, cached in ((32_000, 8000), (32_000 - NOISE, 8000), (32_000, 0)):
        rooms.told(worker, 40_000, held, Usage(10_000, cached))
    assert rooms.total == LEAST


def test_who_was_started_anew_has_what_it_tells() -> None:
    rooms, (worker,) = Rooms(LEAST), workers(0)
    worker.kv_tokens = LEAST
    rooms.told(worker, 40_000, 0, Usage(10_000, 8000))
    rooms.forget(worker)
    assert rooms.of(worker) == 4 * LEAST


def test_a_cache_that_keeps_whole_prompts_has_room_for_as_many_as_they_are_of_late() -> None:
    rooms, (worker,) = Rooms(LEAST), workers(0)
    worker.kv_tokens, worker.kv_prompts = 32_768, 4
    for _ in range(500):
        rooms.sent(90_000)
    assert rooms.of(worker) == 4 * 32_768  # four would be more than it holds
    rooms = Rooms(LEAST)
    for size in (1000, 3000):
        rooms.sent(size)
    assert rooms.of(worker) == 4 * 2000
    for _ in range(500):
        rooms.sent(5000)
    assert rooms.of(worker) == pytest.approx(4 * 5000, abs=4)
    rooms.told(worker, 40_000, 0, Usage(10_000, 8000))
    assert rooms.of(worker) < 4 * 5001


def test_the_sum_follows_once_there_were_as_many_answers_as_there_are_workers() -> None:
    rooms, members = Rooms(LEAST), workers(*[0] * 10)
    for worker in members:
        worker.kv_tokens = LEAST
    rooms.among(members)
    before = rooms.total
    for _ in range(9):
        rooms.told(members[0], 40_000, 0, Usage(10_000, 8000))
    assert rooms.total == before
    rooms.told(members[0], 40_000, 0, Usage(10_000, 8000))
    assert rooms.total > before
