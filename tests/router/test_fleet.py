"""The table of workers: counts that always add up, who may be picked, and what others are told of changes."""

from __future__ import annotations

import weakref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router.fleet import LATENCIES, Breaker, Fleet, Lease, Role, State, Worker
from router.usage import Usage

MODELS = [(), ("a",), ("b",), ("a", "b")]
ASKED = [None, "a", "b", "nobody's"]


class Out:
    """What is known of one lease from outside."""

    def __init__(self, lease: Lease, tokens: int, trial: bool, context: int):
        self.lease, self.worker = lease, lease.worker
        self.tokens = tokens  # still outstanding
        self.context = context
        self.shared = context - tokens
        self.prefill = True
        self.trial = trial
        self.open = True


class AnyOrder(RuleBasedStateMachine):
    """Everything that the exchange, the supervisor, the prober and people do, in any order, some of it twice."""

    @initialize(max_failures=st.integers(0, 1), size=st.integers(0, 3))
    def start(self, max_failures: int, size: int) -> None:
        self.fleet = Fleet(max_failures)
        self.max_failures = max_failures
        self.all: list[Worker] = []  # removed ones too
        self.outs: list[Out] = []
        self.shown: dict[str, State] = {}  # as the listeners were told
        self.members: list[str] = []
        self.forgotten: list[str] = []
        self.fleet.on_state.append(self.hear)
        self.fleet.on_add.append(lambda worker: self.members.append(worker.id))
        self.fleet.on_remove.append(lambda worker: self.members.remove(worker.id))
        self.fleet.on_forget.append(lambda worker: self.forgotten.append(worker.id))
        for _ in range(size):
            self.join(MODELS[0], State.READY)

    def hear(self, worker: Worker, old: State, new: State, reason: str) -> None:
        assert self.shown[worker.id] is old is not new
        self.shown[worker.id] = new

    def join(self, models: tuple[str, ...], lifecycle: State) -> None:
        worker = Worker(self.fleet.next_id(), f"http://host:{len(self.all)}", models=models, lifecycle=lifecycle)
        self.all.append(worker)
        self.shown[worker.id] = worker.state
        self.fleet.add(worker)

    @rule(models=st.sampled_from(MODELS), lifecycle=st.sampled_from([State.STARTING, State.READY]))
    def add(self, models: tuple[str, ...], lifecycle: State) -> None:
        if len(self.members) < 4:
            self.join(models, lifecycle)

    @precondition(lambda self: self.all)
    @rule(data=st.data(), what=st.sampled_from(["failed", "half_open", "failed", "half_open", "succeeded"]))
    def happens(self, data: st.DataObject, what: str) -> None:
        worker = data.draw(st.sampled_from(self.all))
        if what == "failed":
            self.fleet.failed(worker, "why")
        else:
            getattr(self.fleet, what)(worker)
        self.note_closed()

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.all))
        self.fleet.remove(worker)
        assert self.forgotten.count(worker.id) == 1

    @precondition(lambda self: self.all)
    @rule(data=st.data(), state=st.sampled_from([State.READY, State.READY, State.STARTING, State.BACKOFF]))
    def set_lifecycle(self, data: st.DataObject, state: State) -> None:
        worker = data.draw(st.sampled_from(self.all))
        became = worker.lifecycle is not state
        self.fleet.set_lifecycle(worker, state, "why")
        assert worker.breaker is Breaker.CLOSED or not became
        self.note_closed()

    @precondition(lambda self: self.all)
    @rule(data=st.data(), draining=st.booleans())
    def set_draining(self, data: st.DataObject, draining: bool) -> None:
        self.fleet.set_draining(data.draw(st.sampled_from(self.all)), draining)

    @precondition(lambda self: self.all)
    @rule(data=st.data(), models=st.sampled_from(MODELS))
    def set_models(self, data: st.DataObject, models: tuple[str, ...]) -> None:
        self.fleet.set_models(data.draw(st.sampled_from(self.all)), iter(models))

    @rule(data=st.data(), model=st.sampled_from(ASKED), tokens=st.integers(0, 1000))
    def lease(self, data: st.DataObject, model: str | None, tokens: int) -> None:
        if candidates := self.fleet.candidates(model):
            worker = data.draw(st.sampled_from(candidates))
            trial = worker.breaker is Breaker.HALF_OPEN and not self.on_trial(worker)
            self.outs.append(Out(self.fleet.lease(worker, tokens, 0.0, 2 * tokens), tokens, trial, 2 * tokens))

    @precondition(lambda self: self.outs)
    @rule(data=st.data())
    def first_byte(self, data: st.DataObject) -> None:
        out = data.draw(st.sampled_from(self.outs))
        out.lease.first_byte()
        out.tokens, out.prefill = 0, False

    @precondition(lambda self: self.outs)
    @rule(data=st.data(), tokens=st.integers(0, 100))
    def decoded(self, data: st.DataObject, tokens: int) -> None:
        out = data.draw(st.sampled_from(self.outs))
        out.lease.decoded(tokens)
        out.context += 0 if out.prefill else tokens

    @precondition(lambda self: self.outs)
    @rule(data=st.data(), latency=st.booleans())
    def release(self, data: st.DataObject, latency: bool) -> None:
        out = data.draw(st.sampled_from(self.outs))
        known = len(out.worker.latencies)
        out.lease.release(1.0, latency=latency)
        assert len(out.worker.latencies) == min(known + (latency and out.open), LATENCIES)
        out.open = out.trial = False
        out.tokens = 0

    def note_closed(self) -> None:
        """A worker that is available again has no trial any more."""
        for out in self.outs:
            out.trial = out.trial and out.worker.breaker is not Breaker.CLOSED

    def on_trial(self, worker: Worker) -> bool:
        return any(out.trial for out in self.outs if out.worker is worker)

    @invariant()
    def the_counts_are_those_of_the_open_leases(self) -> None:
        for worker in self.all:
            mine = [out for out in self.outs if out.worker is worker and out.open]
            assert worker.inflight == len(mine)
            assert worker.prefill_outstanding == sum(out.tokens for out in mine)
            assert worker.prefills == sum(out.prefill for out in mine)
            assert worker.context == sum(out.context for out in mine if not out.prefill)
            assert worker.shared == sum(out.shared for out in mine if not out.prefill)
            assert worker.requests_total == sum(out.worker is worker for out in self.outs)

    @invariant()
    def the_candidates_are_the_living_workers_of_the_model_that_are_available_or_else_all_of_them(self) -> None:
        for model in ASKED:
            serving = [w for w in self.fleet.workers.values() if model is None or not w.models or model in w.models]
            living = [w for w in serving if w.lifecycle is State.READY and not w.draining]
            available = [w for w in living if self.available(w)]
            assert list(self.fleet.candidates(model)) == (available or living)
            if model is not None:
                known = {name for w in self.fleet.workers.values() for name in w.models}
                assert self.fleet.serves(model) == (model in known or not known)

    def available(self, worker: Worker) -> bool:
        if worker.breaker is Breaker.HALF_OPEN:
            return not self.on_trial(worker)
        return worker.breaker is Breaker.CLOSED

    @invariant()
    def a_worker_with_too_many_failures_in_a_row_is_unavailable(self) -> None:
        for worker in self.all:
            assert worker.failures <= self.max_failures or worker.breaker is not Breaker.CLOSED

    @invariant()
    def whoever_listens_knows_the_members_and_their_states(self) -> None:
        assert list(self.fleet.workers) == self.members
        assert {worker.id: worker.state for worker in self.all} == self.shown

    @invariant()
    def no_id_is_used_twice(self) -> None:
        assert len({worker.id for worker in self.all}) == len(self.all)

    def teardown(self) -> None:
        for out in getattr(self, "outs", []):
            out.lease.release(2.0)
        assert all((w.inflight, w.prefill_outstanding) == (0, 0) for w in getattr(self, "all", []))


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)


