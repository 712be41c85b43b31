"""Sessions in full flow from the first second on, as if they had begun long ago. Pure."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping

from scripts.simulation.job import Job, Workload


def flowing(workload: Workload, arrivals: Mapping[Job, float], span: float) -> Workload:
    """What sessions would do after `span` (s), others do in the beginning: the load is the same from end to end.

    `arrivals`: when each request would come. Such a late part becomes a session of its own, of the same lengths, with
    other text where the text is not shared between sessions.
    """
    sessions = [list(_turns(job)) for job in workload.jobs]
    held = Counter(block for turns in sessions for block in turns[-1].held)
    shift = max((block for turns in sessions for block in (*turns[-1].held, *turns[-1].blocks)), default=0) + 1
    jobs = []
    for turns in sessions:
        # The last session begins at `span`, or a rounding error after it.
        early = [turn for turn in turns if turn is turns[0] or arrivals[turn] <= span]
        late = [_other(turn, held, shift) for turn in turns[len(early) :]]
        if late:
            jobs.append(_chain(late, arrivals[turns[len(early)]] - span))
        jobs.append(_chain(early, turns[0].arrival))
    return dataclasses.replace(workload, jobs=sorted(jobs, key=lambda job: job.arrival))


def _turns(first: Job) -> Iterator[Job]:
    job: Job | None = first
    while job is not None:
        yield job
        job = job.then


def _chain(turns: list[Job], arrival: float) -> Job:
    """Its first request, the others hanging at it."""
    following: Job | None = None
    for turn in reversed(turns):
        following = dataclasses.replace(turn, then=following, think=turn.think if following else 0.0)
    assert following is not None
    following.arrival = arrival
    return following


def _other(turn: Job, held: Mapping[int, int], shift: int) -> Job:
    """The same request with text of its own; what several sessions hold it shares with them."""

    def other(blocks: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(block if held.get(block, 0) > 1 else block + shift for block in blocks)

    return dataclasses.replace(turn, blocks=other(turn.blocks), held=other(turn.held))
