"""The workload of real engines."""

from __future__ import annotations

import pytest

from scripts.policy_trial import prompts
from scripts.policy_trial.turns import QUESTION, SLOTS, TEXT, stage


def test_every_client_asks_about_a_text_of_its_own():
    made = stage(2, 48, 1)
    clients = made.offer.workload.jobs
    assert len(clients) == 2 * SLOTS
    assert len({client.blocks[0] for client in clients}) == 2 * SLOTS
    first = clients[0]
    assert first.then is not None
    one, next_ = (prompts.prompt(made.offer.workload, job) for job in (first, first.then))
    assert one[: 4 * TEXT] == next_[: 4 * TEXT]
    assert one[4 * TEXT :] != next_[4 * TEXT :]
    assert not prompts.goes_on(first)  # a new question, not a conversation


def test_all_requests_count_and_each_text_must_be_computed_once():
    made = stage(2, 48, 1)
    assert len(made.counted.jobs) == len(made.offer.order) == 48
    assert made.counted.infinite == pytest.approx(5 / 6 * TEXT / (TEXT + QUESTION))


def test_all_engines_together_hold_the_texts_and_one_does_not():
    made = stage(2, 48, 1)
    assert made.counted.lru == made.counted.infinite
    assert made.scene.costs.kv_tokens < len(made.offer.workload.jobs) * TEXT <= 2 * made.scene.costs.kv_tokens


def test_another_round_has_other_texts():
    assert stage(2, 48, 1).offer.workload.jobs[0].blocks[0] != stage(2, 48, 2).offer.workload.jobs[0].blocks[0]
