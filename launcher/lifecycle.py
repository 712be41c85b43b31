"""One worker's life as a table: its states, what moves it between them, and when to give up. Pure.

               probe answered    probe failed           exit, hung, stuck, too long     asked to restart   asked to stop
    starting   ready             stays                  backoff (or failed, or moves)  starting           stopped
    ready      stays             unhealthy when often   backoff (or failed)            starting           stopped
    unhealthy  ready             stays                  backoff (or failed)            starting           stopped
    backoff    -                 -                      - (the delay over: starting)   starting           stopped
    failed     -                 -                      -                              starting           stopped
    stopped    -                 -                      -                              -                  stays

The arithmetic of failure: the first unexpected end is answered after half a second, and every further one after twice
the time, up to a minute, each 20 % more or less so that workers that died together do not load a model together. A
worker that was ready for ten minutes starts again from half a second. More than `max_restarts` unexpected ends within
`restart_window` and the worker is failed; only a person revives it. On a cluster the loss of a node is an end, too, but
none that counts, and the time to start in begins when there is a place.

A hang is not a slow answer. A long prefill may starve the health path of an engine while it computes, so a failing
probe is not believed while bytes arrive from the worker, and the worker is only taken for hung when probes have
failed for the whole probe window (threshold x interval) and no byte arrived in it. With requests in flight the window
is eight times as long (two minutes by default), counted from when its processes last computed, and forty times (ten
minutes) however much they compute: a prefill of five minutes keeps a CPU busy, and so does a collective operation that
never ends. A false restart costs every request on the worker and a model load, a late one costs only time, and its new
requests already go elsewhere.

An answered probe is no proof of life either: /health may say 200 while nothing moves behind it. When requests have had
no byte for those eight windows and no process has computed, the worker is asked for one token, and restarted if none
comes. (What only passes requests on, a container's client for one, does not compute, but the token comes.)
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from router.fleet import Cause, State

FIRST_DELAY = 0.5  # seconds
MAX_DELAY = 60.0  # seconds
JITTER = 0.2  # share of the delay, either way
FORGIVEN_AFTER = 600.0  # seconds of being ready
BUSY_PATIENCE = 8  # probe windows without a byte, nor work, before a worker with requests in flight is hung
WORK_PATIENCE = 40  # the same without a byte, whatever its processes compute
MAX_MOVES = 10  # ports tried in a row before "address in use" counts as a failure like any other

# Exits that no restart cures, while the worker was never ready: a wrong option (the convention of argparse and click),
# a file that cannot be executed, a file that is not there (both the shell's convention).
INCURABLE = frozenset({2, 126, 127})
BY_SIGKILL = 137  # exit code: a shell's word for it


@dataclass(frozen=True)
class Rules:
    """The user's limits. Times are seconds."""

    max_restarts: int = 5
    restart_window: float = 600.0
    startup_timeout: float = 1800.0
    failure_threshold: int = 3  # failed probes in a row
    success_threshold: int = 1  # answered probes in a row
    interval: float = 5.0  # between two probes of a ready worker

    @property
    def probe_window(self) -> float:
        return self.failure_threshold * self.interval


# -- what happens to a worker


@dataclass(frozen=True)
class Probed:
    """A probe came back. `heard`: when the last byte arrived from the worker; `busy`: requests are in flight."""

    reason: str | None = None  # None: it answered as a ready worker does
    heard: float = 0.0
    busy: bool = False
    working: bool = False  # busy, and its processes have computed since the last probe


@dataclass(frozen=True)
class Tried:
    """It was asked for a token."""

    reason: str | None = None  # why none came; None: it answered


@dataclass(frozen=True)
class Exited:
    """The engine's main process ended. A negative code is a signal's number."""

    code: int
    port_taken: bool = False  # the engine says that somebody else holds its port


@dataclass(frozen=True)
class NotStarted:
    """No process could be made; `reason` is the operating system's."""

    reason: str


@dataclass(frozen=True)
class Unplaced:
    """No node of the cluster has room for it: it has not begun to start."""


