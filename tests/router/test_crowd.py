"""When the loop waits for more to come."""

from __future__ import annotations

from router.crowd import CROWDED, FEW, NAP, WINDOW, Crowd


def naps(crowd: Crowd, rate: float, pieces: int, since: float) -> list[float]:
    """What is said of each turn, `pieces` in each and `rate` in a second, during five windows."""
    turns = round(5 * WINDOW * rate / pieces)
    return [crowd.turn(pieces, since + number * pieces / rate) for number in range(turns)]


def test_few_streams_are_never_held_up():
    assert set(naps(Crowd(), CROWDED / 2, 1, since=100.0)) == {0.0}


def test_of_many_that_send_a_little_each_some_are_waited_for():
    said = naps(Crowd(), CROWDED * 2, 1, since=100.0)
    assert said[0] == 0.0  # that there are many must show first
    assert set(said[len(said) // 2 :]) == {NAP}


def test_a_loop_with_enough_to_do_goes_on():
    assert set(naps(Crowd(), CROWDED * 10, FEW, since=100.0)) == {0.0}


def test_when_most_have_gone_the_rest_is_not_held_up():
    crowd = Crowd()
    naps(crowd, CROWDED * 2, 1, since=100.0)
    assert set(naps(crowd, CROWDED / 4, 1, since=200.0)) == {0.0}
