"""What to do when a request to a worker fails: the retry table, and one question asked of it. Pure.

Everything here happens before the first body byte has been sent to the client. After it nothing is ever retried: the
client has seen part of an answer, and a second worker would not continue the same one.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass, field

from router.errors import NoSocket, RouterError, WorkersFailed, WorkerTimeout


class Fault(enum.Enum):
    NOT_SENT = "not_sent"  # no connection to the worker: it never saw the request
    NO_SOCKET = "no_socket"  # the same, for want of a descriptor or port here: no worker's fault
    STALE = "stale"  # a reused connection was closed with no byte back: the keep-alive race
    DIED = "died"  # a connection that should have answered ended before the first body byte
    BUSY = "busy"  # 429, or 503 with Retry-After: the worker is well and has no room
    GATEWAY = "gateway"  # 502, 503, 504, or an answer that is not HTTP
    ENGINE = "engine"  # 500: often the request's own doing
    TIMEOUT = "timeout"  # no body byte within the request timeout
    BROKEN = "broken"  # ended after the first body byte


class Where(enum.Enum):
    SAME = "same"  # the same worker, on a fresh connection
    UNTRIED = "untried"  # another worker that this request has not met
    ANY = "any"  # as UNTRIED while one is left, then one that was tried, after a pause
    NOWHERE = "nowhere"


@dataclass(frozen=True)
class Rule:
    """One row of the table. A fault that is not retried is answered with `error`, or relayed as the worker put it."""

    where: Where
    counts_total: bool = True  # towards the retries of this request
    counts_worker: bool = True  # towards the worker's consecutive failures
    at_most: int | None = None  # retries of this kind for one request
    budgeted: bool = False  # held to the fleet's retry budget
    paused: bool = False  # waits PAUSE before the next try
    error: type[RouterError] | None = None  # None: relay the worker's answer


RULES: dict[Fault, Rule] = {
    Fault.NOT_SENT: Rule(Where.ANY, error=WorkersFailed),
    Fault.NO_SOCKET: Rule(Where.ANY, counts_worker=False, budgeted=True, paused=True, error=NoSocket),
    # Bounded by itself: the resend goes out on a fresh connection, which cannot be stale.
    Fault.STALE: Rule(Where.SAME, counts_total=False, counts_worker=False, error=WorkersFailed),
    # One retry is two deaths: a request that kills what it meets must not take the fleet with it.
    Fault.DIED: Rule(Where.UNTRIED, at_most=1, error=WorkersFailed),
    Fault.BUSY: Rule(Where.UNTRIED, counts_worker=False),
    Fault.GATEWAY: Rule(Where.ANY, budgeted=True, paused=True),
    Fault.ENGINE: Rule(Where.UNTRIED, at_most=1, budgeted=True),
    Fault.TIMEOUT: Rule(Where.NOWHERE, error=WorkerTimeout),
    Fault.BROKEN: Rule(Where.NOWHERE),
}

PAUSE = (0.025, 0.250)  # seconds, uniformly random: Envoy's first and last retry back-off
BUDGET_SHARE, BUDGET_FLOOR = 0.2, 3  # Envoy's and Finagle's retry budget: 20 % of in-flight, never fewer than 3


@dataclass
class Attempts:
    """What one request has been through. Written by Attempts.note() alone."""

    retries: int = 0  # of those that count towards --max-total-retries
    by_fault: dict[Fault, int] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)  # worker ids
    resent: bool = False  # the last try was a resend to the same worker

    @property
    def suspect(self) -> bool:
        """Whether it was on a worker that died: it may have been the reason."""
        return Fault.DIED in self.by_fault

    def note(self, fault: Fault, rule: Rule) -> None:
        """A retry for `fault` has been decided."""
        self.by_fault[fault] = self.by_fault.get(fault, 0) + 1
        self.retries += rule.counts_total
        self.resent = rule.where is Where.SAME


@dataclass(frozen=True)
class Retry:
    where: Where
    delay: float  # seconds


def classify(status: int, retry_after: bool) -> Fault | None:
    """The fault that a worker's status line stands for; None when it is an answer to pass on."""
    if status == 429 or (status == 503 and retry_after):
        return Fault.BUSY
    if status in (502, 503, 504):
        return Fault.GATEWAY
    return Fault.ENGINE if status == 500 else None


def refine(fault: Fault, attempts: Attempts) -> Fault:
    """A worker that took a resend for a stale connection and is then gone has died, whatever the connection says."""
    return Fault.DIED if attempts.resent and fault in (Fault.NOT_SENT, Fault.STALE) else fault


def budget_left(retrying: int, inflight: int) -> bool:
    """Whether one more retry of the budgeted rows may be out at once."""
    return retrying + 1 <= max(BUDGET_FLOOR, BUDGET_SHARE * inflight)


def decide(
    fault: Fault, attempts: Attempts, *, untried: bool, max_retries: int, budget: bool, rng: random.Random
) -> Retry | None:
    """Where and when to try again, or None: the request then ends as RULES[fault] says.

    `untried`: a worker is left that this request has not met. `budget`: budget_left() now.
    """
    rule = RULES[fault]
    if rule.where is Where.NOWHERE or (rule.counts_total and attempts.retries >= max_retries):
        return None
    if rule.at_most is not None and attempts.by_fault.get(fault, 0) >= rule.at_most:
        return None
    if (rule.budgeted and not budget) or (rule.where is Where.UNTRIED and not untried):
        return None
    again = rule.where is Where.ANY and not untried
    return Retry(rule.where, rng.uniform(*PAUSE) if rule.paused or again else 0.0)
