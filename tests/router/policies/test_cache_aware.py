"""Where the cache-aware policy puts real bodies, and what it does at its edges."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from router.fleet import State, Worker
from router.policies.cache_aware import CacheAware
from router.request import RouteRequest, parse
from tests.router.policies.worlds import Router, request, workers


def cache_aware(**changes: Any) -> CacheAware:
    settings: dict[str, Any] = {
        "cache_threshold": 0.5,
        "balance_abs_threshold": 32,
        "balance_rel_threshold": 1.0001,
        "max_tree_size": 1 << 20,
    }
    return CacheAware(**{**settings, **changes})


def pick(policy: CacheAware, asked: RouteRequest, among: tuple[Worker, ...], seed: int = 0) -> str:
    return policy.pick(asked, among, 0.0, random.Random(seed)).id


def _generate(text: str) -> RouteRequest:
    return parse("/generate", json.dumps({"text": text, "sampling_params": {"max_new_tokens": 8}}).encode())


def _tokens(text: str) -> RouteRequest:
    return parse("/generate", json.dumps({"input_ids": [1000 + byte for byte in text.encode()]}).encode())


def _completions(text: str) -> RouteRequest:
    return parse("/v1/completions", json.dumps({"model": "m", "prompt": text}).encode())


def _chat(text: str) -> RouteRequest:
    return parse("/v1/chat/completions", json.dumps({"messages": [{"role": "user", "content": text}]}).encode())


def _compact_chat(text: str) -> RouteRequest:
    body = json.dumps({"messages": [{"role": "user", "content": text}]}, separators=(",", ":"))
    return parse("/v1/chat/completions", body.encode())


def _parts_chat(text: str) -> RouteRequest:
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    return parse("/v1/chat/completions", json.dumps({"messages": messages}).encode())


Ask = Callable[[str], RouteRequest]
SHAPES: tuple[Ask, ...] = (_generate, _tokens, _completions, _chat, _compact_chat, _parts_chat)
every_shape = pytest.mark.parametrize("ask", SHAPES, ids=lambda ask: ask.__name__[1:])

# Short on purpose: the JSON around them is longer than they are.
CATS, DOGS, EELS = "cats purr", "dogs bark", "eels slip"


@every_shape
def test_the_same_prefix_goes_to_the_same_worker_and_others_elsewhere(ask: Ask) -> None:
    router = Router(cache_aware(), *workers(0, 0, 0))
    homes = {text: router.send(ask(text)) for text in (CATS, DOGS, EELS)}
    assert sorted(homes.values()) == ["w0", "w1", "w2"]
    for seed in range(10):
        router.rng.seed(seed)
        for text, home in homes.items():
            assert router.send(ask(text)) == home
            assert router.send(ask(text + " a lot")) == home


@every_shape
def test_an_overload_moves_a_prefix_and_it_stays_known_in_both_places(ask: Ask) -> None:
    policy = cache_aware(balance_abs_threshold=4)
    router = Router(policy, *workers(0, 0))
    home = router.send(ask(CATS))
    leases = [router.start(ask(CATS)) for _ in range(6)]
    assert [lease.worker.id for lease in leases[:5]] == [home] * 5
    assert leases[5].worker.id != home
    away = leases[5].worker.id
    assert ask(CATS).matched == 0
    for lease in leases:
        lease.release(1.0)
    assert {router.send(ask(CATS)) for _ in range(30)} == {home, away}


@every_shape
def test_a_dead_worker_is_not_picked_and_is_forgotten(ask: Ask) -> None:
    policy = cache_aware()
    router = Router(policy, *workers(0, 0, 0))
    home = router.fleet.workers[router.send(ask(CATS))]
    router.fleet.set_lifecycle(home, State.BACKOFF)
    elsewhere = router.send(ask(CATS))
    assert elsewhere != home.id
    router.fleet.forget(home)
    router.fleet.set_lifecycle(home, State.READY)
    assert policy.index.share(home.id) == 0
    for seed in range(10):
        router.rng.seed(seed)
        assert router.send(ask(CATS)) == elsewhere


@every_shape
def test_a_removed_worker_leaves_nothing_in_the_index(ask: Ask) -> None:
    policy = cache_aware()
    router = Router(policy, *workers(0))
    router.send(ask(CATS))
    assert policy.index.size > 0
    router.fleet.remove(router.fleet.workers["w0"])
    policy.upkeep(0.0)
    assert policy.index.size == policy.index._entries == 0


@every_shape
def test_what_the_picked_worker_holds_is_told(ask: Ask) -> None:
    policy = cache_aware()
    alone = workers(0)
    first, again, longer = ask(CATS), ask(CATS), ask(CATS + DOGS)
    for asked in (first, again, longer):
        pick(policy, asked, alone)
    assert first.matched == 0
    assert again.matched == len(again.key)
    assert again.uncached_tokens == 0
    assert len(longer.key) / 3 < longer.matched < len(longer.key)


def test_what_another_worker_holds_is_not_told() -> None:
    policy = cache_aware(balance_abs_threshold=0)
    one, two = workers(0, 5)
    pick(policy, request(b"a" * 100), (two,))
    asked = request(b"a" * 100)
    assert pick(policy, asked, (one, two)) == "w0"
    assert asked.matched == 0


def test_a_conversation_stays_with_its_worker() -> None:
    router = Router(cache_aware(), *workers(0, 0, 0, 0))
    messages = [{"role": "system", "content": "You answer questions about cats, and nothing else. " * 3}]
    served, held = set(), 0
    for turn in range(20):
        messages.append({"role": "user", "content": f"question {turn}"})
        asked = parse("/v1/chat/completions", json.dumps({"messages": messages}).encode())
        served.add(router.send(asked))
        assert asked.matched == held
        held = len(asked.key)
        messages.append({"role": "assistant", "content": f"answer {turn}"})
    assert len(served) == 1


def test_short_chats_are_not_herded_by_the_json_they_share() -> None:
    router = Router(cache_aware(), *workers(0, 0, 0, 0))
    leases = [router.start(_compact_chat(text)) for text in ("hi", "yo", "ok", "no")]
    assert {lease.worker.id for lease in leases} == {"w0", "w1", "w2", "w3"}


# -- the rule, case by case


@pytest.mark.parametrize(
    ("loads", "absolute", "relative", "picked"),
    [
        ((33, 0), 32, 1.0001, "w1"),  # 33 - 0 > 32
        ((32, 0), 32, 1.0001, "w0"),  # not more than the absolute threshold
        ((30, 20), 5, 1.5, "w0"),  # 30 is not more than 1.5 times 20
        ((31, 20), 5, 1.5, "w1"),
    ],
)
def test_affinity_yields_only_out_of_balance(
    loads: tuple[int, int], absolute: int, relative: float, picked: str
) -> None:
    policy = cache_aware(balance_abs_threshold=absolute, balance_rel_threshold=relative)
    pair = workers(*loads)
    pick(policy, request(b"known prefix"), pair[:1])
    assert pick(policy, request(b"known prefix"), pair) == picked


def test_a_busy_worker_that_is_no_candidate_does_not_unbalance_the_rest() -> None:
    policy = cache_aware()
    one, two, _draining = workers(3, 0, 500)
    pick(policy, request(b"known prefix"), (one,))
    assert pick(policy, request(b"known prefix"), (one, two)) == "w0"


def test_out_of_balance_the_one_with_least_cached_is_preferred_among_the_idle() -> None:
    policy = cache_aware(balance_abs_threshold=4)
    trio = workers(0, 0, 9)
    pick(policy, request(b"something else"), trio[:1])
    for seed in range(10):
        assert pick(policy, request(b"%d" % seed), trio, seed) == "w1"
        policy.forget(trio[1])


@pytest.mark.parametrize(("shared", "picked"), [(50, "w1"), (51, "w0")])
def test_a_match_rate_at_the_threshold_is_a_miss(shared: int, picked: str) -> None:
    policy = cache_aware()
    pair = workers(0, 0)
    pick(policy, request(b"x" * shared), pair[:1])
    assert pick(policy, request(b"x" * shared + b"y" * (100 - shared)), pair) == picked


def test_the_least_loaded_of_the_holders_gets_a_hit() -> None:
    policy = cache_aware()
    trio = workers(4, 2, 0)
    for worker in trio[:2]:
        pick(policy, request(b"shared system prompt"), (worker,))
    assert pick(policy, request(b"shared system prompt, hello"), trio) == "w1"


def test_equal_holders_share_the_hits() -> None:
    policy = cache_aware()
    trio = workers(0, 0, 0)
    for worker in trio[:2]:
        pick(policy, request(b"shared system prompt"), (worker,))
    picks = Counter(pick(policy, request(b"shared system prompt"), trio, seed) for seed in range(40))
    assert set(picks) == {"w0", "w1"}


def test_when_the_best_holder_is_away_the_next_best_gets_the_hit() -> None:
    policy = cache_aware()
    best, second, third = workers(0, 0, 0)
    pick(policy, request(b"a" * 100), (best,))
    pick(policy, request(b"a" * 70), (second,))
    asked = request(b"a" * 100)
    assert pick(policy, asked, (second, third)) == "w1"
    assert asked.matched == 70


def test_when_the_best_holder_is_away_a_poor_match_is_a_miss() -> None:
    policy = cache_aware()
    best, second, third = workers(0, 0, 0)
    pick(policy, request(b"a" * 100), (best,))
    pick(policy, request(b"a" * 30), (second,))
    assert pick(policy, request(b"a" * 100), (second, third)) == "w2"


def test_a_new_prompt_goes_where_the_most_cache_is_free() -> None:
    policy = cache_aware()
    trio = workers(0, 0, 0)
    for worker, length in zip(trio, (30, 10, 20), strict=True):
        pick(policy, request(bytes([65 + length]) * length), (worker,))
    assert pick(policy, request(b"new"), trio) == "w1"
    assert pick(policy, request(b"one more"), trio) == "w1"  # 13 of its own by now, still the fewest


def test_with_equal_room_a_new_prompt_goes_to_the_less_busy() -> None:
    policy = cache_aware()
    for seed in range(10):
        assert pick(policy, request(b"new"), workers(5, 4), seed) == "w1"
        policy.index.clear()


def test_a_slow_worker_with_a_small_tree_does_not_get_every_new_prompt() -> None:
    """The death spiral: the slow one finishes nothing, so it caches little, so it looks free."""
    policy = cache_aware(balance_abs_threshold=1000)
    router = Router(policy, *workers(0, 0, 0))
    slow = router.fleet.workers["w0"]
    for number in range(300):
        lease = router.start(request(b"%d: a new prompt" % number))
        if lease.worker is slow:
            policy.forget(slow)  # as small a tree as can be
        else:
            lease.release(1.0)
    assert slow.inflight <= 1


@pytest.mark.parametrize(("loads", "picked"), [((0, 1), "w0"), ((1, 2), "w1"), ((16, 20), "w1"), ((16, 21), "w0")])
def test_clearly_busier_is_more_than_the_square_root_above_the_least(loads: tuple[int, int], picked: str) -> None:
    policy = cache_aware()
    pair = workers(*loads)
    pick(policy, request(b"w0 has less room"), pair[:1])
    assert pick(policy, request(b"new"), pair) == picked


def test_without_a_prompt_the_fewest_in_flight_decide_and_nothing_is_indexed() -> None:
    policy = cache_aware()
    asked = parse("/generate", b'{"text":""}')
    asked.matched = 7
    assert pick(policy, asked, workers(2, 1, 2)) == "w1"
    assert pick(policy, request(b""), workers(2, 1, 2)) == "w1"
    assert asked.matched == 0
    assert policy.index.size == 0


def test_ties_are_random() -> None:
    assert {pick(cache_aware(), request(b"new"), workers(0, 0, 0), seed) for seed in range(40)} == {"w0", "w1", "w2"}


def test_a_prompt_longer_than_the_index_is_still_recognised() -> None:
    policy = cache_aware(max_tree_size=100)
    pair = workers(0, 0)
    assert pick(policy, request(b"x" * 1000), pair[1:]) == "w1"
    for seed in range(10):
        assert pick(policy, request(b"x" * 1000), pair, seed) == "w1"


def test_without_an_index_new_prompts_spread_by_load() -> None:
    policy = cache_aware(max_tree_size=0)
    router = Router(policy, *workers(0, 0, 0))
    assert sorted(router.start(request(b"same")).worker.id for _ in range(3)) == ["w0", "w1", "w2"]


def test_a_restarted_worker_is_given_new_prompts_again() -> None:
    policy = cache_aware()
    pair = workers(0, 0)
    pick(policy, request(b"a" * 100), pair[:1])
    pick(policy, request(b"b" * 50), pair[1:])
    policy.forget(pair[0])
    assert pick(policy, request(b"new"), pair) == "w0"


def test_in_a_large_fleet_new_prompts_still_spread_evenly() -> None:
    router = Router(cache_aware(), *workers(*[0] * 200))
    picks = Counter(router.send(_generate(f"{number * 7919 % 1000:03} {CATS}")) for number in range(1000))
    assert len(picks) == 200
    assert max(picks.values()) <= 10


@pytest.mark.parametrize("seed", range(10))
def test_in_a_large_fleet_the_one_idle_worker_is_found(seed: int) -> None:
    among = workers(*[9] * 150, 0, *[9] * 150)
    assert pick(cache_aware(), _generate(CATS), among, seed) == "w150"


def test_holders_are_looked_for_among_the_candidates_of_this_request() -> None:
    policy = cache_aware()
    one, two, three = workers(0, 0, 0)
    assert pick(policy, _generate(CATS), (one,)) == "w0"
    assert pick(policy, _generate(CATS), (one, two)) == "w0"
    assert pick(policy, _generate(CATS), (two,)) == "w1"
    assert pick(policy, _generate(CATS), (one, three)) == "w0"