@dataclass(frozen=True)
class Lost:
    """What held its process on another node is gone, and so is the process, or it is out of reach for good."""

    cause: Cause
    reason: str


@dataclass(frozen=True)
class BackoffOver:
    """The delay before the next start has passed."""


@dataclass(frozen=True)
class RestartAsked:
    """A person, or a rolling restart, wants a new process."""


@dataclass(frozen=True)
class StopAsked:
    """The worker is not wanted any more."""


Event = Probed | Tried | Exited | NotStarted | Unplaced | Lost | BackoffOver | RestartAsked | StopAsked


# -- what is to be done about it, in order


@dataclass(frozen=True)
class Kill:
    """End the whole process tree, if there is one, and wait until it is gone."""


@dataclass(frozen=True)
class Move:
    """Take another port."""


@dataclass(frozen=True)
class Spawn:
    """Start the engine."""


@dataclass(frozen=True)
class Wait:
    """Report BackoffOver after `delay` seconds."""

    delay: float


@dataclass(frozen=True)
class Try:
    """Ask it for a token, within the probe window, and report Tried."""


Action = Kill | Move | Spawn | Wait | Try
Step = tuple["Life", tuple[Action, ...]]


class Impossible(RuntimeError):
    """The event cannot happen in this state."""


@dataclass(frozen=True)
class Life:
    """All that decides what happens next to a worker. Times are monotonic seconds."""

    state: State
    since: float  # when this state began
    reason: str = ""  # why, one line for people
    ready_since: float | None = None
    ever_ready: bool = False
    ends: tuple[float, ...] = ()  # unexpected ends within the restart window
    streak: int = 0  # unexpected ends since it was last ready for long
    cause: Cause = Cause.EXITED  # of the last unexpected end
    restarted: Mapping[Cause, int] = field(default_factory=dict)  # how often, and why
    moves: int = 0  # ports left in a row
    failed_probes: int = 0  # in a row
    failing_since: float = 0.0
    good_probes: int = 0  # in a row
    moved: float = 0.0  # when it last had no request in flight, or made a token when it was asked to
    worked: float = 0.0  # when its processes last computed, with requests in flight
    trying: bool = False  # it has been asked for a token


def begin(now: float) -> Step:
    """The life of a worker that is about to be started for the first time."""
    return Life(State.STARTING, now), (Spawn(),)


def step(life: Life, event: Event, now: float, rng: random.Random, rules: Rules) -> Step:
    """The worker's life after `event`, and what is to be done. Raises Impossible when the state knows no such event."""
    row = _TABLE.get((life.state, type(event)))
    if row is None:
        raise Impossible(f"{type(event).__name__} cannot happen to a worker that is {life.state.value}")
    return row(life, event, now, rng, rules)


def describe(code: int) -> str:
    """What an exit code says, for people."""
    if code >= 0 and code != BY_SIGKILL:
        return f"exited with code {code}"
    number = signal.SIGKILL if code == BY_SIGKILL else -code
    name = _SIGNALS.get(number, f"signal {number}")
    return f"killed by {name}" + (" (by hand, or out of memory)" if number == signal.SIGKILL else "")


_SIGNALS = {number.value: number.name for number in signal.Signals}


# -- the rows of the table


def _probed_while_starting(life: Life, event: Probed, now: float, rng: random.Random, rules: Rules) -> Step:
    if event.reason is None:
        return _ready(life, now, rules), ()
    if now - life.since < rules.startup_timeout:
        return life, ()
    return _ended(life, Cause.TOO_SLOW, f"not ready after {rules.startup_timeout:g} s: {event.reason}", now, rng, rules)


