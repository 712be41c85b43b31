"""The workload of real engines."""

from __future__ import annotations

import pytest

from scripts.policy_trial import prompts
from scripts.policy_trial.turns import CLIENTS, QUESTION, SLOTS, TEXT, stage


def test_each_round_asks_about_every_text_once():
    asked = [job.blocks[0] for _, job in stage(2, 48, 1).offer.order]
    rounds = [asked[at : at + 2 * SLOTS] for at in range(0, 48, 2 * SLOTS)]
    assert {frozenset(round_) for round_ in rounds} == {frozenset(rounds[0])}
    assert len(set(asked)) == 2 * SLOTS
    assert len(set(map(tuple, rounds))) > 1  # in another order


def test_questions_about_a_text_have_it_in_common_and_nothing_else():
    made = stage(2, 48, 1)
    text = made.offer.order[0][1].blocks[0]
    one, other = (job for _, job in made.offer.order[: 4 * SLOTS] if job.blocks[0] == text)
    first, second = (prompts.prompt(made.offer.workload, job) for job in (one, other))
    assert first[: 4 * TEXT] == second[: 4 * TEXT]
    assert first[4 * TEXT :] != second[4 * TEXT :]
    assert not any(prompts.goes_on(job) for _, job in made.offer.order)


def test_so_many_clients_share_the_questions():
    made = stage(2, 48, 1)
    assert len(made.offer.workload.jobs) == 2 * CLIENTS
    assert len(made.offer.workload.all()) == 48


def test_all_requests_count_and_each_text_must_be_computed_once():
    made = stage(2, 48, 1)
    assert len(made.counted.jobs) == len(made.offer.order) == 48
    assert made.counted.lru == made.counted.infinite == pytest.approx(5 / 6 * TEXT / (TEXT + QUESTION))


def test_another_round_has_other_texts():
    assert stage(2, 48, 1).offer.workload.jobs[0].blocks[0] != stage(2, 48, 2).offer.workload.jobs[0].blocks[0]