# -- a few of these cases by name


def fleet_of(*known: tuple[str, ...], max_failures: int = 3) -> tuple[Fleet, list[Worker]]:
    """A fleet of ready workers that serve these models."""
    fleet = Fleet(max_failures)
    for number, models in enumerate(known):
        worker = Worker(fleet.next_id(), f"http://host:{number}", models=models, lifecycle=State.READY)
        fleet.add(worker)
    return fleet, list(fleet.workers.values())


def counts(worker: Worker) -> tuple[int, int, int, int]:
    return worker.inflight, worker.prefills, worker.prefill_outstanding, worker.context


def test_of_a_context_what_was_found_in_the_cache_is_shared_and_what_is_computed_is_not() -> None:
    fleet, [worker] = fleet_of(())
    lease = fleet.lease(worker, 100, 0.0, 150)
    assert worker.shared == 0
    lease.first_byte()
    lease.decoded(7)
    assert (worker.context, worker.shared) == (157, 50)
    lease.release(1.0)
    assert worker.shared == 0


def test_a_lease_is_a_prefill_until_the_first_byte_and_a_growing_context_after_it() -> None:
    fleet, [worker] = fleet_of(())
    lease = fleet.lease(worker, 100, 0.0, 150)
    assert counts(worker) == (1, 1, 100, 0)
    lease.first_byte()
    assert counts(worker) == (1, 0, 0, 150)
    lease.decoded(7)
    assert counts(worker) == (1, 0, 0, 157)
    lease.release(1.0)
    assert counts(worker) == (0, 0, 0, 0)


