"""Affinity that every router agrees on, within a bound on load."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from math import ceil

import pytest

from router.policies.consistent_hash import ConsistentHash
from router.policies.rendezvous import BEGINNING
from tests.router.policies.worlds import Router, request, workers

SESSIONS = [f"user-{number}" for number in range(2000)]


def homes(router: Router) -> dict[str, str]:
    return {session: router.send(request(session=session)) for session in SESSIONS}


def test_a_session_stays_whatever_it_says() -> None:
    router = Router(ConsistentHash(), *workers(0, 0, 0, 0))
    for session in SESSIONS[:20]:
        assert len({router.send(request(b"prompt %d" % number, session)) for number in range(10)}) == 1


def test_without_a_session_the_beginning_of_the_prompt_decides() -> None:
    router = Router(ConsistentHash(), *workers(0, 0, 0, 0))
    beginning = b"x" * BEGINNING
    assert len({router.send(request(beginning + b"%d" % number)) for number in range(50)}) == 1
    assert len({router.send(request(b"%d" % number + beginning)) for number in range(50)}) == 4


def test_without_either_the_fewest_in_flight_decide() -> None:
    router = Router(ConsistentHash(), *workers(2, 0, 1))
    assert router.send(request()) == "w1"


@pytest.mark.parametrize("count", [2, 4, 16])
def test_sessions_spread_evenly(count: int) -> None:
    shares = Counter(homes(Router(ConsistentHash(), *workers(*[0] * count))).values())
    mean = len(SESSIONS) / count
    assert len(shares) == count
    assert all(0.7 * mean < share < 1.3 * mean for share in shares.values())


def test_a_worker_that_leaves_moves_only_its_own_sessions() -> None:
    router = Router(ConsistentHash(), *workers(0, 0, 0, 0))
    before = homes(router)
    router.fleet.remove(router.fleet.workers["w2"])
    after = homes(router)
    moved = {session for session in SESSIONS if before[session] != after[session]}
    assert moved == {session for session in SESSIONS if before[session] == "w2"}
    assert {after[session] for session in moved} == {"w0", "w1", "w3"}


def test_a_worker_that_left_is_not_remembered() -> None:
    policy = ConsistentHash()
    router = Router(policy, *workers(0, 0))
    router.send(request(session="s"))
    router.fleet.remove(router.fleet.workers["w0"])
    assert list(policy._rendezvous._odd) == ["w1"]


def test_neither_order_nor_process_nor_id_changes_the_place() -> None:
    fleet = workers(0, 0, 0, 0)
    here = {s: fleet[int(home[1:])].url for s, home in homes(Router(ConsistentHash(), *fleet)).items()}
    program = """
from router.fleet import State, Worker
from router.policies.consistent_hash import ConsistentHash
from router.request import RouteRequest
import random
fleet = tuple(Worker(f"x{n}", f"http://10.0.0.{n}:31000", lifecycle=State.READY) for n in (3, 1, 0, 2))
for n in range(100):
    asked = RouteRequest("/generate", session=f"user-{n}")
    print(ConsistentHash().pick(asked, fleet, 0.0, random.Random(n)).url)
"""
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert there == [here[session] for session in SESSIONS[:100]]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_one_hot_session_never_overloads_its_worker(count: int) -> None:
    router = Router(ConsistentHash(), *workers(*[0] * count))
    for sent in range(1, 101):
        lease = router.start(request(session="hot"))
        assert lease.worker.inflight <= ceil(1.25 * sent / count)


def test_a_session_spills_to_its_own_second_choice_and_comes_back() -> None:
    fleet = workers(0, 0, 0, 0)
    router = Router(ConsistentHash(), *fleet)
    home = router.send(request(session="s"))
    router.fleet.workers[home].inflight = 10
    spill = {router.send(request(session="s")) for _ in range(20)}
    assert len(spill) == 1
    assert spill != {home}
    router.fleet.workers[home].inflight = 0
    assert router.send(request(session="s")) == home


def test_a_session_name_outside_unicode_does_no_harm() -> None:
    assert Router(ConsistentHash(), *workers(0)).send(request(session="\ud800")) == "w0"
