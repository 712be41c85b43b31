from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.engines.sim_engine import CostModel, Engine, EngineConfig, Event, Request, RequestTooLong

# A step costs 1 s, a prompt token 0.01 s, each decoding request 0.1 s, each KV token nothing: sums that heads can do.
COST = CostModel(
    flops_per_token=0.01,
    flops_per_pair=0,
    peak_flops=1,
    mfu=1,
    seconds_per_step=1,
    seconds_per_request=0.1,
    seconds_per_kv_token=0,
)


def engine(**changes) -> Engine:
    defaults = {"block_size": 4, "kv_tokens": 400, "max_num_seqs": 8, "max_step_tokens": 100, "watermark": 0}
    return Engine(EngineConfig(**{**defaults, **changes}), COST)


def request(id: str, prompt: int, output: int, stem: int = 1) -> Request:
    """Requests of one stem share a prefix as long as the shorter of them."""
    return Request(id, prompt, output, [stem * 10_000 + block for block in range((prompt + output) // 4)])


def run(engine: Engine) -> list[Event]:
    events: list[Event] = []
    while (due := engine.next_event_time()) is not None:
        events += engine.advance(due)
    return events


def times(events: list[Event], id: str) -> list[float]:
    return [round(event.time, 6) for event in events if event.id == id and event.kind != "finished"]


def test_the_default_constants_give_the_published_prefill_times():
    cost = CostModel()
    assert [round(cost.prefill(tokens, 0), 3) for tokens in (1_024, 8_192, 12_288)] == [0.033, 0.296, 0.474]
    assert cost.decode(32, 64_000) == pytest.approx(6.83e-3 + 32 * 4.4e-6 + 64_000 * 76e-9)


def test_a_prefill_in_chunks_costs_what_it_costs_at_once():
    cost = CostModel()
    assert cost.prefill(3_000, 0) + cost.prefill(5_000, 3_000) == pytest.approx(cost.prefill(8_000, 0))


def test_half_the_speed_takes_twice_as_long():
    assert CostModel(speed=0.5).step(3, 100, [(10, 5)]) == pytest.approx(2 * CostModel().step(3, 100, [(10, 5)]))


def test_a_request_gets_its_first_token_after_prefill_and_one_more_per_step():
    sim = engine()
    sim.add(request("a", 10, 3), 5.0)
    assert sim.next_event_time() == pytest.approx(6.1)
    events = run(sim)
    assert [event.kind for event in events] == ["first_token", "token", "token", "finished"]
    assert times(events, "a") == [6.1, 7.2, 8.3]
    assert [event.generated for event in events] == [1, 2, 3, 3]
    assert sim.next_event_time() is None


def test_a_request_without_output_ends_with_its_prefill():
    sim = engine()
    sim.add(request("a", 10, 0), 0.0)
    assert [(event.kind, event.generated) for event in run(sim)] == [("finished", 0)]


def test_two_decodes_share_each_step_and_slow_each_other_down():
    sim = engine()
    sim.add(request("a", 10, 10, stem=1), 0.0)
    alone = times(run(sim), "a")
    sim = engine()
    sim.add(request("a", 10, 10, stem=1), 0.0)
    sim.add(request("b", 10, 10, stem=2), 0.0)
    events = run(sim)
    assert times(events, "a")[-1] > alone[-1]
    assert times(events, "a")[3] in times(events, "b")


def test_a_prefill_delays_the_decodes_beside_it():
    sim = engine()
    sim.add(request("a", 4, 5, stem=1), 0.0)
    sim.advance(1.04)
    sim.add(request("b", 50, 1, stem=2), 1.04)
    # The step that prefills b has a's decode in it, and lasts 1 + 0.1 + 50 * 0.01 seconds.
    assert times(run(sim), "a") == [2.14, 3.74, 4.84, 5.94]


def test_a_long_prompt_is_computed_in_chunks_and_does_not_stop_decodes():
    sim = engine()
    sim.add(request("a", 4, 5, stem=1), 0.0)
    sim.advance(1.04)
    sim.add(request("b", 250, 1, stem=2), 1.04)
    events = run(sim)
    assert times(events, "b") == [times(events, "a")[3]]
    assert times(events, "a")[0] == pytest.approx(1.04 + 1.1)


def test_a_block_counts_as_cached_only_once_it_is_computed():
    sim = engine()
    first, second = request("a", 40, 2), request("b", 40, 2)
    sim.add(first, 0.0)
    sim.add(second, 0.0)
    assert sim.cached_tokens(second) == 0
    events = run(sim)
    assert {event.id: event.cached for event in events} == {"a": 0, "b": 36}
    sim = engine(max_step_tokens=30)
    sim.add(first, 0.0)
    sim.advance(1.3)
    assert sim.cached_tokens(second) == 28


def test_requests_of_the_same_step_compute_the_same_prefix_each_for_itself():
    sim = engine()
    sim.add(request("x", 4, 1, stem=9), 0.0)
    sim.add(request("a", 40, 2), 0.0)
    sim.add(request("b", 40, 2), 0.0)
    assert {event.id: event.cached for event in run(sim)} == {"x": 0, "a": 0, "b": 0}


def test_the_last_prompt_token_is_always_computed():
    sim = engine()
    for at, id in enumerate(("a", "b")):
        sim.add(request(id, 8, 1), at * 100.0)
        assert run(sim)[-1].cached == (0, 4)[at]


def test_a_hit_costs_less_than_a_miss():
    sim = engine()
    sim.add(request("a", 80, 1), 0.0)
    run(sim)
    sim.add(request("b", 80, 1), 50.0)
    assert sim.next_event_time() == pytest.approx(50 + 1 + 0.01 * 4)


def test_the_next_turn_of_a_conversation_finds_the_answer_cached():
    sim = engine()
    sim.add(request("a", 8, 13), 0.0)
    run(sim)
    assert sim.cached_tokens(request("b", 40, 1)) == 20


def test_the_least_recently_used_prompt_is_forgotten_first():
    sim = engine(kv_tokens=80)
    for at, stem in enumerate((1, 2, 1, 3)):
        sim.add(request(str(at), 32, 1, stem=stem), at * 10.0)
        run(sim)
    assert sim.cached_tokens(request("x", 33, 1, stem=1)) == 32
    assert sim.cached_tokens(request("x", 33, 1, stem=2)) < 32


def test_what_a_running_request_uses_is_not_forgotten():
    sim = engine(kv_tokens=80)
    sim.add(request("a", 40, 8, stem=1), 0.0)
    sim.advance(1.4)
    sim.add(request("b", 32, 0, stem=2), 1.4)
    sim.add(request("c", 32, 0, stem=3), 1.4)
    sim.advance(6.0)
    assert sim.cached_tokens(request("x", 41, 1, stem=1)) == 40


def test_admission_is_in_order_and_waits_for_room():
    sim = engine(kv_tokens=80)
    sim.add(request("a", 40, 8, stem=1), 0.0)
    sim.add(request("big", 60, 1, stem=2), 0.0)
    sim.add(request("small", 4, 1, stem=3), 0.0)
    sim.advance(4.0)
    assert (sim.stats().running, sim.stats().waiting) == (1, 2)
    finished = [event.id for event in run(sim) if event.kind == "finished"]
    assert finished[0] == "a"
    assert set(finished) == {"a", "big", "small"}


def test_no_more_requests_run_than_the_batch_holds():
    sim = engine(max_num_seqs=2)
    for id in "abc":
        sim.add(request(id, 4, 4, stem=ord(id)), 0.0)
    sim.advance(1.04)
    assert (sim.stats().running, sim.stats().waiting) == (2, 1)


def test_the_newest_request_is_preempted_when_the_cache_is_full_and_ends_all_the_same():
    sim = engine(kv_tokens=48)
    sim.add(request("old", 20, 20, stem=1), 0.0)
    sim.add(request("new", 20, 20, stem=2), 0.0)
    events = run(sim)
    assert sim.stats().preempted > 0
    assert [event.id for event in events if event.kind == "finished"] == ["old", "new"]
    for id in ("old", "new"):
        assert [event.generated for event in events if event.id == id] == [*range(1, 21), 20]
        assert [event.kind for event in events if event.id == id].count("first_token") == 1


def test_the_watermark_leaves_room_for_growth():
    for watermark, waiting in ((0.0, 0), (0.2, 1)):
        sim = engine(kv_tokens=80, watermark=watermark)
        sim.add(request("a", 40, 4, stem=1), 0.0)
        sim.add(request("b", 36, 0, stem=2), 0.0)
        sim.advance(1.4)
        assert sim.stats().waiting == waiting


def test_the_watermark_does_not_keep_out_a_request_that_is_alone():
    sim = engine(kv_tokens=80, watermark=0.5)
    sim.add(request("a", 70, 4), 0.0)
    assert sim.stats().running == 1


def test_a_preempted_request_comes_before_those_that_waited_behind_it():
    sim = engine(kv_tokens=48)
    for stem, (id, prompt, output) in enumerate((("old", 20, 20), ("new", 20, 20), ("late", 44, 1)), start=1):
        sim.add(request(id, prompt, output, stem), 0.0)
    assert [event.id for event in run(sim) if event.kind == "finished"] == ["old", "new", "late"]
    assert sim.stats().preempted > 0


def test_when_the_head_of_the_queue_is_cancelled_the_next_one_gets_its_chance():
    sim = engine(kv_tokens=80)
    for stem, (id, prompt) in enumerate((("a", 40), ("big", 60), ("small", 4)), start=1):
        sim.add(request(id, prompt, 8, stem), 0.0)
    sim.advance(4.0)
    sim.cancel("big")
    sim.advance(6.0)
    assert (sim.stats().running, sim.stats().waiting) == (2, 0)


def test_a_request_that_can_never_fit_is_refused():
    with pytest.raises(RequestTooLong, match="have 81 tokens, the KV cache holds 80"):
        engine(kv_tokens=80).add(request("a", 61, 20), 0.0)


def test_a_cancelled_request_frees_its_blocks_and_is_never_heard_of_again():
    sim = engine(max_step_tokens=30)
    sim.add(request("decoding", 4, 50, stem=1), 0.0)
    sim.advance(1.04)
    sim.add(request("prefilling", 80, 5, stem=2), 1.04)
    sim.add(request("waiting", 80, 5, stem=3), 1.04)
    sim.advance(3.0)
    assert (sim.stats().running, sim.stats().waiting) == (2, 1)
    assert [sim.cancel(id) for id in ("decoding", "prefilling", "waiting")] == [True, True, True]
    assert not sim.cancel("decoding")
    assert run(sim) == []
    assert sim.kv.private == 0
    assert sim.kv.available == sim.kv.capacity
    assert sim.stats().cancelled == 3


def test_a_cancelled_request_makes_room_for_the_next():
    sim = engine(kv_tokens=80)
    sim.add(request("a", 70, 10, stem=1), 0.0)
    sim.add(request("b", 70, 10, stem=2), 0.0)
    sim.advance(1.7)
    sim.cancel("a")
    assert [event.id for event in run(sim) if event.kind == "finished"] == ["b"]


def test_an_id_can_be_used_again_after_a_cancel_in_the_same_step():
    sim = engine()
    sim.add(request("a", 10, 3), 0.0)
    sim.cancel("a")
    sim.add(request("a", 10, 2), 0.5)
    assert [event.kind for event in run(sim)] == ["first_token", "token", "finished"]


def test_a_flush_empties_the_cache_only_when_nothing_runs():
    sim = engine()
    sim.add(request("a", 40, 2), 0.0)
    assert not sim.flush()
    run(sim)
    assert sim.flush()
    assert sim.cached_tokens(request("b", 40, 2)) == 0
    assert sim.kv.free == sim.kv.capacity


def test_stats_count_prompt_and_hit_tokens():
    sim = engine()
    sim.add(request("a", 40, 2), 0.0)
    run(sim)
    sim.add(request("b", 40, 2), 50.0)
    assert sim.stats().kv_tokens == 40
    run(sim)
    stats = sim.stats()
    assert (stats.prompt_tokens, stats.hit_tokens, stats.generated_tokens, stats.finished) == (80, 36, 4, 2)
    assert stats.hit_rate == 0.45
    assert stats.kv_usage == 0


def test_without_token_events_only_the_first_token_and_the_end_are_told():
    sim = engine(token_events=False)
    sim.add(request("a", 4, 9), 0.0)
    assert [(event.kind, event.generated) for event in run(sim)] == [("first_token", 1), ("finished", 9)]


def test_time_may_not_pass_over_a_step_before_a_request_is_added():
    sim = engine()
    sim.add(request("a", 4, 9), 0.0)
    with pytest.raises(ValueError, match="advance to"):
        sim.add(request("b", 4, 9), 100.0)


@pytest.mark.parametrize("changes", [{"block_size": 0}, {"kv_tokens": 3}, {"max_step_tokens": 8}, {"watermark": 1}])
def test_a_size_that_cannot_work_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        engine(**changes)


requests = st.lists(
    st.tuples(
        st.floats(0, 20),  # arrival
        st.integers(1, 60),  # prompt
        st.integers(0, 30),  # output
        st.integers(1, 3),  # stem
        st.none() | st.floats(0, 30),  # cancelled so long after the arrival
    ),
    max_size=14,
)


def play(plan, **changes) -> tuple[Engine, list[Event]]:
    """Drive an engine through arrivals and cancellations, checking its books at every step."""
    sim, events = engine(kv_tokens=96, max_num_seqs=4, max_step_tokens=20, **changes), []
    moves = [(at, request(str(n), prompt, output, stem)) for n, (at, prompt, output, stem, _) in enumerate(plan)]
    moves += [(at + gone, str(n)) for n, (at, _, _, _, gone) in enumerate(plan) if gone is not None]
    for at, move in sorted(moves, key=lambda item: item[0]):
        events += sim.advance(at)
        if isinstance(move, Request):
            sim.add(move, at)
        else:
            sim.cancel(move)
        check(sim)
    while (due := sim.next_event_time()) is not None:
        events += sim.advance(due)
        check(sim)
    return sim, events


def check(sim: Engine) -> None:
    kv = sim.kv
    assert kv.free >= 0
    assert kv.private >= 0
    assert kv.free + kv.private + kv.cached == kv.capacity
    assert sim.stats().running <= 4
    assert sim._decode_kv == sum(sim._computed(seq) for seq in sim._decoding.values())
    assert kv.private == sum(seq.private for seq in sim._running.values())
    for seq in sim._decoding.values():
        assert (seq.keyed + seq.private) * 4 >= sim._computed(seq)


@settings(max_examples=150, deadline=None)
@given(requests)
def test_whatever_comes_and_goes_every_request_ends_and_every_block_is_given_back(plan):
    sim, events = play(plan)
    ended = [event.id for event in events if event.kind == "finished"]
    assert len(ended) == len(set(ended))
    assert len(ended) + sim.stats().cancelled == len(plan)
    assert sim.kv.private == 0
    assert sim.kv.available == sim.kv.capacity
    assert [event.time for event in events] == sorted(event.time for event in events)
    for id in ended:
        output = plan[int(id)][2]
        assert [event.generated for event in events if event.id == id] == [*range(1, output + 1), output]


@settings(max_examples=50, deadline=None)
@given(requests)
def test_the_same_requests_give_the_same_events_told_in_full_or_in_brief(plan):
    events = play(plan)[1]
    assert events == play(plan)[1]
    brief = play(plan, token_events=False)[1]
    assert brief == [event for event in events if event.kind != "token"]
