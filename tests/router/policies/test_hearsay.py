"""What is guessed of caches that other routers have filled."""

from __future__ import annotations

from router.policies.hearsay import MORE, MOST, Hearsay
from router.request import RouteRequest
from tests.router.policies.worlds import workers

FLEET = workers(0, 0, 0, 0)


def asked(name: str, size: int = 4000, session: str | None = None) -> RouteRequest:
    return RouteRequest("/generate", (name * size).encode()[:size], session=session)


def learnt(share: float, requests: int = 1000) -> Hearsay:
    """One that has found this share of prompts."""
    hearsay = Hearsay()
    for number in range(requests):
        request = asked(f"prompt {number} ")
        request.matched = int(request.size * share)
        hearsay.learn(request)
    return hearsay


def guess(hearsay: Hearsay, request: RouteRequest, **known: int) -> dict[str, int]:
    held = dict(known)
    hearsay.add(request, FLEET, held)
    return held


def test_where_prompts_have_nothing_in_common_nothing_is_guessed():
    assert guess(learnt(0.0), asked("a")) == {}
    assert guess(Hearsay(), asked("a")) == {}


def test_a_prompt_is_guessed_to_be_held_at_its_home_as_much_as_others_were_found():
    ((home, held),) = guess(learnt(0.5), asked("a")).items()
    assert abs(held - 4000 * 0.5 * MORE) <= 1
    assert all(list(guess(learnt(0.5), asked("a"))) == [home] for _ in range(3))
    assert len({next(iter(guess(learnt(0.5), asked(f"other {n}")))) for n in range(50)}) == len(FLEET)


def test_it_is_never_all_of_it():
    ((_, held),) = guess(learnt(1.0), asked("a")).items()
    assert held == 4000 * MOST


def test_the_home_is_that_of_the_session_or_of_the_beginning():
    hearsay = learnt(0.5)
    turns = [asked("hello", 2000), asked("hello", 9000)]
    assert len({tuple(guess(hearsay, turn)) for turn in turns}) == 1
    named = [asked(f"prompt {n}", session="s") for n in range(20)]
    assert len({tuple(guess(hearsay, request)) for request in named}) == 1


def test_what_is_known_to_be_held_stands_where_it_is_more():
    hearsay = learnt(0.5)
    (home,) = guess(hearsay, asked("a"))
    assert guess(hearsay, asked("a"), **{home: 3900}) == {home: 3900}
    assert guess(hearsay, asked("a"), **{home: 100})[home] > 100


def test_a_request_without_a_prompt_has_no_home():
    assert guess(learnt(0.9), RouteRequest("/generate")) == {}


def test_it_remembers_how_much_is_computed_of_a_request():
    assert abs(learnt(0.5).uncached - 500) < 5


def test_a_worker_that_left_is_not_remembered():
    hearsay = learnt(0.5)
    guess(hearsay, asked("a"))
    hearsay.forget(FLEET[0])
    assert FLEET[0].id not in hearsay._homes._odd
