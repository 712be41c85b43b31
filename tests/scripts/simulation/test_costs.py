"""What an engine's work costs."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.simulation.costs import ENGINES, H100_8B, Costs

COSTS = Costs(token=1e-4, pair=1e-8, base=0.005, running=1e-5, context=1e-7, kv_tokens=10_000)


def test_a_prefill_costs_its_tokens_and_each_pair_of_a_token_and_one_before_it():
    tokens = range(300, 400)
    pairs = sum(place + 0.5 for place in tokens)  # and half of the one with itself
    assert COSTS.prefill(100, 300) == pytest.approx(100 * COSTS.token + pairs * COSTS.pair)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=5), st.integers(0, 9000))
def test_a_prefill_costs_the_same_in_whatever_chunks_it_is_done(chunks: list[int], cached: int):
    done, seconds = cached, 0.0
    for size in chunks:
        seconds += COSTS.prefill(size, done)
        done += size
    assert seconds == pytest.approx(COSTS.prefill(sum(chunks), cached))


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 256), st.integers(0, 100_000))
def test_a_stretch_lasts_as_long_as_its_steps_of_growing_context(steps: int, running: int, context: int):
    single = sum(COSTS.step(running, context + made * running) for made in range(steps))
    assert COSTS.stretch(steps, running, context) == pytest.approx(single)


@pytest.mark.parametrize(("tokens", "seconds"), [(1000, 0.033), (8000, 0.296), (32_000, 1.66), (100_000, 9.0)])
def test_a_cold_prompt_on_an_h100_takes_what_the_roofline_says(tokens: int, seconds: float):
    assert H100_8B.prefill(tokens, 0) == pytest.approx(seconds, rel=0.05)


def test_a_lone_answer_on_an_h100_comes_at_memory_speed():
    weights, bandwidth = 2 * 6.98e9, 3.35e12  # bytes, bytes/s
    assert weights / bandwidth < H100_8B.step(1, 0) < 2 * weights / bandwidth
    per_token = H100_8B.step(1, 100_001) - H100_8B.step(1, 1)
    assert 131_072 / bandwidth < per_token / 100_000 < 2.5 * 131_072 / bandwidth


@pytest.mark.parametrize("name", ENGINES)
def test_all_engines_are_slower_or_larger_than_the_first_and_none_is_without_a_cost(name: str):
    costs = ENGINES[name]
    for field in ("token", "pair", "base", "running", "context", "kv_tokens"):
        assert getattr(costs, field) >= getattr(H100_8B, field) > 0


def test_costs_cannot_be_changed_under_a_run():
    with pytest.raises(dataclasses.FrozenInstanceError):
        COSTS.token = 0.0  # type: ignore[misc]