def test_a_prompt_of_which_nothing_is_heard_is_taken_for_computed_when_it_should_be() -> None:
    fleet, [worker] = fleet_of(())
    lease = fleet.lease(worker, 100, 0.0, 150, computed_by=5.0)
    over = fleet.lease(worker, 100, 0.0, 150, computed_by=4.0)
    over.release(1.0)
    fleet.presume(4.9)
    assert counts(worker) == (1, 1, 100, 0)
    fleet.presume(5.0)
    assert counts(worker) == (1, 0, 0, 150)
    lease.first_byte()
    assert counts(worker) == (1, 0, 0, 150)
    lease.release(9.0)
    assert counts(worker) == (0, 0, 0, 0)


def test_a_first_byte_after_the_release_takes_nothing_away_again() -> None:
    fleet, [worker] = fleet_of(())
    lease = fleet.lease(worker, 100, 0.0)
    lease.release(1.0)
    lease.first_byte()
    lease.release(1.0)
    assert counts(worker) == (0, 0, 0, 0)


def test_only_the_latest_latencies_of_successful_requests_are_kept() -> None:
    fleet, [worker] = fleet_of(())
    for number in range(LATENCIES + 5):
        fleet.lease(worker, 0, 10.0).release(10.0 + number, latency=True)
        fleet.lease(worker, 0, 0.0).release(99.0)
    assert list(worker.latencies) == [float(number) for number in range(5, LATENCIES + 5)]


@pytest.fixture
def broken() -> tuple[Fleet, Worker, Worker]:
    """A fleet whose first worker has failed too often, and the other one, which is well."""
    fleet, [bad, good] = fleet_of((), (), max_failures=1)
    fleet.failed(bad, "no answer")
    assert bad in fleet.candidates(None)
    fleet.failed(bad, "no answer")
    return fleet, bad, good


def test_a_worker_that_fails_too_often_in_a_row_is_unavailable(broken: tuple[Fleet, Worker, Worker]) -> None:
    fleet, bad, good = broken
    assert fleet.candidates(None) == (good,)
    assert (bad.state, bad.healthy, bad.failures_total) == (State.UNHEALTHY, False, 2)
    assert bad.last_error == "no answer"


