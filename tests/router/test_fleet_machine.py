"""The fleet in every order of leases, deaths, drains, additions and removals: counts agree, nobody is forgotten."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from router.fleet import Breaker, Fleet, Lease, State, Worker

MAX_FAILURES = 0
MODELS = (None, "a", "b")
LIFECYCLES = tuple(state for state in State if state is not State.DRAINING)


class Count:
    """What a lease should have taken, and whether it still has."""

    def __init__(self, lease: Lease, worker: Worker, uncached: int, prompt: int, due: float):
        self.lease, self.worker, self.uncached, self.prompt, self.due = lease, worker, uncached, prompt, due
        self.open = self.prefill = True


class Fleets(RuleBasedStateMachine):
    workers = Bundle("workers")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(MAX_FAILURES)
        self.now = 100.0
        self.counts: list[Count] = []
        self.rng = random.Random(1)
        self.forgotten: list[str] = []
        self.left: list[str] = []
        self.shown: dict[str, State] = {}
        self.fleet.on_forget.append(lambda worker: self.forgotten.append(worker.id))
        self.fleet.on_remove.append(lambda worker: self.left.append(worker.id))
        self.fleet.on_state.append(self.hear)

    def hear(self, worker: Worker, old: State, new: State, reason: str) -> None:
        assert self.shown[worker.id] is old
        assert new is worker.state is not old
        self.shown[worker.id] = new

    # -- what can happen

    @rule(target=workers, models=st.sampled_from(((), ("a",), ("a", "b"))), ours=st.booleans())
    def a_worker_joins(self, models: tuple[str, ...], ours: bool) -> Worker:
        name = self.fleet.next_id()
        handle = object() if ours else None
        worker = Worker(name, f"http://{name}", models=models, lifecycle=State.READY, handle=handle)  # type: ignore
        self.shown[name] = worker.state
        self.fleet.add(worker)
        return worker

    @rule(worker=workers)
    def it_leaves(self, worker: Worker) -> None:
        self.fleet.remove(worker)
        assert self.left.count(worker.id) == 1

    @rule(worker=workers, state=st.sampled_from(LIFECYCLES))
    def its_process_changes(self, worker: Worker, state: State) -> None:
        self.fleet.set_lifecycle(worker, state, "so it is")

    @rule(worker=workers, draining=st.booleans())
    def it_is_drained(self, worker: Worker, draining: bool) -> None:
        self.fleet.set_draining(worker, draining)

    @rule(worker=workers, what=st.sampled_from(("failed", "succeeded", "half_open")))
    def it_is_heard_of(self, worker: Worker, what: str) -> None:
        if what == "failed":
            self.fleet.failed(worker, "reset")
        else:
            getattr(self.fleet, what)(worker)

    @precondition(lambda self: self.fleet.candidates(None))
    @rule(
        target=leases,
        model=st.sampled_from(MODELS),
        uncached=st.integers(0, 9),
        prompt=st.integers(0, 9),
        due=st.sampled_from((1.0, 5.0, float("inf"))),
    )
    def a_request_comes(self, model: str | None, uncached: int, prompt: int, due: float) -> object:
        found = self.fleet.candidates(model)
        if not found:
            return multiple()
        worker = self.rng.choice(found)
        lease = self.fleet.lease(worker, uncached, self.now, prompt, self.now + due)
        self.counts.append(Count(lease, worker, uncached, prompt, self.now + due))
        return self.counts[-1]

    @rule(count=leases)
    def its_first_byte_comes(self, count: Count) -> None:
        count.lease.first_byte()
        count.prefill = False

    @rule(count=leases, tokens=st.integers(1, 5))
    def it_is_decoded(self, count: Count, tokens: int) -> None:
        count.lease.decoded(tokens)
        if count.open and not count.prefill:
            count.prompt += tokens

    @rule(count=consumes(leases), good=st.booleans())
    def it_ends(self, count: Count, good: bool) -> None:
        before = len(count.worker.latencies)
        for _ in range(2):  # whoever comes second changes nothing
            count.lease.release(self.now, latency=good)
        count.open = False
        assert len(count.worker.latencies) <= before + 1

    @rule(seconds=st.sampled_from((0.5, 2.0, 10.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.fleet.presume(self.now)
        for count in self.counts:
            if count.due <= self.now:
                count.prefill = False

    # -- what must hold

    @invariant()
    def counts_are_those_of_the_open_leases(self) -> None:
        everyone = {count.worker for count in self.counts} | set(self.fleet.workers.values())
        for worker in everyone:
            mine = [count for count in self.counts if count.open and count.worker is worker]
            waiting = [count for count in mine if count.prefill]
            assert worker.inflight == len(mine)
            assert worker.prefills == len(waiting)
            assert worker.prefill_outstanding == sum(count.uncached for count in waiting)
            assert worker.context == sum(count.prompt for count in mine if not count.prefill)

    @invariant()
    def a_trial_is_an_open_request_of_a_worker_on_trial(self) -> None:
        for worker in self.fleet.workers.values():
            if worker.trial is not None:
                assert any(count.lease is worker.trial and count.open for count in self.counts)
            if worker.breaker is Breaker.CLOSED:
                assert worker.trial is None
                assert worker.failures <= MAX_FAILURES

    @invariant()
    def nobody_who_can_serve_is_left_out(self) -> None:
        for model in MODELS:
            found = self.fleet.candidates(model)
            serving = [w for w in self.fleet.workers.values() if not w.draining]
            serving = [w for w in serving if model is None or not w.models or model in w.models]
            assert set(found) <= set(serving)
            up = [worker for worker in serving if worker.lifecycle is State.READY]
            well = [worker for worker in up if worker.breaker is Breaker.CLOSED]
            assert set(well) <= set(found)
            assert found or not up, "the last living worker is never ejected"
            tried = {worker.id for worker in found}
            assert {w.id for w in self.fleet.untried(model, tried)} == {w.id for w in up} - tried or not up

    @invariant()
    def what_people_are_shown_was_told(self) -> None:
        for worker in self.fleet.workers.values():
            assert self.shown[worker.id] is worker.state

    def teardown(self) -> None:
        """In the end all is given back."""
        for count in self.counts:
            count.lease.release(self.now)
            assert min(count.worker.inflight, count.worker.prefills, count.worker.context) >= 0
        assert all(count.worker.inflight == count.worker.context == 0 for count in self.counts)


TestFleets = Fleets.TestCase
TestFleets.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
