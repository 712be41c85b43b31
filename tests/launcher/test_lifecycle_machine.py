"""The lifecycle in every order of exits, probes, restarts and signals: no impossible state, and no worker is forgotten.

What the supervisor does with the actions is played here: there is a process or there is none, a timer runs or does not,
a token has been asked for or not. The rules are what can happen then.
"""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from launcher.lifecycle import (
    FORGIVEN_AFTER,
    BackoffOver,
    Event,
    Exited,
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
    begin,
    step,
)
from router.fleet import Cause, State

RULES = Rules(max_restarts=3, restart_window=120.0, startup_timeout=30.0, failure_threshold=2, interval=5.0)
UP = (State.STARTING, State.READY, State.UNHEALTHY)
MOMENTS = st.sampled_from((0.1, 1.0, 5.0, 20.0, 90.0, 700.0))


class Lives(RuleBasedStateMachine):
    """One worker."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.rng = random.Random(1)
        self.process = self.failed_start = self.asked = False
        self.timer: float | None = None  # when the backoff is over
        self.spawns = self.moves = 0
        self.deaths: list[float] = []
        self.life: Life
        self.take(begin(self.now))

    def meets(self, event: Event) -> None:
        """Raises Impossible for what the table does not know."""
        self.take(step(self.life, event, self.now, self.rng, RULES))

    def take(self, done: tuple[Life, tuple[object, ...]]) -> None:
        self.life, actions = done
        for action in actions:
            match action:
                case Kill():
                    self.process = self.failed_start = self.asked = False
                    self.timer = None
                case Move():
                    assert not self.process, "a running engine cannot change its port"
                    self.moves += 1
                case Spawn():
                    assert not self.process, "a second engine on the same devices"
                    assert self.timer is None
                    self.process = True
                    self.spawns += 1
                case Wait(delay):
                    assert not self.process
                    assert self.timer is None
                    assert 0 < delay <= 72
                    self.timer = self.now + delay
                case Try():
                    assert not self.asked, "asked twice at once"
                    self.asked = True

    # -- what can happen

    @rule(seconds=MOMENTS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.process)
    @rule(good=st.booleans(), heard=st.floats(0, 300), busy=st.booleans(), working=st.booleans(), after=MOMENTS)
    def it_is_probed(self, good: bool, heard: float, busy: bool, working: bool, after: float) -> None:
        self.now += after
        self.meets(Probed(None if good else "HTTP 503", self.now - heard, busy, busy and working))

    @precondition(lambda self: self.process)
    @rule(after=st.sampled_from((5.0, 90.0)))
    def it_is_probed_and_nothing_moves(self, after: float) -> None:
        self.now += after
        self.meets(Probed(None, heard=self.now - 300, busy=True))

    @precondition(lambda self: self.process)
    @rule(code=st.sampled_from((0, 1, 2, 127, 137, -9, -11)), port_taken=st.booleans())
    def it_exits(self, code: int, port_taken: bool) -> None:
        self.meets(Exited(code, port_taken))

    @precondition(lambda self: self.process and self.life.state is State.STARTING)
    @rule()
    def it_could_not_be_started(self) -> None:
        self.process = False
        self.meets(NotStarted("no memory"))

    @precondition(lambda self: self.process and self.life.state is State.STARTING)
    @rule()
    def it_has_no_place_yet(self) -> None:
        self.meets(Unplaced())

    @precondition(lambda self: self.process)
    @rule(cause=st.sampled_from((Cause.NODE_LOST, Cause.ACTOR_DIED)))
    def what_held_it_is_lost(self, cause: Cause) -> None:
        self.process = False
        self.meets(Lost(cause, "lost"))

    @precondition(lambda self: self.timer is not None)
    @rule()
    def the_backoff_is_over(self) -> None:
        assert self.timer is not None
        self.now, self.timer = max(self.now, self.timer), None
        self.meets(BackoffOver())

    @precondition(lambda self: self.asked)
    @rule(reason=st.sampled_from((None, "no token came")))
    def it_was_asked_for_a_token(self, reason: str | None) -> None:
        self.asked = False
        self.meets(Tried(reason))

    @precondition(lambda self: self.life.state is not State.STOPPED)
    @rule()
    def a_restart_is_asked_for(self) -> None:
        self.meets(RestartAsked())
        assert (self.life.state, self.process, self.life.ends) == (State.STARTING, True, ())

    @rule()
    def a_stop_is_asked_for(self) -> None:
        self.meets(StopAsked())
        assert self.life.state is State.STOPPED

    # -- what must hold

    @invariant()
    def an_engine_runs_exactly_when_its_state_says_so(self) -> None:
        assert self.process is (self.life.state in UP)

    @invariant()
    def a_worker_that_waits_has_a_timer_and_nobody_else_has(self) -> None:
        assert (self.timer is not None) is (self.life.state is State.BACKOFF)

    @invariant()
    def a_token_is_asked_for_exactly_when_the_life_says_so(self) -> None:
        assert self.asked is self.life.trying

    @invariant()
    def only_too_many_ends_or_an_incurable_one_fail_it(self) -> None:
        assert self.life.state is not State.DRAINING
        if self.life.state is State.FAILED:
            assert len(self.life.ends) > RULES.max_restarts or "exited with code" in self.life.reason
        elif self.life.state is State.BACKOFF:
            assert self.life.cause is Cause.NODE_LOST or 1 <= len(self.life.ends) <= RULES.max_restarts

    @invariant()
    def what_is_remembered_of_it_agrees(self) -> None:
        life = self.life
        assert life.since <= self.now
        assert (life.ready_since is not None) is (life.state in (State.READY, State.UNHEALTHY))
        assert life.ever_ready or life.state not in (State.READY, State.UNHEALTHY)
        assert sum(life.restarted.values()) == self.spawns - 1 - self.moves
        assert list(life.ends) == sorted(life.ends)
        assert life.streak == 0 or life.ready_since is None or life.ready_since - life.since < FORGIVEN_AFTER


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
