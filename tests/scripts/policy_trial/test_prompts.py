"""Jobs as text."""

from __future__ import annotations

import random

from scripts.policy_trial import prompts
from scripts.simulation.job import Job, Workload
from scripts.simulation.workloads import generate

BLOCK = 128
WORKLOAD = Workload("w", BLOCK)


def job(*blocks: int, prompt: int = 300, then: Job | None = None) -> Job:
    return Job(0.0, blocks, prompt, 10, blocks, then=then)


def test_a_prompt_has_four_bytes_for_each_token():
    assert len(prompts.prompt(WORKLOAD, job(1, 2, 3)).encode()) == 4 * 300


def test_equal_blocks_are_equal_text_and_others_are_not():
    one, other = prompts.prompt(WORKLOAD, job(1, 2, 3)), prompts.prompt(WORKLOAD, job(1, 5, 3))
    shared = 4 * BLOCK
    assert one[:shared] == other[:shared]
    assert one[shared : shared + 64] != other[shared : shared + 64]


def test_the_text_of_a_block_does_not_hang_on_chance():
    random.seed(1)
    first = prompts.block_text.__wrapped__(7, BLOCK)
    random.seed(2)
    assert prompts.block_text.__wrapped__(7, BLOCK) == first


def test_a_prompt_begins_with_what_its_session_has_said():
    said = "x" * 100
    text = prompts.prompt(WORKLOAD, job(1, 2, 3), said)
    assert text.startswith(said)
    assert text[100:] == prompts.prompt(WORKLOAD, job(1, 2, 3))[100:]


def test_a_session_goes_on_where_its_next_prompt_contains_this_one():
    assert prompts.goes_on(job(1, 2, then=job(1, 2, 3)))
    assert not prompts.goes_on(job(1, 2, then=job(1, 9, 3)))  # another question about the same text
    assert not prompts.goes_on(job(1, 2))
    sessions = [session for session in generate("agents", 1, 40).jobs if session.then]
    assert sessions
    assert all(map(prompts.goes_on, sessions))
