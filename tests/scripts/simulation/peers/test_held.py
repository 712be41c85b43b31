"""What peers believe of caches: matches, who got what first, and what goes when room or time is out."""

from __future__ import annotations

import itertools
import random

from router.prefix import PrefixIndex
from router.request import RouteRequest
from scripts.simulation.job import Job, Workload
from scripts.simulation.peers.held import Held, believe, full, uncached
from scripts.simulation.world import text
from tests.scripts.simulation.peers.stage import Stage, job


def held(**sent: list[tuple[int, ...]]) -> Held:
    """Prompts by worker, one a second."""
    found, now = Held(), 0.0
    for worker, prompts in sent.items():
        for blocks in prompts:
            found.send(worker, blocks, now)
            now += 1
    return found


def test_a_match_ends_at_the_first_block_that_a_worker_does_not_hold():
    index = held(w0=[(1, 2, 3)], w1=[(1, 9, 8)])
    assert index.depths((1, 2, 3, 4)) == {"w0": 3, "w1": 1}
    assert [index.depth(worker, (1, 9, 8)) for worker in ("w0", "w1", "w2")] == [1, 3, 0]
    assert index.depths((7, 1)) == {}


def test_the_deepest_match_names_its_holders_in_the_order_in_which_they_got_it():
    index = held(w1=[(1, 2)], w0=[(1, 2, 3), (1, 5)])
    index.send("w1", (1, 2), 9.0)  # not a new holder
    assert [(depth, list(ids)) for depth, ids in map(index.deepest, [(1, 2, 8), (1, 2, 3), (7,)])] == [
        (2, ["w1", "w0"]),
        (3, ["w0"]),
        (0, []),
    ]


def test_a_prompts_end_goes_before_its_beginning_and_the_least_recently_sent_first():
    index = held(w0=[(1, 2, 3), (1, 4)])
    index.trim("w0", 3)
    assert (index.depth("w0", (1, 2, 3)), index.depth("w0", (1, 4))) == (2, 2)
    index.trim("w0", 1)
    assert (index.depth("w0", (1, 2)), index.size) == (1, 1)


def test_of_all_workers_blocks_the_least_recently_sent_goes_first():
    index = held(w0=[(1, 2)], w1=[(1, 2)], w2=[(3,)])
    index.send("w0", (1,), 9.0)
    index.trim_all(2)
    assert [index.size_of(worker) for worker in ("w0", "w1", "w2")] == [1, 0, 1]


def test_what_was_not_sent_for_long_expires():
    index = held(w0=[(1, 2), (1,)], w1=[(1,)])
    index.expire(0.5)
    assert (index.depth("w0", (1, 2)), index.depth("w1", (1,))) == (1, 1)
    index.expire(1.5)
    assert (index.depth("w0", (1,)), index.depth("w1", (1,)), index.size) == (0, 1, 1)


def test_a_forgotten_worker_holds_nothing_and_the_others_keep_theirs():
    index = held(w0=[(1, 2)], w1=[(1,)])
    index.forget("w0")
    index.forget("w7")
    assert (index.depths((1, 2)), index.size, index.size_of("w0")) == ({"w1": 1}, 1, 0)


def test_only_full_blocks_of_the_prompt_are_reused():
    stage = Stage("lmetric", 0)
    stage.job = job(1, 2, 3, prompt=25)
    assert [full(stage, depth) for depth in (0, 2, 3)] == [0, 20, 20]


def test_tokens_left_to_compute_are_counted_as_the_fleet_counts_them():
    stage = Stage("lmetric", 0)
    stage.job = job(1, 2, 3, prompt=25)
    request = RouteRequest("/v1/completions", bytes(99))
    assert uncached(stage, request, {"w0": 2, "w1": 0}) == {"w0": 5, "w1": 24}
    believe(request, stage.job, 20)
    assert (request.matched, request.uncached_tokens) == (79, 5)


def test_a_walk_over_ids_finds_what_a_tree_of_texts_finds():
    rng, index, tree = random.Random(5), Held(), PrefixIndex(1 << 24)
    workload, ids, prompts = Workload("test", 16), itertools.count(), [()]
    for _ in range(300):
        known = rng.choice(prompts)
        blocks = (*known[: rng.randrange(len(known) + 1)], *itertools.islice(ids, rng.randrange(1, 6)))
        prompts.append(blocks)
        key = text(workload, Job(0.0, blocks, 16 * len(blocks), 1, blocks))
        size, worker = len(key) // len(blocks), f"w{rng.randrange(4)}"
        in_full = {holder: length // size for holder, length in tree.matches(key).items() if length >= size}
        assert index.depths(blocks) == in_full
        assert index.deepest(blocks)[0] == max(in_full.values(), default=0)
        tree.insert(key, worker)
        index.send(worker, blocks, 0.0)
