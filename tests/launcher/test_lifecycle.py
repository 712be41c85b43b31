"""The life of a worker: every row of the table, and the arithmetic of failure."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from launcher.lifecycle import (
    BUSY_PATIENCE,
    FORGIVEN_AFTER,
    JITTER,
    MAX_MOVES,
    WORK_PATIENCE,
    Action,
    BackoffOver,
    Event,
    Exited,
    Impossible,
    Kill,
    Life,
    Lost,
    Move,
    NotStarted,
    Probed,
    RestartAsked,
    Rules,
    Spawn,
    StopAsked,
    Tried,
    Try,
    Unplaced,
    Wait,
    backoff,
    begin,
    describe,
    step,
)
from router.fleet import Cause, State

NOW = 1000.0
FAILED = Probed("HTTP 503")


class Worker:
    """A life that is stepped through, with a clock that the test moves."""

    def __init__(self, state: State = State.STARTING, **rules: float):
        self.rules = Rules(**rules)  # type: ignore[arg-type]
        self.now = NOW
        self.life, self.actions = begin(self.now)
        if state is not State.STARTING:
            self.life = Life(state, self.now, ready_since=self.now, ever_ready=True)

    def meets(self, event: Event, after: float = 0.0) -> tuple[Action, ...]:
        self.now += after
        self.life, self.actions = step(self.life, event, self.now, random.Random(1), self.rules)
        return self.actions

    def crashes(self, after: float = 0.0) -> tuple[Action, ...]:
        """Dies, and is started again as soon as it may be."""
        actions = self.meets(Exited(1), after)
        if self.life.state is State.BACKOFF:
            delay = next(action.delay for action in actions if isinstance(action, Wait))
            self.meets(BackoffOver(), delay)
        return actions

    @property
    def state(self) -> State:
        return self.life.state


def test_a_new_worker_is_started():
    life, actions = begin(NOW)
    assert life.state is State.STARTING
    assert actions == (Spawn(),)


def test_a_worker_that_answers_is_ready():
    worker = Worker()
    assert worker.meets(Probed(), 3.0) == ()
    assert worker.state is State.READY
    assert worker.life.ever_ready


def test_a_worker_that_loads_may_fail_its_probes_until_the_startup_timeout():
    worker = Worker(startup_timeout=60)
    assert worker.meets(FAILED, 59.9) == ()
    assert worker.state is State.STARTING
    actions = worker.meets(FAILED, 0.1)
    assert worker.state is State.BACKOFF
    assert actions[0] == Kill()
    assert "not ready after 60 s: HTTP 503" in worker.life.reason
    assert worker.life.cause is Cause.TOO_SLOW


@pytest.mark.parametrize("state", [State.STARTING, State.READY, State.UNHEALTHY])
def test_a_worker_that_exits_is_cleaned_up_and_started_again_after_a_delay(state: State):
    worker = Worker(state)
    kill, wait = worker.meets(Exited(-9))
    assert kill == Kill()
    assert isinstance(wait, Wait)
    assert worker.state is State.BACKOFF
    assert "SIGKILL" in worker.life.reason
    assert worker.meets(BackoffOver()) == (Spawn(),)
    assert worker.state is State.STARTING
    assert worker.life.restarted == {Cause.KILLED: 1}


@pytest.mark.parametrize(
    ("event", "cause"),
    [
        (Exited(0), Cause.EXITED),
        (Exited(1), Cause.EXITED),
        (Exited(-6), Cause.KILLED),
        (Exited(137), Cause.KILLED),
        (NotStarted("no memory"), Cause.NO_PROCESS),
    ],
)
def test_restarts_are_counted_by_cause(event: Event, cause: Cause):
    worker = Worker(max_restarts=9)
    for _ in range(2):
        worker.meets(event)
        worker.meets(BackoffOver())
    worker.meets(RestartAsked())
    assert worker.life.restarted == {cause: 2, Cause.ASKED: 1}


def test_delays_double_from_half_a_second_to_a_minute():
    assert [backoff(n) for n in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff(10_000) == 60


def test_each_crash_in_a_row_waits_longer_give_or_take_the_jitter():
    worker = Worker(max_restarts=100)
    for streak in range(8):
        _, wait = worker.crashes()
        assert isinstance(wait, Wait)
        assert abs(wait.delay - backoff(streak)) <= JITTER * backoff(streak)


def test_workers_that_die_together_do_not_start_together():
    dead = Worker(State.READY).life
    delays = {step(dead, Exited(1), NOW, random.Random(seed), Rules())[1] for seed in range(8)}
    assert len(delays) == 8


def test_ten_minutes_of_being_ready_are_a_new_beginning():
    worker = Worker(max_restarts=100, restart_window=1e6)
    for _ in range(6):
        worker.crashes()
    worker.meets(Probed())
    _, wait = worker.crashes(FORGIVEN_AFTER)
    assert isinstance(wait, Wait)
    assert wait.delay <= 0.5 * (1 + JITTER)
    assert len(worker.life.ends) == 1


def test_less_than_ten_minutes_of_being_ready_are_not():
    worker = Worker(max_restarts=100)
    for _ in range(6):
        worker.crashes()
    worker.meets(Probed())
    _, wait = worker.crashes(FORGIVEN_AFTER - 1)
    assert isinstance(wait, Wait)
    assert wait.delay > 20


def test_time_spent_dead_or_loading_is_not_time_spent_ready():
    worker = Worker(max_restarts=100)
    worker.meets(Probed())
    worker.crashes(1)
    _, wait = worker.crashes(FORGIVEN_AFTER)
    assert isinstance(wait, Wait)
    assert wait.delay > 0.5 * (1 + JITTER)


def test_one_crash_too_many_within_the_window_is_the_last():
    worker = Worker(max_restarts=2, restart_window=600)
    worker.crashes()
    worker.crashes()
    assert worker.state is State.STARTING
    assert worker.crashes() == (Kill(),)
    assert worker.state is State.FAILED


def test_crashes_outside_the_window_do_not_count():
    worker = Worker(max_restarts=2, restart_window=100)
    for _ in range(10):
        worker.crashes(after=60)
    assert worker.state is State.STARTING


def test_no_restarts_allowed_means_none():
    worker = Worker(State.READY, max_restarts=0)
    worker.meets(Exited(1))
    assert worker.state is State.FAILED


@pytest.mark.parametrize("code", [2, 126, 127])
def test_an_engine_that_refuses_its_options_or_cannot_be_executed_is_not_started_again(code: int):
    worker = Worker()
    worker.meets(Exited(code))
    assert worker.state is State.FAILED


def test_the_same_code_from_a_worker_that_once_was_ready_is_a_crash_like_any_other():
    worker = Worker()
    worker.meets(Probed())
    worker.crashes()
    worker.meets(Exited(2))
    assert worker.state is State.BACKOFF


def test_a_taken_port_is_answered_by_another_port_at_once_and_costs_no_restart():
    worker = Worker(max_restarts=0)
    assert worker.meets(Exited(1, port_taken=True)) == (Kill(), Move(), Spawn())
    assert worker.state is State.STARTING
    assert worker.life.restarted == {}
    assert worker.life.ends == ()


def test_ports_are_not_tried_for_ever():
    worker = Worker(max_restarts=0)
    for _ in range(MAX_MOVES):
        worker.meets(Exited(1, port_taken=True))
    assert worker.state is State.STARTING
    worker.meets(Exited(1, port_taken=True))
    assert worker.state is State.FAILED


def test_a_worker_that_was_ready_may_move_again():
    worker = Worker()
    for _ in range(3):
        for _ in range(MAX_MOVES):
            worker.meets(Exited(1, port_taken=True))
        worker.meets(Probed())
        worker.crashes()
    assert len(worker.life.ends) == 3


def test_a_few_failed_probes_make_a_ready_worker_unhealthy_and_one_answer_makes_it_ready_again():
    worker = Worker(State.READY, failure_threshold=3, interval=5)
    worker.meets(FAILED, 1)
    worker.meets(FAILED, 1)
    assert worker.state is State.READY
    worker.meets(FAILED, 1)
    assert worker.state is State.UNHEALTHY
    assert worker.life.reason == "HTTP 503"
    worker.meets(Probed(), 5)
    assert worker.state is State.READY


def test_an_unhealthy_worker_may_have_to_answer_more_than_once():
    worker = Worker(State.UNHEALTHY, success_threshold=2)
    worker.meets(Probed())
    assert worker.state is State.UNHEALTHY
    worker.meets(Probed())
    assert worker.state is State.READY


def test_the_answers_of_an_unhealthy_worker_must_come_in_a_row():
    worker = Worker(State.UNHEALTHY, success_threshold=2)
    for event in (Probed(), FAILED, Probed()):
        worker.meets(event, 1)
    assert worker.state is State.UNHEALTHY


def test_an_answer_in_between_starts_the_count_of_failed_probes_anew():
    worker = Worker(State.READY, failure_threshold=2)
    for _ in range(5):
        worker.meets(FAILED, 1)
        worker.meets(Probed(), 1)
    assert worker.state is State.READY


def test_an_idle_worker_that_fails_its_probes_for_the_whole_window_is_hung():
    worker = Worker(State.READY, failure_threshold=3, interval=5)
    for _ in range(3):
        worker.meets(FAILED, 5)
    assert worker.state is State.UNHEALTHY
    actions = worker.meets(FAILED, 5)
    assert worker.state is State.BACKOFF
    assert actions[0] == Kill()
    assert "hung" in worker.life.reason
    assert worker.life.cause is Cause.HUNG


def test_a_probe_is_not_believed_while_bytes_arrive():
    worker = Worker(State.READY, failure_threshold=3, interval=5)
    for _ in range(100):
        worker.now += 5
        worker.meets(Probed("timed out", heard=worker.now - 4.9, busy=True))
    assert worker.state is State.READY


def test_bytes_in_between_start_the_count_of_failed_probes_anew():
    worker = Worker(State.READY, failure_threshold=3, interval=5)
    for heard in (0.0, 0.0, NOW + 10, 0.0, 0.0):
        worker.meets(Probed("timed out", heard), 4)
    assert worker.state is State.READY


def test_a_long_prefill_is_not_a_hang():
    worker = Worker(State.READY, failure_threshold=3, interval=5)
    for _ in range(BUSY_PATIENCE * 3):
        worker.meets(Probed("timed out", heard=NOW, busy=True), 5)
    assert worker.state is State.UNHEALTHY
    worker.meets(Probed(heard=worker.now, busy=True), 5)
    assert worker.state is State.READY


def test_a_busy_worker_silent_for_many_windows_is_hung():
    worker = Worker(State.READY, failure_threshold=3, interval=5)
    for _ in range(BUSY_PATIENCE * 3 + 1):
        worker.meets(Probed("timed out", heard=NOW, busy=True), 5)
    assert worker.state is State.BACKOFF


def test_a_busy_worker_that_computes_is_left_alone_for_much_longer():
    worker = Worker(State.READY, failure_threshold=3, interval=5)
    for _ in range(WORK_PATIENCE * 3):
        worker.meets(Probed("timed out", heard=NOW, busy=True, working=True), 5)
    assert worker.state is State.UNHEALTHY
    worker.meets(Probed("timed out", heard=NOW, busy=True, working=True), 5)
    assert worker.state is State.BACKOFF


def test_patience_with_a_busy_worker_begins_anew_when_it_computes():
    worker = Worker(State.READY, failure_threshold=3, interval=5)
    for _ in range(2):
        worker.meets(Probed("timed out", heard=NOW, busy=True, working=True), 5)
        for _ in range(BUSY_PATIENCE * 3 - 1):
            worker.meets(Probed("timed out", heard=NOW, busy=True), 5)
    assert worker.state is State.UNHEALTHY
    worker.meets(Probed("timed out", heard=NOW, busy=True), 5)
    assert worker.state is State.BACKOFF


STILL = Probed(heard=NOW, busy=True)


def stands_still() -> Worker:
    """A worker that answers its probes, and has just been asked for a token since nothing else moves."""
    worker = Worker(State.READY, failure_threshold=3, interval=5)
    for _ in range(BUSY_PATIENCE * 3 - 1):
        assert worker.meets(STILL, 5) == ()
    assert worker.meets(STILL, 5) == (Try(),)
    return worker


def test_a_worker_where_nothing_moves_is_asked_for_a_token_once():
    worker = stands_still()
    assert worker.meets(STILL, 5) == ()


def test_a_worker_that_is_stopped_is_not_being_tried_any_more():
    worker = Worker(State.READY)
    worker.life = replace(worker.life, trying=True)
    worker.meets(StopAsked())
    assert (worker.state, worker.life.trying) == (State.STOPPED, False)


def test_a_worker_that_makes_no_token_is_stuck():
    worker = stands_still()
    actions = worker.meets(Tried("no token came within 15 s"), 15)
    assert worker.state is State.BACKOFF
    assert actions[0] == Kill()
    assert "stuck" in worker.life.reason
    assert worker.life.cause is Cause.STUCK
    assert not worker.life.trying


def test_a_worker_that_makes_a_token_is_left_alone_for_as_long_again():
    worker = stands_still()
    worker.meets(Tried(), 1)
    for _ in range(BUSY_PATIENCE * 3 - 1):
        assert worker.meets(STILL, 5) == ()
    assert worker.meets(STILL, 5) == (Try(),)


@pytest.mark.parametrize(
    "sign", [{"busy": False}, {"working": True}, {"heard": None}], ids=["idle", "computing", "bytes come"]
)
def test_a_worker_with_a_sign_of_life_is_not_asked(sign: dict[str, object]):
    worker = Worker(State.READY, failure_threshold=3, interval=5)
    for _ in range(BUSY_PATIENCE * 9):
        now = worker.now + 5
        event = replace(STILL, **{name: now if value is None else value for name, value in sign.items()})
        assert worker.meets(event, 5) == ()


def test_a_byte_puts_the_verdict_off():
    worker = Worker(State.READY, failure_threshold=3, interval=5)
    for _ in range(3):
        worker.meets(Probed("timed out", heard=NOW), 5)
    worker.meets(Probed("timed out", heard=worker.now - 1), 5)
    assert worker.state is State.UNHEALTHY


@pytest.mark.parametrize("state", [State.STARTING, State.READY, State.UNHEALTHY, State.BACKOFF, State.FAILED])
def test_a_person_can_restart_a_worker_in_any_state_but_stopped(state: State):
    worker = Worker(state)
    assert worker.meets(RestartAsked()) == (Kill(), Spawn())
    assert worker.state is State.STARTING
    assert worker.life.restarted == {Cause.ASKED: 1}


def test_a_restart_asked_for_forgives_what_went_before():
    worker = Worker(max_restarts=1)
    worker.crashes()
    worker.crashes()
    assert worker.state is State.FAILED
    worker.meets(RestartAsked())
    worker.crashes()
    assert worker.state is State.STARTING


@pytest.mark.parametrize("state", [s for s in State if s not in (State.DRAINING, State.STOPPED)])
def test_a_worker_in_any_state_can_be_stopped(state: State):
    worker = Worker(state)
    assert worker.meets(StopAsked()) == (Kill(),)
    assert worker.state is State.STOPPED


def test_stopping_a_stopped_worker_changes_nothing():
    worker = Worker(State.STOPPED)
    assert worker.meets(StopAsked()) == ()


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.BACKOFF, Exited(1)),
        (State.BACKOFF, Probed()),
        (State.FAILED, BackoffOver()),
        (State.STOPPED, RestartAsked()),
        (State.READY, BackoffOver()),
    ],
)
def test_what_cannot_happen_is_an_error(state: State, event: Event):
    with pytest.raises(Impossible, match=state.value):
        Worker(state).meets(event)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exited with code 0"),
        (1, "exited with code 1"),
        (-15, "killed by SIGTERM"),
        (-9, "killed by SIGKILL (by hand, or out of memory)"),
        (137, "killed by SIGKILL (by hand, or out of memory)"),
        (-35, "killed by signal 35"),
    ],
)
def test_exit_codes_are_described_in_words(code: int, words: str):
    assert describe(code) == words


# -- on a cluster


@pytest.mark.parametrize("state", [State.STARTING, State.READY, State.UNHEALTHY])
def test_a_worker_whose_node_is_lost_is_started_elsewhere_however_often_that_happens(state: State):
    worker = Worker(state, max_restarts=0)
    for _ in range(3):
        kill, wait = worker.meets(Lost(Cause.NODE_LOST, "its node n2 is lost"))
        assert kill == Kill()
        assert isinstance(wait, Wait)
        assert wait.delay <= 0.5 * (1 + JITTER)
        assert (worker.state, worker.life.reason) == (State.BACKOFF, "its node n2 is lost")
        assert worker.meets(BackoffOver(), wait.delay) == (Spawn(),)
    assert worker.life.restarted == {Cause.NODE_LOST: 3}
    assert worker.life.ends == ()


def test_the_end_of_an_actor_counts_as_that_of_an_engine():
    worker = Worker(State.READY, max_restarts=1)
    worker.meets(Lost(Cause.ACTOR_DIED, "its actor ended"))
    worker.meets(BackoffOver(), 1)
    assert worker.life.restarted == {Cause.ACTOR_DIED: 1}
    worker.meets(Lost(Cause.ACTOR_DIED, "its actor ended"))
    assert worker.state is State.FAILED


def test_the_time_to_start_in_counts_from_when_there_is_a_place():
    worker = Worker(startup_timeout=10)
    for _ in range(5):
        assert worker.meets(Unplaced(), after=9) == ()
    assert worker.meets(Probed("refused"), after=9) == ()
    assert worker.state is State.STARTING
    worker.meets(Probed("refused"), after=2)
    assert worker.life.cause is Cause.TOO_SLOW
