"""Places and the line before them, whatever the order in which requests come, end, leave and wait too long."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router.admission import Admission
from router.errors import QueueFull

TIMEOUT = 10.0


class AnyOrder(RuleBasedStateMachine):
    """Beside the real thing, who has a place and who waits since when."""

    @initialize(limit=st.integers(0, 3), queue_size=st.integers(0, 4))
    def start(self, limit: int, queue_size: int) -> None:
        self.admission: Admission[int] = Admission(limit, queue_size, TIMEOUT)
        self.limit, self.queue_size = limit, queue_size
        self.now = 100.0
        self.inside: list[int] = []
        self.line: list[tuple[int, float]] = []  # request, when it came
        self.came = 0

    @rule()
    def enter(self) -> None:
        self.came += 1
        free = not self.limit or len(self.inside) < self.limit
        if not free and len(self.line) == self.queue_size:
            with pytest.raises(QueueFull):
                self.admission.enter(self.came, self.now)
        elif self.admission.enter(self.came, self.now):
            assert free
            self.inside.append(self.came)
        else:
            assert not free
            self.line.append((self.came, self.now))

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.inside.remove(data.draw(st.sampled_from(self.inside)))
        following = self.admission.leave()
        assert following == (self.line[0][0] if self.line else None)
        if following is not None:
            self.line.pop(0)
            self.inside.append(following)

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        item = data.draw(st.integers(1, self.came + 1))  # one that waits, is inside, is gone or never came
        waited = item in dict(self.line)
        self.line = [(other, since) for other, since in self.line if other != item]
        assert self.admission.give_up(item) is waited

    @rule(later=st.sampled_from([0.0, 1.0, TIMEOUT - 1, TIMEOUT]))
    def look_at_the_clock(self, later: float) -> None:
        self.now += later
        expired = [item for item, since in self.line if since + TIMEOUT <= self.now]
        self.line = self.line[len(expired) :]
        assert self.admission.expired(self.now) == expired

    @invariant()
    def the_counts_are_right(self) -> None:
        assert self.admission.taken == len(self.inside)
        assert len(self.admission) == len(self.line)

    @invariant()
    def the_limits_hold(self) -> None:
        assert not self.limit or self.admission.taken <= self.limit
        assert len(self.admission) <= self.queue_size

    @invariant()
    def nobody_waits_while_a_place_is_free(self) -> None:
        if len(self.admission):
            assert self.admission.taken == self.limit


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_without_a_limit_all_go_on() -> None:
    admission: Admission[int] = Admission(0, 0, TIMEOUT)
    assert all(admission.enter(item, 0.0) for item in range(1000))
    assert admission.taken == 1000


def test_a_full_queue_says_how_full_it_is_and_when_to_come_back() -> None:
    admission: Admission[str] = Admission(2, 1, TIMEOUT)
    assert [admission.enter(item, 0.0) for item in "abc"] == [True, True, False]
    with pytest.raises(QueueFull, match="2 requests are under way and 1 wait") as refusal:
        admission.enter("d", 0.0)
    assert refusal.value.status == 429
    assert refusal.value.retry_after


def test_who_gave_up_is_not_handed_a_place() -> None:
    admission: Admission[str] = Admission(1, 3, TIMEOUT)
    for item in "abc":
        admission.enter(item, 0.0)
    assert admission.give_up("b")
    assert admission.leave() == "c"


def test_those_who_waited_too_long_are_told_in_the_order_in_which_they_came() -> None:
    admission: Admission[str] = Admission(1, 5, TIMEOUT)
    for item, now in [("a", 0), ("b", 0), ("c", 1), ("d", 1), ("e", 2)]:
        admission.enter(item, float(now))
    assert admission.expired(TIMEOUT - 0.1) == []
    assert admission.expired(TIMEOUT + 1) == ["b", "c", "d"]
    assert admission.leave() == "e"


def test_who_waited_too_long_makes_room_in_the_queue() -> None:
    admission: Admission[str] = Admission(1, 1, TIMEOUT)
    for item in "ab":
        admission.enter(item, 0.0)
    assert admission.expired(TIMEOUT) == ["b"]
    assert admission.enter("c", TIMEOUT) is False