def _probed_while_up(life: Life, event: Probed, now: float, rng: random.Random, rules: Rules) -> Step:
    life = _moved(life, event, now)
    if event.reason is None:
        life = _answered(life, now, rules)
        return (replace(life, trying=True), (Try(),)) if _still(life, event, now, rules) else (life, ())
    if now - event.heard < rules.interval:
        return replace(life, failed_probes=0), ()
    failing_since = life.failing_since if life.failed_probes else now
    life = replace(life, failed_probes=life.failed_probes + 1, failing_since=failing_since, good_probes=0)
    if life.failed_probes < rules.failure_threshold:
        return life, ()
    quiet = now - max(failing_since, event.heard)
    if _hung(life, event, quiet, now, rules):
        reason = f"hung: no byte and no answer to probes for {quiet:.0f} s ({event.reason})"
        return _ended(life, Cause.HUNG, reason, now, rng, rules)
    if life.state is State.READY:
        life = replace(life, state=State.UNHEALTHY, since=now, reason=event.reason)
    return life, ()


def _moved(life: Life, event: Probed, now: float) -> Life:
    if not event.busy:
        return replace(life, moved=now)
    return replace(life, worked=now) if event.working else life


def _hung(life: Life, event: Probed, quiet: float, now: float, rules: Rules) -> bool:
    """Whether a worker that has failed its probes and said nothing for `quiet` seconds is past hope."""
    if not event.busy:
        return quiet >= rules.probe_window
    idle = min(quiet, now - life.worked)
    return idle >= BUSY_PATIENCE * rules.probe_window or quiet >= WORK_PATIENCE * rules.probe_window


def _still(life: Life, event: Probed, now: float, rules: Rules) -> bool:
    """Whether nothing has moved for so long that it should be asked for a token."""
    idle = now - max(life.moved, life.worked, event.heard, life.since)
    return event.busy and not life.trying and idle >= BUSY_PATIENCE * rules.probe_window


def _tried(life: Life, event: Tried, now: float, rng: random.Random, rules: Rules) -> Step:
    if event.reason is None:
        return replace(life, moved=now, trying=False), ()
    return _ended(life, Cause.STUCK, f"stuck: requests get no byte, and {event.reason}", now, rng, rules)


def _answered(life: Life, now: float, rules: Rules) -> Life:
    life = replace(life, failed_probes=0, good_probes=life.good_probes + 1)
    if life.state is State.READY or life.good_probes < rules.success_threshold:
        return life
    return _ready(life, now, rules)


def _ready(life: Life, now: float, rules: Rules) -> Life:
    return replace(
        life,
        state=State.READY,
        since=now,
        reason="",
        ready_since=now,
        ever_ready=True,
        moves=0,
        failed_probes=0,
        good_probes=0,
        moved=now,
    )


def _exited_while_starting(life: Life, event: Exited, now: float, rng: random.Random, rules: Rules) -> Step:
    if event.port_taken and life.moves < MAX_MOVES:
        life = replace(life, since=now, moves=life.moves + 1, reason="its port was taken")
        return life, (Kill(), Move(), Spawn())
    incurable = event.code in INCURABLE and not life.ever_ready
    return _ended(life, _cause(event), f"{describe(event.code)} while starting", now, rng, rules, incurable)


def _not_started(life: Life, event: NotStarted, now: float, rng: random.Random, rules: Rules) -> Step:
    return _ended(life, Cause.NO_PROCESS, f"could not be started: {event.reason}", now, rng, rules)


def _unplaced(life: Life, event: Unplaced, now: float, rng: random.Random, rules: Rules) -> Step:
    """The time to start in counts from when it has a place."""
    return replace(life, since=now), ()


def _lost(life: Life, event: Lost, now: float, rng: random.Random, rules: Rules) -> Step:
    """A node that goes says nothing of what ran on it: that end is not counted, and the next start comes soon."""
    if event.cause is not Cause.NODE_LOST:
        return _ended(life, event.cause, event.reason, now, rng, rules)
    life = replace(life, state=State.BACKOFF, since=now, cause=event.cause, reason=event.reason, ready_since=None)
    delay = FIRST_DELAY * rng.uniform(1 - JITTER, 1 + JITTER)
    return replace(life, failed_probes=0, trying=False), (Kill(), Wait(delay))


