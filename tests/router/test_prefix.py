"""The prefix index against a naive model, and its bounds."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.prefix import (
    MAX_DEPTH,
    MAX_KEY,
    MIN_ENTRIES,
    SLICE,
    PrefixIndex,
    Stay,
    _common,
    _Node,
    _oldest,
    _Tenant,
)

HOLDERS = ("w0", "w1", "w2")
ROOMY = 1 << 30

# Two letters make many shared prefixes; the long runs make edges that are compared in halves.
keys = st.builds(
    bytes.__add__,
    st.sampled_from([b"", b"a" * 700, b"a" * 300 + b"b" * 400]),
    st.lists(st.sampled_from(b"ab"), max_size=8).map(bytes),
)
inserts = st.tuples(st.just("insert"), keys, st.sampled_from(HOLDERS))
enters = st.tuples(st.just("enter"), keys, st.sampled_from(HOLDERS))
leaves = st.tuples(st.just("leave"), st.just(b""), st.sampled_from(HOLDERS))
forgets = st.tuples(st.just("forget"), st.just(b""), st.sampled_from(HOLDERS))
purges = st.tuples(st.just("purge"), st.just(b""), st.just(""))
histories = st.lists(inserts | inserts | inserts | forgets | purges, max_size=40)
flights = st.lists(inserts | enters | enters | leaves | forgets | purges, max_size=40)


def common(one: bytes, two: bytes) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


class Model:
    """What each holder was sent, one whole key after another."""

    def __init__(self) -> None:
        self.sent: dict[str, list[bytes]] = {}

    def held(self, key: bytes, holder: str) -> int:
        return max((common(key, sent) for sent in self.sent.get(holder, [])), default=0)

    def matches(self, key: bytes) -> dict[str, int]:
        return {holder: length for holder in self.sent if (length := self.held(key, holder))}

    def size(self, holder: str) -> int:
        """Distinct prefixes are distinct bytes of the tree."""
        return len({sent[:n] for sent in self.sent.get(holder, []) for n in range(1, len(sent) + 1)})


def play(index: PrefixIndex, history: list[tuple[str, bytes, str]]) -> Iterator[tuple[str, bytes, str, int]]:
    for action, key, holder in history:
        held = 0
        if action == "insert":
            held = index.insert(key, holder)
        elif action == "forget":
            index.forget(holder)
        else:
            index._purge(2)
        yield action, key, holder, held


def nodes(index: PrefixIndex) -> list[_Node]:
    found, todo = [], [index._root]
    while todo:
        node = todo.pop()
        todo += node.children.values()
        found.append(node)
    return found[1:]


def check(index: PrefixIndex) -> None:
    """Everything that the head of prefix.py says holds between two calls."""
    entries: list[tuple[_Tenant, _Node]] = []
    for node in nodes(index):
        assert node.edge
        assert node.holders or node.children
        assert node.parent is not None
        assert node.parent.children[node.edge[0]] is node
        for tenant, stamp in node.holders.items():
            entries.append((tenant, node))
            if tenant.alive and node.parent is not index._root:
                assert node.parent.holders[tenant] >= stamp
    alive = [(tenant, node) for tenant, node in entries if tenant.alive]
    assert index.size == sum(len(node.edge) for _, node in alive)
    assert index.size == sum(index.share(holder) for holder in HOLDERS)
    assert index._bytes == sum(len(node.edge) for _, node in entries)
    assert index._bytes <= index.max_size
    assert index._entries == len(entries) <= index.max_entries
    assert {tenant for tenant, _ in entries if not tenant.alive and not tenant.stays} <= set(index._dead)
    queued = {tenant: stamp for stamp, tenant in index._heap}
    assert len(queued) == len(index._heap)
    loose = [(tenant, node) for tenant, node in alive if node not in tenant.stays]
    assert {tenant for tenant, _ in loose} <= queued.keys()
    for tenant, _ in loose:
        assert queued[tenant] <= _oldest(tenant) == min(n.holders[tenant] for t, n in loose if t is tenant)
    for tenant, _ in alive:
        assert all(node.holders[tenant] >= stamp for node, stamp in tenant.ends.items())
        assert list(tenant.ends.values()) == sorted(tenant.ends.values())


@given(histories, st.lists(keys, max_size=5))
def test_what_is_held_is_what_was_sent(history: list[tuple[str, bytes, str]], questions: list[bytes]) -> None:
    index, model = PrefixIndex(ROOMY), Model()
    for action, key, holder, held in play(index, history):
        if action == "insert":
            assert held == model.held(key, holder)
            model.sent.setdefault(holder, []).append(key)
        elif action == "forget":
            model.sent.pop(holder, None)
    for key in [*questions, *(key for _, key, _ in history)]:
        expected = model.matches(key)
        longest = max(expected.values(), default=0)
        assert index.matches(key) == expected
        assert index.match(key) == (longest, {holder for holder, length in expected.items() if length == longest})
        for most in range(3):
            found = index.matches_of({HOLDERS[0]}, key, most)
            assert found.items() <= expected.items()
            asked = {HOLDERS[0]} & expected.keys()
            others = sorted(length for holder, length in expected.items() if holder not in asked)
            assert asked <= found.keys()
            assert sorted(found[holder] for holder in found.keys() - asked) == others[max(0, len(others) - most) :]
    for holder in HOLDERS:
        assert index.share(holder) == model.size(holder)


@given(histories, st.integers(0, 900))
def test_the_rules_hold_after_every_call(history: list[tuple[str, bytes, str]], max_size: int) -> None:
    index = PrefixIndex(max_size)
    for _ in play(index, history):
        check(index)


@given(flights, st.integers(100, 2000), st.integers(100, 2000))
def test_what_stays_is_held_until_it_leaves_and_the_rest_keeps_to_the_limits(
    history: list[tuple[str, bytes, str]], max_size: int, limit: int
) -> None:
    index = PrefixIndex(max_size)
    stays: dict[str, list[tuple[Stay, int, bytes]]] = {holder: [] for holder in HOLDERS}
    for action, key, holder in history:
        if action == "enter":
            stay = index.enter(key, holder, limit)
            stays[holder].append((stay, index.matches(key).get(holder, 0), key))
        elif action == "leave" and stays[holder]:
            index.leave(stays[holder].pop(0)[0])
        elif action == "forget":
            index.forget(holder)
            stays[holder] = [(stay, 0, key) for stay, _, key in stays[holder]]
        elif action != "leave":
            list(play(index, [(action, key, holder)]))
        check(index)
        for name, kept in stays.items():
            assert all(index.matches(key).get(name, 0) >= held for _, held, key in kept)
            tenant = index._tenants.get(name)
            if action == "enter" and key and name == holder and tenant is not None and tenant.size > limit:
                assert not _oldest(tenant)
    for kept in stays.values():
        for stay, _, _ in kept:
            index.leave(stay)
    check(index)
    assert not any(tenant.stays for tenant in index._tenants.values())
    index.clear()
    while index._dead:
        index.upkeep()
    assert (index._bytes, index._entries, nodes(index)) == (0, 0, [])


def test_a_key_for_which_only_keys_that_stay_could_make_room_is_cut_short() -> None:
    index = PrefixIndex(25)
    stays = [index.enter(b"a" * 10, "w0", 100), index.enter(b"b" * 10, "w1", 100)]
    stays.append(index.enter(b"a" * 20, "w0", 100))  # goes on where the first one, which stays, ends
    stays.append(index.enter(b"c" * 10, "w1", 100))
    assert [index.matches(letter * 20) for letter in (b"a", b"b", b"c")] == [{"w0": 10}, {"w1": 10}, {}]
    check(index)
    for stay in stays:
        index.leave(stay)
    check(index)
    index.insert(b"c" * 25, "w1")
    assert [index.matches(letter * 25) for letter in (b"a", b"b", b"c")] == [{}, {}, {"w1": 25}]


def test_a_key_that_left_last_is_the_last_to_go() -> None:
    index = PrefixIndex(ROOMY)
    one = index.enter(b"a" * 10, "w0", 20)
    two = index.enter(b"b" * 10, "w0", 20)
    index.leave(two)
    index.leave(one)
    index.enter(b"c" * 10, "w0", 20)
    assert index.match(b"b" * 10)[0] == 0
    assert index.match(b"a" * 10)[0] == 10


@given(histories, st.integers(1, 900), keys.filter(bool))
def test_the_key_just_sent_is_held_whole_or_as_far_as_the_bound_allows(
    history: list[tuple[str, bytes, str]], max_size: int, key: bytes
) -> None:
    index = PrefixIndex(max_size)
    for _ in play(index, history):
        pass
    index.insert(key, "w1")
    assert index.matches(key)["w1"] == min(len(key), max_size)


@given(st.lists(st.tuples(keys.filter(bool), st.sampled_from(HOLDERS)), min_size=1, max_size=30))
def test_eviction_goes_by_last_use_and_from_the_leaf_up(sent: list[tuple[bytes, str]]) -> None:
    index = PrefixIndex(ROOMY)
    for key, holder in sent:
        index.insert(key, holder)
    order = [(stamp, -depth(node), tenant.holder) for node in nodes(index) for tenant, stamp in node.holders.items()]
    gone = []
    while index._entries:
        before = {
            (id(node), tenant.holder): (s, -depth(node)) for node in nodes(index) for tenant, s in node.holders.items()
        }
        index._make_room()
        after = {(id(node), tenant.holder) for node in nodes(index) for tenant in node.holders}
        gone += [(*before[entry], entry[1]) for entry in before.keys() - after]
    assert gone == sorted(order)
    assert index.evictions == len(order)


def depth(node: _Node) -> int:
    return 0 if node.parent is None else 1 + depth(node.parent)


@given(keys, keys, st.integers(0, 3))
def test_two_keys_part_where_their_first_difference_is(one: bytes, two: bytes, at: int) -> None:
    assert _common(b"x" * at + one, at, two) == common(one, two)


def test_reading_changes_nothing() -> None:
    index = PrefixIndex(10)
    index.insert(b"old", "w0")
    index.insert(b"new", "w0")
    for _ in range(3):
        assert index.match(b"older") == (3, {"w0"})
        assert index.matches(b"older") == {"w0": 3}
    index.insert(b"12345", "w0")
    assert index.match(b"old") == (0, set())  # not saved by having been asked for
    assert index.match(b"new") == (3, {"w0"})


def test_using_a_prefix_again_saves_it_from_eviction() -> None:
    index = PrefixIndex(10)
    index.insert(b"old", "w0")
    index.insert(b"new", "w0")
    index.insert(b"old", "w0")
    index.insert(b"12345", "w0")
    assert index.match(b"old") == (3, {"w0"})
    assert index.match(b"new") == (0, set())


def test_eviction_looks_at_all_holders_together() -> None:
    index = PrefixIndex(12)
    index.insert(b"aaaa", "w0")
    index.insert(b"bbbb", "w1")
    index.insert(b"cccc", "w2")
    index.insert(b"dddd", "w2")
    assert [index.share(holder) for holder in HOLDERS] == [0, 4, 8]
    index.insert(b"eeee", "w2")
    assert [index.share(holder) for holder in HOLDERS] == [0, 0, 12]
    index.insert(b"ffff", "w0")
    assert [index.share(holder) for holder in HOLDERS] == [4, 0, 8]
    assert index.evictions == 3


def test_a_holder_that_lost_everything_and_came_back_can_lose_it_again() -> None:
    index = PrefixIndex(4)
    for key, holder in [(b"aaaa", "w0"), (b"bbbb", "w1"), (b"cccc", "w1"), (b"dddd", "w0"), (b"eeee", "w1")]:
        index.insert(key, holder)
        assert index.match(key) == (4, {holder})
        assert index.size == 4
        check(index)
    assert index.evictions == 4


def test_an_insert_says_what_was_held_before() -> None:
    index = PrefixIndex(ROOMY)
    assert index.insert(b"hello world", "w0") == 0
    assert index.insert(b"hello there", "w1") == 0
    assert index.insert(b"hello there", "w0") == 6
    assert index.insert(b"hello", "w1") == 5


def test_a_key_longer_than_the_bound_is_cut() -> None:
    index = PrefixIndex(4)
    index.insert(b"abcdefgh", "w0")
    assert index.match(b"abcdefgh") == (4, {"w0"})
    assert index.size == 4


def test_one_prompt_cannot_turn_out_everything_else() -> None:
    index = PrefixIndex(2 * MAX_KEY)
    index.insert(b"small", "w0")
    index.insert(b"x" * (3 * MAX_KEY), "w0")
    assert index.match(b"small") == (5, {"w0"})
    assert index.match(b"x" * (3 * MAX_KEY)) == (MAX_KEY, {"w0"})


def test_a_bound_of_nothing_holds_nothing() -> None:
    index = PrefixIndex(0)
    assert index.insert(b"abc", "w0") == 0
    assert index.match(b"abc") == (0, set())
    assert index.size == 0


def test_a_key_that_would_turn_out_too_many_at_once_finds_its_room_over_several_inserts() -> None:
    index = PrefixIndex(1 << 20)
    for number in range(3 * SLICE):
        index.insert(number.to_bytes(2, "little") + b"." * 298, "w0")
    index.insert(b"something else", "w1")
    shared = (3 * SLICE - 1).to_bytes(2, "little") + b"." * 100
    large = shared + b"x" * 800_000
    held, evictions = [], []
    for _ in range(4):
        held.append(index.insert(large, "w1"))
        evictions.append(index.evictions)
        check(index)
    assert held == [0, 102, 102, len(large)]
    assert evictions[:2] == [SLICE, 2 * SLICE]
    assert evictions[2] == evictions[3] < 3 * SLICE


def test_a_grown_conversation_that_finds_no_room_is_left_out() -> None:
    index = PrefixIndex(1 << 20)
    index.insert(b"x", "w1")
    for number in range(3 * SLICE):
        index.insert(b"k" + number.to_bytes(2, "little") + b"." * 297, "w0")
    index.insert(b"x", "w1")
    index.insert(b"x" * 800_000, "w1")
    assert index.share("w1") == 0
    check(index)


def test_an_empty_key_leaves_no_trace() -> None:
    index = PrefixIndex(ROOMY)
    assert index.insert(b"", "w0") == 0
    assert index.match(b"") == (0, set())
    assert not nodes(index)


def test_short_keys_do_not_pile_up_objects() -> None:
    index = PrefixIndex(MIN_ENTRIES * 10)
    for number in range(MIN_ENTRIES * 3):
        index.insert(number.to_bytes(3, "big"), "w0")
        assert index._entries <= index.max_entries
    assert index.evictions
    check(index)


def test_a_growing_conversation_is_one_node() -> None:
    index = PrefixIndex(ROOMY)
    turns = [b"[" + b"{turn}," * n for n in range(1, 100)]
    for turn in turns:
        index.insert(turn, "w0")
    assert len(nodes(index)) == 1
    assert index.match(turns[-1]) == (len(turns[-1]), {"w0"})
    check(index)


def test_a_conversation_that_others_hold_too_is_not_grown_for_them() -> None:
    index = PrefixIndex(ROOMY)
    index.insert(b"turn 1", "w0")
    index.insert(b"turn 1", "w1")
    index.insert(b"turn 1, turn 2", "w0")
    assert index.matches(b"turn 1, turn 2") == {"w0": 14, "w1": 6}


def test_no_walk_is_deeper_than_the_limit() -> None:
    index = PrefixIndex(ROOMY)
    for length in range(2 * MAX_DEPTH):
        index.insert(b"a" * length + b"b", "w0")
    key = b"a" * (2 * MAX_DEPTH)
    assert index.insert(key, "w0") <= MAX_DEPTH
    check(index)


def test_a_forgotten_worker_holds_nothing_at_once() -> None:
    index = PrefixIndex(ROOMY)
    index.insert(b"shared and more", "w0")
    index.insert(b"shared", "w1")
    index.forget("w0")
    assert index.match(b"shared and more") == (6, {"w1"})
    assert index.matches(b"shared and more") == {"w1": 6}
    assert index.size == index.share("w1") == 6
    assert index.share("w0") == 0
    assert index.insert(b"shared", "w0") == 0


def test_a_worker_that_comes_back_starts_empty_and_is_not_purged_with_its_past() -> None:
    index = PrefixIndex(ROOMY)
    index.insert(b"before", "w0")
    index.forget("w0")
    index.insert(b"after", "w0")
    index.upkeep()
    assert index.match(b"before") == (0, set())
    assert index.match(b"after") == (5, {"w0"})
    assert index._bytes == index.size == 5


def test_forgetting_an_unknown_worker_is_nothing() -> None:
    PrefixIndex(ROOMY).forget("w9")


def test_the_dead_make_room_before_the_living() -> None:
    index = PrefixIndex(100)
    index.insert(b"l" * 40, "w0")
    index.insert(b"d" * 60, "w1")
    index.forget("w1")
    index.insert(b"n" * 60, "w2")
    assert index.match(b"l" * 40) == (40, {"w0"})
    assert index.evictions == 0


def test_upkeep_takes_a_slice_at_a_time() -> None:
    index = PrefixIndex(ROOMY)
    for number in range(SLICE + 100):
        index.insert(number.to_bytes(4, "little") + b"x", "w0")
    index.forget("w0")
    left = index._entries
    index.upkeep()
    assert left - SLICE <= index._entries < left
    for _ in range(3):
        index.upkeep()
    assert index._entries == 0
    assert not nodes(index)


def test_inserts_alone_purge_the_dead() -> None:
    index = PrefixIndex(ROOMY)
    for number in range(200):
        index.insert(number.to_bytes(2, "big"), "w0")
    index.forget("w0")
    for _ in range(200):
        index.insert(b"one key", "w1")
    assert index._bytes == index.size == 7
    assert not index._dead


def test_a_cleared_index_is_empty_and_usable() -> None:
    index = PrefixIndex(ROOMY)
    for holder in HOLDERS:
        index.insert(b"hello", holder)
    index.clear()
    assert index.size == 0
    assert index.match(b"hello") == (0, set())
    assert index.insert(b"hello", "w0") == 0


@pytest.mark.parametrize("empty", ["evict", "purge"])
def test_nothing_is_left_in_memory_of_what_was_dropped(empty: str) -> None:
    gc.collect()
    others = {id(o) for o in gc.get_objects() if type(o) is _Node}
    gc.disable()
    try:
        index = PrefixIndex(ROOMY)
        for number in range(3000):
            index.insert((number * 7919).to_bytes(4, "little") * 3, HOLDERS[number % 3])
        if empty == "purge":
            index.clear()
        while index._entries:
            index._make_room()
        mine = [o for o in gc.get_objects() if type(o) is _Node and id(o) not in others]
        assert mine == [index._root]  # by reference counts alone: no cycle is left for the collector
        assert index._bytes == index.size == 0
        assert not any(_oldest(tenant) for tenant in index._tenants.values())
        assert not index._dead
    finally:
        gc.enable()