def test_a_success_in_between_starts_the_count_anew() -> None:
    fleet, [worker] = fleet_of((), max_failures=1)
    for _ in range(5):
        fleet.failed(worker, "no answer")
        fleet.succeeded(worker)
    assert worker.breaker is Breaker.CLOSED


def test_half_open_lets_a_single_request_through(broken: tuple[Fleet, Worker, Worker]) -> None:
    fleet, bad, good = broken
    assert fleet.candidates(None) == (good,)
    fleet.half_open(bad)
    assert fleet.candidates(None) == (bad, good)
    trial = fleet.lease(bad, 0, 0.0)
    assert fleet.candidates(None) == (good,)
    trial.release(1.0)  # without a verdict: the client left
    assert fleet.candidates(None) == (bad, good)


def test_an_older_request_that_ends_makes_no_room_for_a_second_trial() -> None:
    fleet, [bad, good] = fleet_of((), (), max_failures=0)
    older = fleet.lease(bad, 0, 0.0)
    fleet.failed(bad, "no answer")
    fleet.half_open(bad)
    fleet.lease(bad, 0, 0.0)
    older.release(1.0)
    assert fleet.candidates(None) == (good,)


def test_a_request_beside_the_trial_does_not_take_its_place() -> None:
    fleet, [worker, other] = fleet_of((), (), max_failures=0)
    for each in (worker, other):
        fleet.failed(each, "no answer")
    fleet.half_open(worker)
    fleet.lease(worker, 0, 0.0)
    assert fleet.candidates(None) == (worker, other)  # for want of better ones
    fleet.lease(worker, 0, 0.0).release(1.0)
    fleet.half_open(other)
    assert fleet.candidates(None) == (other,)


def test_a_trial_that_is_still_out_when_the_worker_is_well_again_does_not_keep_the_next_one_out() -> None:
    fleet, [worker, other] = fleet_of((), (), max_failures=0)
    fleet.failed(worker, "no answer")
    fleet.half_open(worker)
    fleet.lease(worker, 0, 0.0)
    fleet.succeeded(worker)
    fleet.failed(worker, "no answer")
    fleet.half_open(worker)
    assert fleet.candidates(None) == (worker, other)


def test_a_trial_decides(broken: tuple[Fleet, Worker, Worker]) -> None:
    fleet, bad, good = broken
    fleet.half_open(bad)
    fleet.failed(bad, "again")
    assert fleet.candidates(None) == (good,)
    fleet.half_open(bad)
    fleet.succeeded(bad)
    assert fleet.candidates(None) == (bad, good)
    assert bad.state is State.READY


def test_a_probe_does_not_bring_a_worker_that_is_well_on_trial() -> None:
    fleet, [worker] = fleet_of(())
    fleet.half_open(worker)
    assert worker.breaker is Breaker.CLOSED


def test_the_last_living_workers_are_never_ejected(broken: tuple[Fleet, Worker, Worker]) -> None:
    fleet, bad, good = broken
    fleet.failed(good, "no answer")
    fleet.failed(good, "no answer")
    assert fleet.candidates(None) == (bad, good)


def test_a_worker_that_was_started_again_begins_with_a_clean_slate() -> None:
    fleet, [worker, _] = fleet_of((), (), max_failures=0)
    fleet.set_lifecycle(worker, State.BACKOFF, "exited")
    fleet.failed(worker, "the connection closed")  # its requests are told later than its supervisor
    fleet.set_lifecycle(worker, State.STARTING)
    fleet.set_lifecycle(worker, State.READY)
    assert worker.state is State.READY
    assert worker in fleet.candidates(None)


def test_a_worker_said_to_be_ready_once_more_is_not_forgiven(broken: tuple[Fleet, Worker, Worker]) -> None:
    fleet, bad, good = broken
    fleet.set_lifecycle(bad, State.READY)
    assert fleet.candidates(None) == (good,)