def _exited_while_up(life: Life, event: Exited, now: float, rng: random.Random, rules: Rules) -> Step:
    return _ended(life, _cause(event), describe(event.code), now, rng, rules)


def _cause(event: Exited) -> Cause:
    return Cause.KILLED if event.code < 0 or event.code == BY_SIGKILL else Cause.EXITED


def _ended(
    life: Life, cause: Cause, reason: str, now: float, rng: random.Random, rules: Rules, incurable: bool = False
) -> Step:
    """An unexpected end: start again after a while, unless it ended too often of late."""
    if life.ready_since is not None and now - life.ready_since >= FORGIVEN_AFTER:
        life = replace(life, streak=0, ends=())
    ends = (*(t for t in life.ends if now - t < rules.restart_window), now)
    life = replace(life, since=now, cause=cause, reason=reason, ends=ends, ready_since=None)
    life = replace(life, failed_probes=0, trying=False)
    if incurable or len(ends) > rules.max_restarts:
        return replace(life, state=State.FAILED), (Kill(),)
    delay = backoff(life.streak) * rng.uniform(1 - JITTER, 1 + JITTER)
    return replace(life, state=State.BACKOFF, streak=life.streak + 1), (Kill(), Wait(delay))


def backoff(streak: int) -> float:
    """Seconds before the next start after `streak` earlier unexpected ends: 0.5, 1, 2, ... 60."""
    return min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(streak, 16))


def _start_again(life: Life, event: BackoffOver, now: float, rng: random.Random, rules: Rules) -> Step:
    return replace(life, state=State.STARTING, since=now, restarted=_once_more(life, life.cause)), (Spawn(),)


def _restart(life: Life, event: RestartAsked, now: float, rng: random.Random, rules: Rules) -> Step:
    """A person's restart: what went wrong before is forgiven."""
    restarted = _once_more(life, Cause.ASKED)
    fresh = Life(State.STARTING, now, "restart asked for", ever_ready=life.ever_ready, restarted=restarted)
    return fresh, (Kill(), Spawn())


def _once_more(life: Life, cause: Cause) -> Mapping[Cause, int]:
    return {**life.restarted, cause: life.restarted.get(cause, 0) + 1}


def _stop(life: Life, event: StopAsked, now: float, rng: random.Random, rules: Rules) -> Step:
    return replace(life, state=State.STOPPED, since=now, reason="stopped", ready_since=None, trying=False), (Kill(),)


def _stay(life: Life, event: Event, now: float, rng: random.Random, rules: Rules) -> Step:
    return life, ()


_Row = Callable[[Life, Any, float, random.Random, Rules], Step]

_TABLE: dict[tuple[State, type[Event]], _Row] = {
    (State.STARTING, Probed): _probed_while_starting,
    (State.STARTING, Exited): _exited_while_starting,
    (State.STARTING, NotStarted): _not_started,
    (State.STARTING, Unplaced): _unplaced,
    (State.STARTING, Lost): _lost,
    (State.STARTING, RestartAsked): _restart,
    (State.STARTING, StopAsked): _stop,
    (State.READY, Probed): _probed_while_up,
    (State.READY, Tried): _tried,
    (State.READY, Exited): _exited_while_up,
    (State.READY, Lost): _lost,
    (State.READY, RestartAsked): _restart,
    (State.READY, StopAsked): _stop,
    (State.UNHEALTHY, Probed): _probed_while_up,
    (State.UNHEALTHY, Tried): _tried,
    (State.UNHEALTHY, Exited): _exited_while_up,
    (State.UNHEALTHY, Lost): _lost,
    (State.UNHEALTHY, RestartAsked): _restart,
    (State.UNHEALTHY, StopAsked): _stop,
    (State.BACKOFF, BackoffOver): _start_again,
    (State.BACKOFF, RestartAsked): _restart,
    (State.BACKOFF, StopAsked): _stop,
    (State.FAILED, RestartAsked): _restart,
    (State.FAILED, StopAsked): _stop,
    (State.STOPPED, StopAsked): _stay,
}
