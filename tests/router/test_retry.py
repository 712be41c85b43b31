"""The retry table: what each row allows, and what a request can go through at most."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import NoSocket, RouterError, WorkersFailed, WorkerTimeout
from router.retry import PAUSE, RULES, Attempts, Fault, Retry, Where, budget_left, classify, decide, refine

RETRIED = [fault for fault in Fault if RULES[fault].where is not Where.NOWHERE]
rows = pytest.mark.parametrize("fault", RETRIED, ids=lambda fault: fault.value)


def ask(
    fault: Fault,
    attempts: Attempts | None = None,
    *,
    untried: bool = True,
    max_retries: int = 6,
    budget: bool = True,
    seed: int = 0,
) -> Retry | None:
    """decide() for a fault, by default the first one of a request that may try everything."""
    return decide(
        fault,
        attempts or Attempts(),
        untried=untried,
        max_retries=max_retries,
        budget=budget,
        rng=random.Random(seed),
    )


def course(*faults: Fault, max_retries: int = 6, untried: bool = True) -> list[str]:
    """Where a request goes that meets these faults one after the other; the last entry is "end" if it went nowhere."""
    attempts = Attempts()
    went: list[str] = []
    for fault in faults:
        fault = refine(fault, attempts)
        retry = ask(fault, attempts, untried=untried, max_retries=max_retries)
        if retry is None:
            return [*went, "end"]
        attempts.note(fault, RULES[fault])
        went.append(retry.where.value)
    return went


# -- the table


# fault: where, what it counts towards, at most, held to the budget, paused, how it ends (None: the worker's answer)
TABLE: dict[Fault, tuple[Where, str, int | None, bool, bool, type[RouterError] | None]] = {
    Fault.NOT_SENT: (Where.ANY, "total, worker", None, False, False, WorkersFailed),
    Fault.NO_SOCKET: (Where.ANY, "total", None, True, True, NoSocket),
    Fault.STALE: (Where.SAME, "", None, False, False, WorkersFailed),
    Fault.DIED: (Where.UNTRIED, "total, worker", 1, False, False, WorkersFailed),
    Fault.BUSY: (Where.UNTRIED, "total", None, False, False, None),
    Fault.GATEWAY: (Where.ANY, "total, worker", None, True, True, None),
    Fault.ENGINE: (Where.UNTRIED, "total, worker", 1, True, False, None),
    Fault.TIMEOUT: (Where.NOWHERE, "worker", None, False, False, WorkerTimeout),
    Fault.BROKEN: (Where.NOWHERE, "worker", None, False, False, None),
}


def test_every_fault_has_its_row() -> None:
    assert set(RULES) == set(TABLE) == set(Fault)


@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
def test_the_rules_are_the_published_table(fault: Fault) -> None:
    where, counts, at_most, budgeted, paused, error = TABLE[fault]
    rule = RULES[fault]
    assert (rule.where, rule.at_most, rule.budgeted, rule.paused, rule.error) == (
        where,
        at_most,
        budgeted,
        paused,
        error,
    )
    assert rule.counts_worker == ("worker" in counts)
    if where is not Where.NOWHERE:
        assert rule.counts_total == ("total" in counts)


# -- where, and after how long


@rows
def test_a_first_fault_is_retried_where_its_row_says(fault: Fault) -> None:
    retry = ask(fault)
    assert retry is not None
    assert retry.where is TABLE[fault][0]
    assert (retry.delay > 0) == (fault in (Fault.GATEWAY, Fault.NO_SOCKET))


@pytest.mark.parametrize("fault", [Fault.TIMEOUT, Fault.BROKEN], ids=lambda fault: fault.value)
def test_a_timeout_and_a_broken_answer_are_never_retried(fault: Fault) -> None:
    assert ask(fault) is None


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        (Fault.NOT_SENT, Where.ANY),
        (Fault.GATEWAY, Where.ANY),
        (Fault.STALE, Where.SAME),
        (Fault.DIED, None),
        (Fault.BUSY, None),
        (Fault.ENGINE, None),
    ],
)
def test_with_no_other_worker_left_only_some_faults_are_retried(fault: Fault, where: Where | None) -> None:
    retry = ask(fault, untried=False)
    assert (retry and retry.where) is where


@pytest.mark.parametrize("untried", [True, False])
def test_gateway_errors_pause_for_a_random_time_in_the_whole_range(untried: bool) -> None:
    retries = [ask(Fault.GATEWAY, untried=untried, seed=seed) for seed in range(200)]
    delays = [retry.delay for retry in retries if retry is not None]
    assert len(delays) == 200
    assert PAUSE[0] <= min(delays) < 0.030 < 0.245 < max(delays) <= PAUSE[1]


def test_a_worker_that_could_not_be_reached_gets_a_pause_before_it_is_tried_again() -> None:
    retry = ask(Fault.NOT_SENT, untried=False)
    assert retry is not None
    assert PAUSE[0] <= retry.delay <= PAUSE[1]


# -- caps


@rows
@pytest.mark.parametrize("most", [0, 1, 6])
def test_a_request_is_retried_so_often_in_all_and_resends_are_not_counted(fault: Fault, most: int) -> None:
    allowed = fault is Fault.STALE
    assert (ask(fault, Attempts(retries=most), max_retries=most) is not None) == allowed
    assert ask(fault, Attempts(retries=most), max_retries=most + 1) is not None


@rows
def test_without_budget_only_the_rows_that_are_held_to_it_give_up(fault: Fault) -> None:
    assert (ask(fault, budget=False) is None) == TABLE[fault][3]


@pytest.mark.parametrize(
    ("faults", "went"),
    [
        ([Fault.DIED] * 2, ["untried", "end"]),
        ([Fault.ENGINE] * 2, ["untried", "end"]),
        ([Fault.NOT_SENT] * 7, ["any"] * 6 + ["end"]),
        ([Fault.GATEWAY] * 7, ["any"] * 6 + ["end"]),
        ([Fault.BUSY] * 7, ["untried"] * 6 + ["end"]),
        ([Fault.NOT_SENT] * 3 + [Fault.GATEWAY] * 4, ["any"] * 6 + ["end"]),
        # Caps of single rows do not hinder the others.
        ([Fault.ENGINE, Fault.DIED, Fault.BUSY, Fault.ENGINE], ["untried"] * 3 + ["end"]),
        # A resend is followed by whatever the fresh connection brings.
        ([Fault.STALE, Fault.GATEWAY, Fault.NOT_SENT], ["same", "any", "any"]),
        ([Fault.STALE] + [Fault.GATEWAY] * 7, ["same"] + ["any"] * 6 + ["end"]),
        # A worker gone at the resend has died: two such, and the request ends.
        ([Fault.STALE, Fault.NOT_SENT, Fault.DIED], ["same", "untried", "end"]),
        ([Fault.STALE, Fault.STALE, Fault.DIED], ["same", "untried", "end"]),
        ([Fault.STALE, Fault.DIED, Fault.DIED], ["same", "untried", "end"]),
        ([Fault.DIED, Fault.STALE, Fault.NOT_SENT], ["untried", "same", "end"]),
        # One resend for each worker.
        ([Fault.STALE, Fault.BUSY, Fault.STALE], ["same", "untried", "same"]),
        ([Fault.STALE, Fault.NOT_SENT, Fault.STALE, Fault.NOT_SENT], ["same", "untried", "same", "end"]),
        ([Fault.TIMEOUT], ["end"]),
    ],
    ids=lambda value: "-".join(getattr(each, "value", each) for each in value),
)
def test_the_course_of_a_request(faults: list[Fault], went: list[str]) -> None:
    assert course(*faults) == went


def test_without_retries_only_the_resend_is_left() -> None:
    assert course(Fault.NOT_SENT, max_retries=0) == ["end"]
    assert course(Fault.STALE, Fault.GATEWAY, max_retries=0) == ["same", "end"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(Fault), max_size=30), st.integers(0, 8), st.integers(0, 5))
def test_no_request_goes_on_for_ever_whatever_it_meets(faults: list[Fault], most: int, workers: int) -> None:
    attempts, met = Attempts(), Counter[Fault]()
    for number, fault in enumerate(faults):
        fault = refine(fault, attempts)
        met[fault] += 1
        retry = ask(fault, attempts, untried=number < workers, max_retries=most)
        if retry is None:
            break
        attempts.note(fault, RULES[fault])
    assert attempts.retries <= most
    assert sum(attempts.by_fault.values()) <= 2 * most + 1
    assert met[Fault.DIED] <= 2
    assert met[Fault.ENGINE] <= 2
    assert attempts.by_fault.get(Fault.STALE, 0) <= most + 1


# -- what a fault is


@pytest.mark.parametrize("resent", [False, True])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
def test_only_a_worker_that_is_gone_at_the_resend_has_died(fault: Fault, resent: bool) -> None:
    gone = resent and fault in (Fault.NOT_SENT, Fault.STALE)
    assert refine(fault, Attempts(resent=resent)) is (Fault.DIED if gone else fault)


@rows
def test_a_resend_is_remembered_until_the_next_retry(fault: Fault) -> None:
    attempts = Attempts()
    attempts.note(Fault.STALE, RULES[Fault.STALE])
    assert attempts.resent
    attempts.note(fault, RULES[fault])
    assert attempts.resent == (fault is Fault.STALE)


@pytest.mark.parametrize(
    ("retry_after", "faults"),
    [
        (False, {429: Fault.BUSY, 500: Fault.ENGINE, 502: Fault.GATEWAY, 503: Fault.GATEWAY, 504: Fault.GATEWAY}),
        (True, {429: Fault.BUSY, 500: Fault.ENGINE, 502: Fault.GATEWAY, 503: Fault.BUSY, 504: Fault.GATEWAY}),
    ],
)
def test_a_few_statuses_are_faults_and_all_others_are_answers(retry_after: bool, faults: dict[int, Fault]) -> None:
    found = {status: fault for status in range(100, 600) if (fault := classify(status, retry_after)) is not None}
    assert found == faults


# -- the budget


@pytest.mark.parametrize(
    ("retrying", "inflight", "left"),
    [
        (0, 0, True), (2, 0, True), (3, 0, False),
        (2, 15, True), (3, 15, False), (3, 19, False), (3, 20, True), (4, 20, False),
        (19, 100, True), (20, 100, False), (20, 104, False), (20, 105, True),
    ],
)  # fmt: skip
def test_the_budget_is_three_or_a_fifth_of_what_is_in_flight(retrying: int, inflight: int, left: bool) -> None:
    assert budget_left(retrying, inflight) is left


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1_000_000))
def test_retries_fill_the_budget_and_never_pass_it(inflight: int) -> None:
    budget = max(Fraction(3), Fraction(inflight, 5))
    full = int(budget)
    assert budget_left(full - 1, inflight)
    assert not budget_left(full, inflight)
