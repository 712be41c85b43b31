"""Where least_work puts requests, term by term."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from router.fleet import Lease, State, Worker
from router.policies.least_work import LATELY, PAIRS, USUAL, Lately, LeastWork
from router.request import BYTES_PER_TOKEN, RouteRequest
from router.usage import Usage
from tests.router.policies.worlds import Router, workers

LONG = b"the same long beginning of many prompts " * 100  # 1,000 tokens


def request(key: bytes, stream: bool = True) -> RouteRequest:
    return RouteRequest("/generate", key, stream=stream)


def prompt(tokens: int, name: str) -> RouteRequest:
    return request((name.encode() + b"." * tokens * BYTES_PER_TOKEN)[: tokens * BYTES_PER_TOKEN])


class Fleet(Router):
    """Requests that are answered when the test says so, at the time that it says."""

    def __init__(self, *members: Worker):
        self.work = LeastWork(1 << 20)
        super().__init__(self.work, *members)
        self.now = 0.0

    def begin(self, asked: RouteRequest) -> Lease:
        worker = self.work.pick(asked, self.fleet.candidates(None), self.now, self.rng)
        return self.fleet.lease(worker, asked.uncached_tokens, self.now, asked.prompt_tokens, asked.computed_by)

    def answer(self, asked: RouteRequest, lease: Lease, seconds: float) -> None:
        self.now += seconds
        lease.first_byte()
        self.work.answered(asked, lease.worker, self.now)

    def finish(self, asked: RouteRequest, lease: Lease) -> None:
        lease.release(self.now)
        self.work.done(asked, lease.worker)

    def whole(self, asked: RouteRequest) -> str:
        lease = self.begin(asked)
        self.answer(asked, lease, 0.0)
        self.finish(asked, lease)
        return lease.worker.id


def test_where_nobody_has_anything_to_do_anyone_may_get_it() -> None:
    fleet = Fleet(*workers(0, 0, 0))
    assert {fleet.whole(prompt(100, str(number))) for number in range(50)} == {"w0", "w1", "w2"}


def test_a_prompt_goes_where_its_beginning_is_held() -> None:
    fleet = Fleet(*workers(0, 0, 0))
    first = fleet.whole(request(LONG))
    for number in range(20):
        asked = request(LONG + b"%d" % number)
        assert fleet.whole(asked) == first
        assert asked.matched >= len(LONG)


def test_a_hit_is_not_worth_a_longer_wait() -> None:
    fleet = Fleet(*workers(0, 0))
    holder = fleet.fleet.workers[fleet.whole(request(LONG))]
    saved = len(LONG) // BYTES_PER_TOKEN
    holder.prefill_outstanding = saved - 50
    assert fleet.whole(request(LONG + b"1")) == holder.id
    fleet.work.forget(next(worker for worker in fleet.fleet.workers.values() if worker is not holder))
    holder.prefill_outstanding = saved + 50
    assert fleet.whole(request(LONG + b"2")) != holder.id


def test_prompts_are_weighed_not_counted() -> None:
    fleet = Fleet(*workers(0, 0))
    long = fleet.begin(prompt(5000, "long")).worker
    assert all(fleet.begin(prompt(100, str(number))).worker is not long for number in range(5))


def test_work_is_put_where_fewer_wait_for_theirs() -> None:
    one, two = workers(3, 3)
    one.prefills, two.prefills = 3, 1
    assert Fleet(one, two).whole(prompt(1000, "a")) == "w1"


def test_a_hit_is_worth_more_when_everyone_is_busy() -> None:
    """It saves as much work, and more requests would have waited for that."""
    picked = []
    for waiting in (0, 4):
        fleet = Fleet(*workers(0, 0))
        holder = fleet.fleet.workers[fleet.whole(request(LONG))]
        for worker in fleet.fleet.workers.values():
            worker.inflight = worker.prefills = waiting
        holder.prefill_outstanding = 2 * len(LONG) // BYTES_PER_TOKEN
        picked.append(fleet.whole(request(LONG + b"1")) == holder.id)
    assert picked == [False, True]


def test_a_lull_does_not_throw_hits_away_at_once() -> None:
    """Who was busy for the last seconds will be so again."""
    picked = []
    for seconds in (1.0, 100.0):
        fleet = Fleet(*workers(0, 0))
        members = fleet.fleet.workers.values()
        holder = fleet.fleet.workers[fleet.whole(request(LONG))]
        for worker in members:
            worker.inflight = worker.prefills = 4
        fleet.whole(request(b"begins a busy time"))
        fleet.now += 100.0
        fleet.whole(request(b"ends it"))
        for worker in members:
            worker.inflight = worker.prefills = 0
        fleet.whole(request(b"begins a lull"))
        fleet.now += seconds
        holder.prefill_outstanding = 2 * len(LONG) // BYTES_PER_TOKEN
        picked.append(fleet.whole(request(LONG + b"1")) == holder.id)
    assert picked == [True, False]


def test_a_mean_over_time_weighs_how_long_a_value_held() -> None:
    mean = Lately()
    assert mean.now(4.0, now=50.0) == 0
    assert mean.now(0.0, now=50.0 + LATELY * math.log(4)) == pytest.approx(3)
    assert mean.now(8.0, now=50.0 + LATELY * math.log(8)) == pytest.approx(1.5)


def test_a_token_of_a_long_prompt_is_dearer_than_one_of_a_short_prompt() -> None:
    """With 30,000 tokens by half: 15,000 less to compute are worth a queue of 18,750."""
    fleet = Fleet(*workers(0, 0))
    half = prompt(PAIRS // 2, "half")
    key = half.key
    holder = fleet.fleet.workers[fleet.whole(half)]
    picked = []
    for waiting in (18_000, 19_500):
        holder.prefill_outstanding = waiting
        picked.append(fleet.whole(request(key + b"%d" % waiting + b"+" * len(key))) == holder.id)
    assert picked == [True, False]


def test_a_prompt_goes_where_it_stalls_fewer_answers_and_a_short_one_where_steps_are_shorter() -> None:
    many, few = workers(40, 10)
    assert Fleet(many, few).whole(prompt(1000, "a")) == "w1"
    deep, shallow = workers(10, 10)
    deep.context, shallow.context = 200_000, 100_000
    assert Fleet(deep, shallow).whole(prompt(10, "a")) == "w1"


def test_of_two_equal_contexts_the_one_that_others_may_refer_to_is_cheaper() -> None:
    apart, together = workers(10, 10)
    apart.context = together.context = 40_000
    together.shared = 30_000
    assert Fleet(apart, together).whole(prompt(10, "a")) == "w1"


def test_a_workers_cache_ends_where_its_engine_says() -> None:
    [worker] = workers(0)
    worker.kv_tokens = 250
    fleet = Fleet(worker)
    names = ("one", "two", "three")
    for name in names:
        fleet.whole(prompt(100, name))
    found = []
    for name in reversed(names):
        asked = prompt(100, name)
        fleet.whole(asked)
        found.append(asked.matched > 0)
    assert found == [True, True, False]


def test_a_worker_that_keeps_two_prompts_is_not_believed_to_keep_three() -> None:
    [worker] = workers(0)
    worker.kv_tokens, worker.kv_prompts = 100_000, 2
    fleet = Fleet(worker)
    found = []
    for name in ("a", "b", "a", "c", "b"):
        asked = prompt(100, name)
        fleet.whole(asked)
        found.append(asked.matched > 0)
    assert found == [False, False, True, False, False]


def test_the_index_has_room_for_what_all_engines_hold() -> None:
    some = workers(*[0] * 8)
    for worker in some:
        worker.kv_tokens = 100_000
    fleet = Fleet(*some)
    assert fleet.work.index.max_size == 1 << 20
    fleet.whole(prompt(100, "a"))
    assert fleet.work.index.max_size == 8 * 100_000 * BYTES_PER_TOKEN


def test_what_answers_tell_of_their_prompts_makes_room() -> None:
    [worker] = workers(0)
    worker.kv_tokens = 1_000_000
    fleet = Fleet(worker)
    asked = prompt(10_000, "a")
    lease = fleet.begin(asked)
    asked.usage = Usage(10_000, 8000)  # of which the index knew nothing
    fleet.finish(asked, lease)
    assert fleet.work.index.max_size > 4_000_000
    fleet.work.forget(worker)
    assert fleet.work._rooms.of(worker) == 4_000_000


def test_what_requests_in_flight_refer_to_stays_and_the_last_to_end_is_the_last_to_go() -> None:
    [worker] = workers(0)
    worker.kv_tokens = 250
    fleet = Fleet(worker)
    early = prompt(100, "early")
    lease = fleet.begin(early)
    for number in range(5):
        fleet.whole(prompt(100, str(number)))
    fleet.finish(early, lease)
    fleet.whole(prompt(100, "late"))
    again = prompt(100, "early")
    fleet.whole(again)
    assert again.matched == 400


def served_after(*, w0: float, w1: float) -> Counter[str]:
    """Who gets 30 requests at once, after 40 that took so many seconds each on one worker and on the other."""
    fleet, seconds = Fleet(*workers(0, 0)), {"w0": w0, "w1": w1}
    for number in range(40):
        asked = prompt(1000, str(number))
        lease = fleet.begin(asked)
        fleet.answer(asked, lease, seconds[lease.worker.id])
        fleet.finish(asked, lease)
    return Counter(fleet.begin(prompt(1000, f"more {number}")).worker.id for number in range(30))


def test_a_slow_worker_shows_within_tens_of_requests_and_gets_less() -> None:
    served = served_after(w0=0.06, w1=0.03)
    assert served["w1"] > 1.5 * served["w0"] > 0


def test_workers_that_differ_a_little_are_taken_for_equal() -> None:
    served = served_after(w0=0.033, w1=0.030)
    assert served["w0"] == served["w1"]


def test_only_a_request_that_found_nobody_waiting_tells_the_pace() -> None:
    fleet = Fleet(*workers(0))
    first, second = prompt(1000, "a"), prompt(1000, "b")
    one, two = fleet.begin(first), fleet.begin(second)
    fleet.answer(second, two, 9.0)
    assert fleet.work._paces._seconds == 0
    fleet.answer(first, one, 1.0)
    assert fleet.work._paces._seconds == 10.0


def test_a_worker_that_was_started_anew_holds_nothing_and_has_no_pace() -> None:
    fleet = Fleet(*workers(0))
    worker = fleet.fleet.workers["w0"]
    lease = fleet.begin(asked := request(LONG))
    fleet.answer(asked, lease, 1.0)
    fleet.work.forget(worker)
    fleet.finish(asked, lease)
    again = request(LONG)
    fleet.begin(again)
    assert again.matched == 0
    assert fleet.work._paces._seconds == 0


def test_a_newcomer_gets_its_share_and_no_herd() -> None:
    fleet = Fleet(*workers(0, 0, 0, 0))
    for number in range(40):
        fleet.begin(prompt(1000, str(number)))
    fleet.fleet.add(Worker("new", "http://10.0.0.9:31000", lifecycle=State.READY))
    before = {worker.id: worker.inflight for worker in fleet.fleet.workers.values()}
    for number in range(12):
        fleet.begin(prompt(1000, f"more {number}"))
    gained = {worker.id: worker.inflight - before[worker.id] for worker in fleet.fleet.workers.values()}
    assert 8 <= gained["new"] <= 12  # the ten that make it even with the others
    for number in range(50):
        fleet.begin(prompt(1000, f"much more {number}"))
    loads = [worker.inflight for worker in fleet.fleet.workers.values()]
    assert max(loads) - min(loads) <= 2


def test_nothing_is_left_of_requests_that_are_over() -> None:
    fleet = Fleet(*workers(0, 0))
    for number in range(20):
        asked = prompt(100, str(number))
        lease = fleet.begin(asked)
        fleet.finish(asked, lease)
        fleet.finish(asked, lease)  # a retry may give a request back twice
    assert asked.stay is None
    assert not any(tenant.stays for tenant in fleet.work.index._tenants.values())


def test_a_request_without_a_prompt_is_placed_by_load() -> None:
    light, heavy = workers(0, 5)
    heavy.context = 5000
    fleet = Fleet(heavy, light)
    assert fleet.whole(request(b"")) == "w0"
    assert fleet.work.pick(request(b""), (heavy, light), 0.0, random.Random(1)) is light


def test_answers_that_come_whole_do_not_pile_up_where_their_beginning_is_held() -> None:
    """A second after it was sent each of them is being decoded, though no byte of it has come."""
    fleet = Fleet(*workers(0, 0))
    for number in range(200):
        fleet.fleet.presume(fleet.now)
        fleet.begin(request(LONG + b"%d" % number, stream=False))
        fleet.now += 1.0
    one, two = (worker.inflight for worker in fleet.fleet.workers.values())
    assert abs(one - two) < 100


def test_a_whole_answers_prompt_should_be_computed_when_those_before_it_are() -> None:
    fleet = Fleet(*workers(0))
    first, second = request(b"a" * 4000, stream=False), request(b"b" * 4000, stream=False)
    fleet.begin(first)
    fleet.begin(second)
    assert 1000 * USUAL < first.computed_by < 3000 * USUAL
    assert second.computed_by == first.computed_by + 1000 * USUAL
    fleet.begin(streamed := request(b"c" * 4000))
    assert streamed.computed_by == math.inf


def test_while_somebody_is_idle_a_hit_is_not_worth_slow_answers() -> None:
    for third, chosen in (("idle", "w2"), ("inflight", "w0"), ("others_running", "w0"), ("others_waiting", "w0")):
        fleet = Fleet(*workers(0, 0, 0))
        busy, other = fleet.fleet.workers["w0"], fleet.fleet.workers["w1"]
        fleet.work.index.insert(LONG, "w0")
        busy.inflight, busy.context = 8, 12_000  # 0.07 a token: 840 tokens of prefill; 0.25: 3,000
        other.inflight, other.context = 1, 100_000
        if third != "idle":
            setattr(fleet.fleet.workers["w2"], third, 1)
        assert fleet.begin(request(LONG + b"and more")).worker.id == chosen


# -- large fleets


def test_in_a_large_fleet_everyone_gets_a_turn() -> None:
    fleet = Fleet(*workers(*[0] * 100))
    for number in range(400):
        fleet.begin(prompt(1000, str(number)))
    assert {worker.inflight for worker in fleet.fleet.workers.values()} <= {3, 4, 5}


def test_in_a_large_fleet_a_prompt_goes_where_it_is_held_whoevers_turn_it_is() -> None:
    fleet = Fleet(*workers(*[1] * 100))
    fleet.work.index.insert(LONG, "w77")
    assert {fleet.whole(request(LONG + b"%d" % number)) for number in range(10)} == {"w77"}


def test_in_a_large_fleet_the_longest_match_is_among_those_looked_at() -> None:
    fleet = Fleet(*workers(*[1] * 100))
    for number in range(100):
        fleet.work.index.insert(LONG, f"w{number}")
    fleet.work.index.insert(LONG * 3, "w50")
    assert {fleet.whole(request(LONG * 3 + b"%d" % number)) for number in range(10)} == {"w50"}


def test_a_large_fleet_may_shrink() -> None:
    fleet = Fleet(*workers(*[0] * 200))
    for number in range(6):
        fleet.whole(prompt(10, str(number)))
    fewer = tuple(fleet.fleet.workers.values())[:70]
    for _ in range(10):
        assert fleet.work.pick(request(b""), fewer, 0.0, random.Random(1)) in fewer


# -- beside other routers


def test_routers_that_do_not_see_each_other_send_a_new_prefix_to_the_same_worker() -> None:
    routers = [LeastWork(1 << 20, shared=True) for _ in range(2)]
    fleets = [Router(policy, *workers(*[0] * 8)) for policy in routers]
    for fleet in fleets:  # both have seen that prompts come again
        for number in range(400):
            fleet.send(request(b"group %d " % (number % 4) + LONG))
    same = 0
    for number in range(40):
        prefix = b"new group %d " % number + LONG
        same += len({fleet.send(request(prefix)) for fleet in fleets}) == 1
    assert same >= 36  # by chance an eighth


def test_what_other_routers_have_on_a_worker_is_work_there() -> None:
    policy = LeastWork(1 << 20, shared=True)
    fleet = Router(policy, *workers(0, 0))
    for number in range(200):
        fleet.send(prompt(500, str(number)))
    busy = fleet.fleet.workers["w0"]
    fleet.fleet.set_others(busy, 5, 0)
    assert {fleet.send(prompt(500, f"waiting {number}")) for number in range(20)} == {"w1"}
    fleet.fleet.set_others(busy, 0, 20)
    assert {fleet.send(prompt(500, f"running {number}")) for number in range(20)} == {"w1"}
    fleet.fleet.set_others(busy, 0, 0)
    assert {fleet.send(prompt(500, f"idle {number}")) for number in range(20)} == {"w0", "w1"}


def test_a_router_that_is_alone_does_not_guess() -> None:
    fleet = Fleet(*workers(0, 0, 0, 0))
    for number in range(400):
        fleet.whole(request(b"group %d " % (number % 4) + LONG))
    homes = Counter(fleet.whole(prompt(10, f"new {number}")) for number in range(200))
    assert fleet.work._hearsay is None
    assert len(homes) == 4