@pytest.mark.parametrize("state", [state for state in State if state not in (State.READY, State.DRAINING)])
def test_only_ready_workers_get_requests(state: State) -> None:
    fleet, [worker] = fleet_of(())
    assert fleet.candidates(None) == (worker,)
    fleet.set_lifecycle(worker, state)
    assert fleet.candidates(None) == ()
    assert (worker.state, worker.healthy) == (state, False)


def test_a_draining_worker_gets_no_request_and_counts_as_healthy() -> None:
    fleet, [worker] = fleet_of(())
    fleet.set_draining(worker, True)
    assert fleet.candidates(None) == ()
    assert (worker.state, worker.healthy) == (State.DRAINING, True)
    fleet.set_draining(worker, False)
    assert fleet.candidates(None) == (worker,)


def test_a_request_goes_to_those_that_serve_its_model_or_have_not_told() -> None:
    fleet, [a, b, untold] = fleet_of(("a",), ("b",), ())
    assert fleet.candidates("a") == (a, untold)
    assert fleet.candidates(None) == (a, b, untold)
    fleet.set_models(untold, ["b"])
    assert fleet.candidates("a") == (a,)
    assert [fleet.serves(name) for name in ("a", "b", "c")] == [True, True, False]


def test_a_model_is_served_though_nobody_is_ready_for_it() -> None:
    fleet, [a, _] = fleet_of(("a",), ("b",))
    fleet.set_lifecycle(a, State.BACKOFF)
    assert fleet.candidates("a") == ()
    assert fleet.serves("a")


def test_the_models_of_all_workers_are_told_once_each_in_order() -> None:
    fleet, _ = fleet_of(("b", "a"), (), ("a", "c"))
    assert fleet.models() == ["b", "a", "c"]


class Name(str):
    """A model's name whose end can be noticed."""


@pytest.mark.parametrize("models", [("a",), ()], ids=["refused", "taken by a worker that has not told"])
def test_names_that_clients_make_up_are_not_remembered(models: tuple[str, ...]) -> None:
    fleet, _ = fleet_of(models)
    name = Name("made up")
    noticed = weakref.ref(name)
    fleet.candidates(name)
    del name
    assert noticed() is None


def test_a_url_joins_once() -> None:
    fleet, [worker] = fleet_of(())
    with pytest.raises(ValueError, match="http://host:0 is already there"):
        fleet.add(Worker(fleet.next_id(), worker.url))
    assert fleet.by_url(worker.url) is worker
    assert fleet.by_url("http://host:1") is None


def test_a_worker_that_comes_back_is_another_one() -> None:
    fleet, [worker] = fleet_of(())
    fleet.remove(worker)
    again = Worker(fleet.next_id(), worker.url)
    fleet.add(again)
    assert again.id != worker.id


def test_a_worker_that_leaves_is_forgotten_by_all_and_only_once() -> None:
    fleet, [worker, _] = fleet_of((), ())
    told: list[tuple[str, Worker]] = []
    fleet.on_forget.append(lambda w: told.append(("forget", w)))
    fleet.on_remove.append(lambda w: told.append(("remove", w)))
    fleet.remove(worker)
    fleet.remove(worker)
    assert told == [("forget", worker), ("remove", worker)]


def test_listeners_hear_of_changes_that_can_be_seen_and_why() -> None:
    fleet, [worker] = fleet_of((), max_failures=0)
    told: list[tuple[str, str, str]] = []
    fleet.on_state.append(lambda w, old, new, reason: told.append((old.value, new.value, reason)))
    fleet.failed(worker, "no answer")
    fleet.failed(worker, "no answer")
    fleet.half_open(worker)
    fleet.succeeded(worker)
    fleet.set_draining(worker, True)
    fleet.set_draining(worker, True)
    fleet.set_draining(worker, False)
    fleet.set_lifecycle(worker, State.FAILED, "crashed 6 times")
    assert told == [
        ("ready", "unhealthy", "no answer"),
        ("unhealthy", "ready", "a request succeeded"),
        ("ready", "draining", "draining"),
        ("draining", "ready", "drain cancelled"),
        ("ready", "failed", "crashed 6 times"),
    ]


