"""The simulated engine: what a request is told and when, its memory, and that it equals one made step by step."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from math import isnan, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.simulation.costs import H100_8B, Costs
from scripts.simulation.engine import Engine, Flight
from scripts.simulation.job import Job
from tests.scripts.simulation.stepper import Ride, Stepper

BLOCK = 8  # tokens

# Sums of few powers of two: floats add them without rounding, so that times can be compared exactly, ties included.
EXACT = Costs(
    token=2**-10, pair=2**-16, base=2**-6, running=2**-12, context=2**-18, kv_tokens=4096, chunk=64, max_running=8
)
names = itertools.count(1)


def job(prompt: int = 40, output: int = 1, text: Sequence[int] = ()) -> Job:
    """Its prompt begins with the blocks of `text`; what follows nobody else has."""
    known = list(text[: prompt // BLOCK])
    held = known + [next(names) for _ in range((prompt + output) // BLOCK - len(known))]
    rest = [next(names)] if prompt % BLOCK else []
    return Job(0.0, tuple(held[: prompt // BLOCK] + rest), prompt, output, tuple(held))


class Sent:
    """A request, and what its sender is told."""

    def __init__(self, job: Job):
        self.job = job
        self.flight: Flight
        self.begun = self.end = nan
        self.told = 0  # tokens
        self.longest = 0  # tokens told at once

    def first(self, now: float) -> None:
        assert isnan(self.begun)
        self.begun = now
        self.told = 1

    def tokens(self, count: int, now: float) -> None:
        assert now >= self.begun
        assert isnan(self.end)
        self.told += count
        self.longest = max(self.longest, count)

    def finished(self, now: float) -> None:
        assert now >= self.begun
        assert isnan(self.end)
        self.end = now


class Desk:
    """Sends requests to one engine and plays its time."""

    def __init__(self, costs: Costs = EXACT, speed: float = 1.0):
        self.engine = Engine("w0", costs, BLOCK, speed)
        self.sent: list[Sent] = []
        self.now = 0.0

    def send(self, job: Job, at: float | None = None) -> Sent:
        if at is not None:
            self.until(at)
        sent = Sent(job)
        sent.flight = self.engine.submit(job, sent, self.now)  # which tells nothing yet
        self.sent.append(sent)
        self.check()
        return sent

    def until(self, when: float) -> None:
        """All that ends before then."""
        while self.engine.due is not None and self.engine.due < when:
            self.advance()
        self.now = when

    def advance(self) -> None:
        assert self.engine.due is not None
        assert self.engine.due >= self.now
        self.now = self.engine.due
        self.engine.advance(self.now)
        self.check()

    def play(self) -> None:
        while self.engine.due is not None:
            self.advance()

    def check(self) -> None:
        """What holds at any time."""
        engine, kv = self.engine, self.engine.kv
        open = [sent.flight for sent in self.sent if isnan(sent.end)]
        blocks = {block for flight in open for block in flight.refers}
        assert kv.private == sum(flight.private for flight in open) >= 0
        assert kv.used == kv.private + BLOCK * len(blocks) <= kv.capacity
        assert kv.private + BLOCK * len(kv._refs) <= kv.capacity
        assert blocks <= kv._refs.keys()
        assert engine.queued == sum(flight.queued for flight in open)
        assert engine.prefilling + engine.decoding == len(open)
        decoding = [flight for flight in open if flight.done == flight.prompt]
        assert engine.decoding == len(decoding) <= engine.costs.max_running
        assert engine.context == sum(flight.job.prompt + flight.answered for flight in decoding)


def serve(arrivals: Iterable[tuple[float, Job]], costs: Costs = EXACT, speed: float = 1.0) -> Desk:
    desk = Desk(costs, speed)
    for at, job in arrivals:
        desk.send(job, at)
    desk.play()
    return desk


# -- a lone request


@pytest.mark.parametrize(("prompt", "steps"), [(1, 1), (64, 1), (65, 2), (500, 8)])
def test_a_lone_requests_ttft_is_its_prefill_and_a_steps_base_for_each_chunk(prompt: int, steps: int):
    sent = serve([(0.0, job(prompt))]).sent[0]
    assert sent.begun == sent.end == steps * EXACT.base + EXACT.prefill(prompt, 0)


def test_a_lone_requests_tokens_take_steps_with_ever_more_context():
    sent = serve([(0.0, job(40, output=200))]).sent[0]
    assert sent.end == sent.begun + sum(EXACT.step(1, 40 + token) for token in range(1, 200))


def test_the_sender_is_told_every_token_and_of_no_more_than_64_at_once():
    sent = serve([(0.0, job(40, output=200))]).sent[0]
    assert sent.told == 200
    assert sent.longest == 64


def test_a_slow_engine_takes_longer():
    fast, slow = serve([(0.0, job(100, 50))]), serve([(0.0, job(100, 50))], speed=0.5)
    assert [slow.sent[0].begun, slow.sent[0].end] == [2 * fast.sent[0].begun, 2 * fast.sent[0].end]


def test_an_h100_has_the_first_token_of_a_thousand_after_forty_milliseconds():
    desk = serve([(0.0, job(1000))], H100_8B)
    assert desk.sent[0].begun == pytest.approx(0.0388, rel=0.01)


def test_a_request_that_could_never_be_held_is_refused():
    with pytest.raises(ValueError, match="4097 tokens in a cache of 4096"):
        Desk().send(job(4000, output=97))
    serve([(0.0, job(4000, output=96))])


# -- the cache


def test_a_repeated_prompt_hits_all_but_its_last_block():
    for prompt in (40, 41, 47):
        again = job(prompt)
        desk = serve([(0.0, again), (9.0, again)])
        hit = (prompt - 1) // BLOCK * BLOCK
        assert desk.sent[1].flight.cached == hit
        assert desk.sent[1].end - 9.0 == EXACT.base + EXACT.prefill(prompt - hit, hit)


def test_an_answer_is_cached_but_for_its_last_token_which_was_never_put_in():
    first = job(10, output=23)  # 33 tokens: 4 blocks, all of them put in
    desk = serve([(0.0, first)])
    assert desk.engine.cached(job(80, text=first.held)) == 32
    first = job(10, output=22)  # 32: of the fourth block a token is missing
    desk = serve([(0.0, first)])
    assert desk.engine.cached(job(80, text=first.held)) == 24


def test_a_block_counts_once_it_is_computed_and_not_before():
    desk = Desk()
    text = job(100)
    desk.send(text)  # two steps
    assert desk.engine.cached(text) == 0
    same = desk.send(text)
    desk.advance()
    assert desk.engine.cached(text) == 64
    desk.play()
    assert same.flight.cached == 64  # it was admitted to the second step, during which 32 more were computed
    assert desk.engine.cached(text) == 96


def test_two_that_compute_the_same_text_at_once_keep_it_once():
    desk = Desk()
    text = job(24, output=40)
    desk.send(job(1, output=2))  # a step during which both come
    for _ in range(2):
        desk.send(dataclasses.replace(text))
    desk.advance()
    desk.advance()
    assert [sent.flight.cached for sent in desk.sent[1:]] == [0, 0]
    assert desk.engine.decoding == 3 - 1
    assert desk.engine.kv.used == 24


def test_the_truth_about_an_engine_follows_each_step():
    desk = Desk()
    text = job(128, output=3)
    desk.send(text)
    assert (desk.engine.queued, desk.engine.prefilling, desk.engine.decoding, desk.engine.context) == (128, 1, 0, 0)
    desk.advance()
    assert desk.engine.queued == 64
    desk.send(job(136, text=text.held))
    assert desk.engine.queued == 64 + 136 - 64
    desk.advance()
    assert (desk.engine.queued, desk.engine.prefilling, desk.engine.decoding, desk.engine.context) == (8, 1, 1, 129)
    desk.play()
    assert (desk.engine.queued, desk.engine.prefilling, desk.engine.decoding, desk.engine.context) == (0, 0, 0, 0)


# -- batches


def test_a_step_holds_so_many_tokens_and_requests_are_served_in_order():
    desk = serve([(0.0, job(100)), (0.0, job(20)), (0.0, job(30))])
    ends = [sent.end for sent in desk.sent]
    first = EXACT.base + EXACT.prefill(64, 0)
    second = first + EXACT.base + EXACT.prefill(36, 64) + EXACT.prefill(20, 0) + EXACT.prefill(8, 0)
    assert ends == [second, second, second + EXACT.base + EXACT.prefill(22, 8)]


def test_a_prompt_slows_the_answers_of_others_by_its_chunk():
    desk = Desk()
    answer = desk.send(job(8, output=3))
    desk.advance()
    desk.send(job(30))
    desk.play()
    alone = EXACT.step(1, 9) + EXACT.step(1, 10)
    assert answer.end == answer.begun + alone + EXACT.prefill(30, 0)


def test_an_answer_takes_its_token_out_of_the_steps_budget():
    desk = Desk()
    desk.send(job(8, output=50))
    desk.advance()
    late = desk.send(job(64))
    desk.advance()  # the step under way
    desk.advance()
    assert late.flight.done == 63


def test_no_more_than_max_running_run_at_once():
    costs = dataclasses.replace(EXACT, max_running=2)
    desk = serve([(0.0, job(8, output=10)) for _ in range(3)], costs)
    first, second, third = desk.sent
    assert third.begun > min(first.end or 0, second.end or 0)


def test_whoever_comes_during_a_stretch_is_admitted_when_the_step_under_way_ends():
    desk = Desk()
    answer = desk.send(job(8, output=40))
    desk.advance()
    begun = desk.now
    late = desk.send(job(24), at=begun + EXACT.stretch(3, 1, 9) + 2**-20)
    desk.play()
    assert late.begun == begun + EXACT.stretch(4, 1, 9) + EXACT.step(1, 13) + EXACT.prefill(24, 0)
    assert answer.end == begun + EXACT.stretch(39, 1, 9) + EXACT.prefill(24, 0)


def test_whoever_comes_as_a_step_of_a_stretch_ends_is_in_the_next():
    desk = Desk()
    desk.send(job(8, output=40))
    desk.advance()
    at = desk.now + EXACT.stretch(3, 1, 9)
    late = desk.send(job(24), at=at)
    desk.play()
    assert late.begun == at + EXACT.step(1, 12) + EXACT.prefill(24, 0)


# -- memory


def test_a_prompt_waits_until_there_is_room_for_all_of_it_and_so_do_those_behind_it():
    costs = dataclasses.replace(EXACT, kv_tokens=100)
    desk = serve([(0.0, job(60, output=20)), (0.0, job(60)), (0.0, job(8))], costs)
    first, second, third = desk.sent
    assert second.begun > first.end
    assert third.begun >= second.begun


def test_what_was_used_least_recently_goes_first_and_a_prefix_outlives_its_end():
    costs = dataclasses.replace(EXACT, kv_tokens=80)
    old, used = job(33), job(33)
    desk = serve([(0.0, old), (1.0, used), (2.0, job(32))], costs)
    assert [desk.engine.cached(old), desk.engine.cached(used)] == [16, 32]


def test_the_latest_admitted_is_preempted_when_answers_fill_the_memory_and_found_in_the_cache_again():
    costs = dataclasses.replace(EXACT, kv_tokens=100)
    desk = Desk(costs)
    first, second = desk.send(job(40, output=30)), desk.send(job(40, output=30))
    while not desk.engine.preemptions:
        desk.advance()
    assert (desk.engine.queued, desk.engine.prefilling, desk.engine.decoding) == (2, 1, 1)
    desk.play()
    assert first.told == second.told == 30  # and of the first of them once, which Sent sees to
    assert second.end > first.end
    # 49 tokens of the second were in the cache: 6 blocks, of which the first one's last 20 tokens took the last 3
    assert second.end == first.end + EXACT.base + EXACT.prefill(26, 24) + EXACT.stretch(19, 1, 51)


def test_what_a_request_had_computed_itself_before_it_was_preempted_is_no_hit():
    costs = dataclasses.replace(EXACT, kv_tokens=145, chunk=16)
    desk = Desk(costs)
    desk.send(job(8, output=30))
    late = desk.send(job(130))
    while not desk.engine.preemptions:
        desk.advance()
    assert desk.engine.cached(late.job) > 0
    desk.play()
    assert late.end > 0
    assert late.flight.cached == 0


# -- against the stepper


@st.composite
def jobs(draw: st.DrawFn, capacity: int) -> Job:
    """Prompts that share beginnings: of a block there are two versions, each with two that may follow it."""
    prompt = draw(st.integers(1, capacity - 1))
    output = draw(st.one_of(st.integers(1, min(12, capacity - prompt)), st.integers(1, capacity - prompt)))
    held = [1]
    for _ in range((prompt + output) // BLOCK):
        held.append(2 * held[-1] + draw(st.integers(0, 1)))
    full = prompt // BLOCK
    rest = (-1,) if prompt % BLOCK else ()
    return Job(0.0, (*held[1 : full + 1], *rest), prompt, output, tuple(held[1:]))


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Costs, float, list[tuple[float, Job]]]:
    costs = dataclasses.replace(
        EXACT,
        kv_tokens=draw(st.integers(12, 300)),
        chunk=draw(st.sampled_from([1, 3, 8, 20, 64, 500])),
        max_running=draw(st.sampled_from([1, 2, 3, 8])),
    )
    gaps = draw(st.lists(st.sampled_from([0, 0, 1, 3, 8, 40, 300]), min_size=1, max_size=9))
    arrivals = [(at / 64, draw(jobs(costs.kv_tokens))) for at in itertools.accumulate(gaps)]
    return costs, draw(st.sampled_from([0.5, 1.0, 2.0])), arrivals


@st.composite
def crowds(draw: st.DrawFn) -> tuple[Costs, float, list[tuple[float, Job]]]:
    """Many short prompts at once, whose answers fill the memory."""
    costs = dataclasses.replace(EXACT, kv_tokens=draw(st.integers(64, 160)), chunk=500, max_running=16)
    sizes = draw(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 50)), min_size=6, max_size=12))
    return costs, 1.0, [(0.0, job(prompt, output)) for prompt, output in sizes]


@settings(max_examples=200, deadline=None)
@given(st.one_of(scenes(), crowds()))
def test_jumping_over_stretches_gives_what_stepping_one_by_one_gives(
    scene: tuple[Costs, float, list[tuple[float, Job]]],
):
    costs, speed, arrivals = scene
    stepper = Stepper(costs, BLOCK, speed, arrivals)
    rides = stepper.run()
    desk = serve(arrivals, costs, speed)
    assert [_said(sent) for sent in desk.sent] == [_was(ride) for ride in rides]
    assert desk.engine.preemptions == stepper.preemptions
    assert list(desk.engine.kv._spare) == stepper.cache  # the same blocks, in the order in which they would go
    assert desk.engine.kv.used == desk.engine.queued == 0


def _said(sent: Sent) -> tuple[float, float, int, int]:
    return sent.begun, sent.end, sent.flight.cached, sent.told


def _was(ride: Ride) -> tuple[float, float, int, int]:
    return ride.first, ride.end, ride.cached, ride.job.output


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 100)), min_size=1, max_size=8))
def test_no_time_is_lost_or_made_while_an_engine_is_busy(sizes: list[tuple[int, int]]):
    desk = serve([(0.0, job(prompt, output)) for prompt, output in sizes])
    assert desk.engine.preemptions == 0
    prefill = sum(EXACT.prefill(prompt, 0) for prompt, _ in sizes)
    tokens = sum(output - 1 for _, output in sizes)
    context = sum(prompt + token for prompt, output in sizes for token in range(1, output))
    steps = desk.engine._step * EXACT.base
    assert desk.now == steps + prefill + tokens * EXACT.running + context * EXACT.context
    assert [sent.begun for sent in desk.sent] == sorted(sent.begun for sent in desk.sent)
