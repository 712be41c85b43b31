from __future__ import annotations

import pytest

from launcher.engines.sim_faults import Desk, Faults


def test_without_faults_nothing_happens():
    assert Desk().arrival() == (Faults(), None)


def test_death_comes_at_the_nth_request_from_arming():
    desk = Desk()
    desk.arrival()
    desk.arm({"die_after": 2})
    assert [desk.arrival()[1] for _ in range(3)] == [None, "arrival", None]


def test_a_fault_is_over_after_so_many_requests():
    desk = Desk(Faults(status=503, times=2))
    assert [desk.arrival()[0].status for _ in range(4)] == [503, 503, 0, 0]
    desk.arm({"times": 1, "die_by": "exit"})
    assert [(faults.status, faults.die_by) for faults, _ in (desk.arrival(), desk.arrival())] == [
        (503, "exit"),
        (0, "exit"),
    ]


def test_arming_one_fault_leaves_the_others():
    desk = Desk(Faults(ignore_sigterm=True))
    desk.arm({"drop": True})
    assert desk.faults == Faults(drop=True, ignore_sigterm=True)
    desk.disarm()
    assert desk.faults == Faults()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"explode": True}, "explode is not known"),
        ({"status": 20}, "status must lie between"),
        ({"status": "503"}, "status must be a whole number"),
        ({"die_after": True}, "die_after must be a whole number"),
        ({"die_after": -1}, "die_after must be 0 or more"),
        ({"drop": 1}, "drop must be true or false"),
        ({"hang": "maybe"}, "hang must be one of none, requests, all"),
    ],
)
def test_what_cannot_be_armed_is_refused_and_changes_nothing(changes, message):
    desk = Desk()
    with pytest.raises(ValueError, match=message):
        desk.arm(changes)
    assert desk.faults == Faults()


def test_the_report_says_what_is_armed_and_how_many_requests_came():
    desk = Desk(Faults(status=500))
    desk.arrival()
    report = desk.report()
    assert report["armed"]["status"] == 500
    assert report["requests"] == {"seen": 1, "answered": 0, "aborted": 0}
