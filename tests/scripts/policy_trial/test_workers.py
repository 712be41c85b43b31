"""The engines' servers: their options, and what they count."""

from __future__ import annotations

import dataclasses

import pytest
from click import Context

from launcher.engines import sim_server
from launcher.engines.sim_engine import CostModel
from scripts.policy_trial.counters import Counters, read
from scripts.policy_trial.workers import sim_options
from scripts.simulation.costs import H100_8B


def test_the_servers_engine_takes_as_long_as_the_simulators():
    costs = dataclasses.replace(H100_8B, kv_tokens=50_000, chunk=4096, max_running=100)
    options = sim_options(costs, 0.5, 1.0)
    with sim_server.main.make_context("sim", options) as context:
        assert isinstance(context, Context)
        given = context.params
    fields = ("flops_per_token", "flops_per_pair", "peak_flops", "mfu", "seconds_per_step", "seconds_per_request")
    model = CostModel(**{name: given[name] for name in (*fields, "seconds_per_kv_token")})
    assert model.prefill(1000, 500) == pytest.approx(H100_8B.prefill(1000, 500))
    assert model.decode(7, 9000) == pytest.approx(H100_8B.step(7, 9000))
    sizes = [given[name] for name in ("kv_tokens", "max_step_tokens", "max_num_seqs", "speed")]
    assert sizes == [50_000, 4096, 100, 0.5]


def test_sglang_counts_all_prompt_tokens_and_llama_cpp_those_it_computes():
    assert read("sglang:prompt_tokens_total 100\nsglang:cached_tokens_total 30\n") == Counters(100, 30)
    assert read("llamacpp:prompt_tokens_total 70\nllamacpp:prompt_tokens_cached_total 30\n") == Counters(100, 30)
    assert read("") == Counters(0, 0)
