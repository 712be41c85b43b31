"""The workload of real engines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from scripts.policy_trial import prompts
from scripts.policy_trial.turns import CLIENTS, QUESTION, SLOTS, TEXT, stage
from scripts.simulation.job import Job


def jobs(first: Job) -> Iterator[Job]:
    job: Job | None = first
    while job is not None:
        yield job
        job = job.then


def test_every_client_asks_about_texts_of_its_own_each_as_often():
    clients = [[job.blocks[0] for job in jobs(client)] for client in stage(2, 48, 1).offer.workload.jobs]
    assert len(clients) == 2 * CLIENTS
    for asked in clients:
        assert sorted(Counter(asked).values()) == [6] * (SLOTS // CLIENTS)
    assert len({text for asked in clients for text in asked}) == 2 * SLOTS


def test_the_order_is_another_one_in_each_round():
    asked = [job.blocks[0] for job in jobs(stage(2, 160, 1).offer.workload.jobs[0])]
    rounds = {tuple(asked[at : at + 2]) for at in range(0, len(asked), 2)}
    assert len(rounds) == 2


def test_questions_about_a_text_have_it_in_common_and_nothing_else():
    made = stage(2, 48, 1)
    text = made.offer.order[0][1].blocks[0]
    one, other, *_ = (job for _, job in made.offer.order if job.blocks[0] == text)
    first, second = (prompts.prompt(made.offer.workload, job) for job in (one, other))
    assert first[: 4 * TEXT] == second[: 4 * TEXT]
    assert first[4 * TEXT :] != second[4 * TEXT :]
    assert not any(prompts.goes_on(job) for _, job in made.offer.order)


def test_all_requests_count_and_each_text_must_be_computed_once():
    made = stage(2, 48, 1)
    assert len(made.counted.jobs) == len(made.offer.order) == 48
    assert made.counted.lru == made.counted.infinite == pytest.approx(5 / 6 * TEXT / (TEXT + QUESTION))


def test_another_round_has_other_texts():
    assert stage(2, 48, 1).offer.workload.jobs[0].blocks[0] != stage(2, 48, 2).offer.workload.jobs[0].blocks[0]
