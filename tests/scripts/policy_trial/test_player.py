"""Playing a workload against the simulated engine's own handlers, on the loopback."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import TestServer

from launcher.engines.sim_api import Parts, build_app
from launcher.engines.sim_driver import Driver
from launcher.engines.sim_engine import CostModel, Engine, EngineConfig
from scripts.policy_trial.player import Target, play
from scripts.policy_trial.stage import Stage
from scripts.simulation.costs import H100_8B
from scripts.simulation.job import Job, Workload
from scripts.simulation.load import Offer, plan, take
from scripts.simulation.measure import window
from scripts.simulation.world import Scene

BLOCK = 128


@pytest.fixture
async def engine() -> AsyncIterator[Target]:
    """An engine that takes no time."""
    driver = Driver(Engine(EngineConfig(), CostModel()), time_scale=0)
    async with TestServer(build_app(Parts(driver, "m", "m"))) as server:
        yield Target([str(server.make_url("/v1/completions"))], {"content-type": "application/json"}, "m")


def stage(jobs: list[Job], *, streams: bool = True) -> Stage:
    """A thousand times as fast as it says."""
    workload = Workload("w", BLOCK, jobs)
    order = plan(workload, H100_8B)
    offer = Offer(workload, order, take(order, BLOCK, H100_8B, 1), span=jobs[-1].arrival, load=1.0, cold_load=1.0)
    return Stage(offer, window(offer, H100_8B, 1), Scene(1, H100_8B, streams=streams), 0.001)


def jobs(count: int) -> list[Job]:
    """Two blocks that all share, and one of their own."""
    made = [(0, 1, 10 + number) for number in range(count)]
    return [Job(1.0 + number, blocks, 3 * BLOCK, 5, blocks) for number, blocks in enumerate(made)]


@pytest.mark.parametrize("streams", [True, False])
async def test_hits_are_what_the_engine_reports(engine: Target, streams: bool):
    played = await play(stage(jobs(4), streams=streams), engine)
    assert not played.errors
    assert sorted(outcome.cached for outcome in played.outcomes) == [0, *[2 * BLOCK] * 3]
    for outcome in played.outcomes:
        assert outcome.first is not None
        assert outcome.end is not None
        assert outcome.sent <= outcome.first <= outcome.end
        assert not outcome.failed


async def test_the_next_prompt_of_a_session_contains_the_answer(engine: Target):
    """All but the last part of a block is cached, the answer included."""
    blocks = tuple(range(6))
    second = Job(0.0, blocks, 6 * BLOCK, 5, blocks)
    first = Job(1.0, blocks[:3], 3 * BLOCK, 2 * BLOCK, blocks[:5], think=0.001, then=second)
    played = await play(stage([first]), engine)
    assert [outcome.job.prompt for outcome in played.outcomes] == [3 * BLOCK, 6 * BLOCK]
    assert played.outcomes[1].cached >= 5 * BLOCK - 16


async def test_what_is_refused_has_failed_and_its_session_goes_on(engine: Target):
    blocks = (1,)
    last = Job(0.0, blocks, BLOCK, 5, blocks)
    too_long = Job(1.0, blocks, BLOCK, 10_000_000, blocks, then=last)
    played = await play(stage([too_long]), engine)
    assert [outcome.failed for outcome in played.outcomes] == [True, False]
    assert "status 400" in played.errors[0]


async def test_of_several_engines_each_prefix_has_its_own(engine: Target):
    twice = [Job(float(number), (first, 10 + number), 2 * BLOCK, 1, ()) for number, first in enumerate((1, 2, 1, 2))]
    other = dataclasses.replace(engine, urls=[engine.urls[0], engine.urls[0] + "/nowhere"])
    played = await play(stage(twice), other)
    assert [outcome.failed for outcome in played.outcomes] == [False, True, False, True]
