from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from launcher.engines.sim_kv import KVCache


def computed(cache: KVCache, keys: list[int]) -> None:
    cache.allocate(len(keys))
    for key in keys:
        cache.commit(key)


def test_released_blocks_stay_until_room_is_needed():
    cache = KVCache(4)
    computed(cache, [1, 2])
    cache.release([1, 2], 0)
    assert cache.match([1, 2, 3], 3) == (2, 2)
    cache.allocate(2)
    assert cache.match([1, 2], 2) == (2, 2)
    cache.allocate(1)
    assert cache.match([1, 2], 2) == (1, 1)


def test_the_least_recently_used_prefix_is_evicted_first_and_its_end_before_its_beginning():
    cache = KVCache(4)
    computed(cache, [1, 2])
    computed(cache, [3, 4])
    cache.release([1, 2], 0)
    cache.release([3, 4], 0)
    cache.acquire([1, 2])
    cache.release([1, 2], 0)
    gone = []
    for _ in range(4):
        cache.allocate(1)
        gone += [key for key in (1, 2, 3, 4) if cache.references(key) < 0 and key not in gone]
    assert gone == [4, 3, 2, 1]


def test_a_referenced_block_is_never_evicted():
    cache = KVCache(3)
    computed(cache, [1, 2])
    assert cache.available == 1
    with pytest.raises(ValueError, match="2 blocks wanted, 1 available"):
        cache.allocate(2)
    assert cache.match([1, 2], 2) == (2, 0)


def test_a_block_computed_twice_is_stored_once():
    cache = KVCache(4)
    cache.allocate(2)
    cache.commit(7)
    cache.commit(7)
    assert (cache.cached, cache.private, cache.free, cache.references(7)) == (1, 0, 3, 2)


def test_a_flush_keeps_what_is_referenced():
    cache = KVCache(4)
    computed(cache, [1])
    computed(cache, [2])
    cache.release([2], 0)
    cache.flush()
    assert cache.match([1], 1) == (1, 0)
    assert cache.match([2], 1) == (0, 0)
    assert cache.free == 3


class AnyUse(RuleBasedStateMachine):
    """Requests come, compute their blocks and go, in every order."""

    held = Bundle("held")  # requests: (keys, how many of them are in the cache, private blocks)

    def __init__(self) -> None:
        super().__init__()
        self.cache = KVCache(12)
        self.users: dict[int, int] = {}
        self.private = 0

    @rule(target=held, branch=st.integers(1, 3), size=st.integers(1, 6))
    def begin(self, branch: int, size: int):
        keys = [branch * 100 + depth for depth in range(size)]
        hits, idle = self.cache.match(keys, size)
        if self.cache.available - idle < size - hits:
            return multiple()
        self.cache.acquire(keys[:hits])
        self.cache.allocate(size - hits)
        self._count(keys[:hits], 1)
        self.private += size - hits
        return (tuple(keys), hits, size - hits)

    @rule(target=held, request=consumes(held))
    def compute(self, request):
        keys, done, private = request
        if not private:
            return request
        self.cache.commit(keys[done])
        self._count([keys[done]], 1)
        self.private -= 1
        return (keys, done + 1, private - 1)

    @rule(request=consumes(held))
    def leave(self, request):
        keys, done, private = request
        self.cache.release(keys[:done], private)
        self._count(keys[:done], -1)
        self.private -= private

    @rule()
    def flush(self):
        self.cache.flush()

    def _count(self, keys, change: int) -> None:
        for key in keys:
            self.users[key] = self.users.get(key, 0) + change

    @invariant()
    def every_block_is_somewhere(self):
        assert self.cache.private == self.private
        assert self.cache.free >= 0
        assert self.cache.free + self.cache.private + self.cache.cached == 12
        assert 0 <= self.cache.usage <= 1

    @invariant()
    def references_are_what_requests_hold(self):
        for key, users in self.users.items():
            assert self.cache.references(key) == users or (users == 0 and self.cache.references(key) == -1)

    @invariant()
    def no_block_outlives_its_beginning(self):
        for key in self.users:
            if key % 100 and self.cache.references(key) >= 0:
                assert self.cache.references(key - 1) >= 0


TestAnyUse = AnyUse.TestCase
TestAnyUse.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