def test_when_nobody_answers_probes_a_worker_whose_process_is_there_is_still_asked() -> None:
    fleet = Fleet()
    ours = Worker("w0", "http://a", lifecycle=State.UNHEALTHY, handle=NoHandle())
    fleet.add(ours)
    fleet.add(Worker("w1", "http://b", lifecycle=State.UNHEALTHY))
    assert fleet.candidates(None) == (ours,)
    well = Worker("w2", "http://c", lifecycle=State.READY)
    fleet.add(well)
    assert fleet.candidates(None) == (well,)


class NoHandle:
    async def restart(self) -> None: ...

    async def stop(self) -> None: ...


# -- tokens, summed up


def test_prompts_are_summed_up_when_they_are_sent():
    fleet, worker = Fleet(), Worker("w0", "http://host")
    for uncached, prompt in ((100, 100), (30, 100)):
        fleet.lease(worker, uncached, 0.0, prompt).release(1.0)
    assert (worker.prompt_tokens, worker.uncached_tokens) == (200, 130)


def test_a_streams_answer_is_counted_as_it_comes_and_topped_up_at_its_end():
    worker = Worker("w0", "http://host")
    lease = Fleet().lease(worker, 100, 0.0, 100)
    lease.first_byte()
    lease.decoded(3)
    assert worker.answer_tokens == 3
    lease.told(Usage(100, None, 10))  # several tokens were in one event
    assert worker.answer_tokens == 10
    assert worker.reported_prompt_tokens == 0


def test_a_counter_never_falls_when_a_stream_had_more_events_than_tokens():
    worker = Worker("w0", "http://host")
    lease = Fleet().lease(worker, 100, 0.0, 100)
    lease.first_byte()
    lease.decoded(12)
    lease.told(Usage(100, 60, 10))
    assert worker.answer_tokens == 12
    assert (worker.reported_prompt_tokens, worker.reported_cached_tokens) == (100, 60)


# -- roles


def halves(fleet: Fleet) -> dict[str, Worker]:
    roles = {"p0": Role.PREFILL, "p1": Role.PREFILL, "d0": Role.DECODE, "d1": Role.DECODE}
    made = {name: Worker(name, f"http://{name}", lifecycle=State.READY, role=role) for name, role in roles.items()}
    for worker in made.values():
        fleet.add(worker)
    return made


def test_each_role_has_candidates_of_its_own():
    fleet = Fleet()
    p0, p1, d0, d1 = halves(fleet).values()
    assert fleet.candidates(None, Role.PREFILL) == (p0, p1)
    assert fleet.candidates(None, Role.DECODE) == (d0, d1)
    assert fleet.candidates("any", Role.DECODE) == (d0, d1)
    assert fleet.untried(None, {"p0", "d1"}, Role.PREFILL) == (p1,)
    assert fleet.untried(None, {"d0", "d1"}, Role.DECODE) == ()
    fleet.set_draining(p0, True)
    assert fleet.candidates(None, Role.PREFILL) == (p1,)


def test_the_last_living_worker_of_a_role_is_not_ejected_whatever_the_others_do():
    fleet = Fleet(max_worker_retries=0)
    p0, p1, d0, d1 = halves(fleet).values()
    for worker in (p0, p1):
        fleet.failed(worker, "broken")
    assert fleet.candidates(None, Role.PREFILL) == (p0, p1)
    assert fleet.candidates(None, Role.DECODE) == (d0, d1)
    fleet.succeeded(p1)
    assert fleet.candidates(None, Role.PREFILL) == (p1,)
