"""The engine's memory: blocks that are computed once, shared, and evicted least recently used first."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.simulation.kv import Kv

BLOCK = 10  # tokens


def cache(*prompts: list[int], blocks: int) -> Kv:
    """Memory of so many blocks in which these prompts were computed, one after the other."""
    kv = Kv(blocks * BLOCK, BLOCK)
    for prompt in prompts:
        compute(kv, prompt)
        kv.release(prompt)
    return kv


def compute(kv: Kv, blocks: list[int]) -> None:
    kv.take(BLOCK * len(blocks))
    kv.computed(blocks)


def cached(kv: Kv, *blocks: int) -> list[int]:
    return [block for block in blocks if kv.depth([block])]


def test_a_block_counts_once_it_is_computed():
    kv = Kv(100, BLOCK)
    kv.take(20)
    assert kv.depth([1, 2]) == 0
    kv.computed([1])
    assert kv.depth([1, 2]) == 1


def test_only_a_whole_prefix_counts():
    kv = cache([1, 2], [4], blocks=10)
    assert kv.depth([1, 2, 3, 4]) == 2
    assert kv.depth([3, 4]) == 0


def test_a_prompts_end_goes_before_its_beginning():
    kv = cache([1, 2, 3], blocks=3)
    kv.take(1)
    assert cached(kv, 1, 2, 3) == [1, 2]
    kv.take(BLOCK)
    assert cached(kv, 1, 2, 3) == [1]


def test_the_prompt_that_was_used_the_longest_ago_goes_first():
    kv = cache([1, 2], [3, 4], blocks=4)
    kv.refer([1, 2])
    kv.release([1, 2])
    kv.take(2 * BLOCK)
    assert cached(kv, 1, 2, 3, 4) == [1, 2]


def test_a_block_that_someone_refers_to_stays():
    kv = cache([1, 2], [3], blocks=3)
    kv.refer([1])
    kv.take(2 * BLOCK)
    assert cached(kv, 1, 2, 3) == [1]
    assert kv.room == 0


def test_a_block_stays_until_the_last_one_who_refers_to_it_is_done():
    kv = cache([1], blocks=1)
    kv.refer([1])
    kv.refer([1])
    kv.release([1])
    assert (kv.room, kv.spare([1])) == (0, 0)
    kv.release([1])
    assert (kv.room, kv.spare([1])) == (BLOCK, 1)


def test_what_two_computed_at_once_is_kept_once():
    kv = Kv(4 * BLOCK, BLOCK)
    kv.take(2 * BLOCK)
    kv.take(2 * BLOCK)
    kv.computed([1, 2])
    assert kv.room == 0
    kv.computed([1, 2])
    assert (kv.private, kv.room) == (0, 2 * BLOCK)
    kv.release([1, 2])
    assert kv.room == 2 * BLOCK  # the other one is still there
    kv.release([1, 2])
    assert kv.room == 4 * BLOCK


def test_what_was_released_and_is_computed_once_more_is_referred_to_again():
    kv = cache([1], blocks=2)
    kv.take(BLOCK)
    kv.computed([1])
    assert (kv.used, kv.spare([1])) == (BLOCK, 0)


def test_nothing_is_evicted_while_there_is_free_memory():
    kv = cache([1, 2], blocks=4)
    kv.take(2 * BLOCK)
    assert cached(kv, 1, 2) == [1, 2]


def test_memory_that_was_given_back_can_be_had_again():
    kv = cache([1, 2], blocks=3)
    kv.take(BLOCK)
    kv.give(BLOCK)
    kv.take(BLOCK)
    assert cached(kv, 1, 2) == [1, 2]


def text(branches: list[int]) -> list[int]:
    """The blocks of a prompt. A block's id is that of the one before it and a digit more."""
    return [int("1" + "".join(map(str, branches[: i + 1]))) for i in range(len(branches))]


PROMPTS = st.lists(st.integers(0, 4), max_size=3).map(text)


@settings(deadline=None)
@given(st.lists(st.tuples(PROMPTS, st.integers(0, 25), st.booleans()), max_size=40), st.integers(3, 12))
def test_memory_is_never_overdrawn_and_a_block_outlives_those_that_follow_it(
    events: list[tuple[list[int], int, bool]], blocks: int
):
    """Requests come when there is room, as an engine lets them in, else one of them goes."""
    kv = Kv(blocks * BLOCK, BLOCK)
    there: list[tuple[list[int], int]] = []  # blocks that it refers to, tokens of its own
    for prompt, own, last in events:
        hit, rest = prompt[: kv.depth(prompt)], prompt[kv.depth(prompt) :]
        if own + BLOCK * len(rest) <= kv.room - BLOCK * kv.spare(hit):
            kv.refer(hit)
            kv.take(own + BLOCK * len(rest))
            kv.computed(rest)
            there.append((prompt, own))
        elif there:
            leave(kv, *there.pop(-1 if last else 0))
        referred = {block for prompt, _ in there for block in prompt}
        assert referred <= kv._refs.keys()
        assert kv.used == BLOCK * len(referred) + sum(own for _, own in there)
        assert kv.private + BLOCK * len(kv._refs) <= kv.capacity
        assert {block // 10 for block in kv._refs} <= {1, *kv._refs}
    for request in there:
        leave(kv, *request)
    assert (kv.private, kv.used) == (0, 0)


def leave(kv: Kv, blocks: list[int], own: int) -> None:
    kv.release(blocks)
    kv.give(own)
