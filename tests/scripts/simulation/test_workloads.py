"""The workloads: who shares what with whom."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import mean

import pytest

from scripts.simulation.job import Job
from scripts.simulation.trace import Part
from scripts.simulation.workloads import GENERATED_BLOCK, GENERATORS, LONGEST, TOOLS, generate, trace

LINES = [
    {
        "timestamp": 3000 * (number // 4),
        "input_length": 1100,
        "output_length": 1000,
        "hash_ids": [0, number, 900 + number],
    }
    for number in range(30)
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def shapes(jobs: list[Job]) -> list[tuple[object, ...]]:
    return [(job.arrival, job.blocks, job.prompt, job.output, job.held, job.think) for job in jobs]


@pytest.mark.parametrize("name", GENERATORS)
def test_a_seed_makes_the_same_requests_again_and_another_one_others(name: str):
    one, again, other = (shapes(generate(name, seed, 200).all()) for seed in (1, 1, 2))
    assert one == again != other
    assert shapes(generate(name, 1, 200, Part.FIRST).all()) != one  # what settings are tuned on


@pytest.mark.parametrize("name", GENERATORS)
def test_blocks_cover_the_prompt_and_held_all_full_ones(name: str):
    jobs = generate(name, 1, 300).all()
    assert len(jobs) >= 300
    for job in jobs:
        full = job.prompt // GENERATED_BLOCK
        assert len(job.blocks) == -(-job.prompt // GENERATED_BLOCK)
        assert len(job.held) == (job.prompt + job.output) // GENERATED_BLOCK
        assert job.held[:full] == job.blocks[:full]
        assert job.output >= 1


@pytest.mark.parametrize("name", GENERATORS)
def test_arrivals_are_in_order(name: str):
    arrivals = [job.arrival for job in generate(name, 1, 300).jobs]
    assert arrivals == sorted(arrivals)
    assert arrivals[0] > 0


def test_shared_prefixes_are_64_groups_of_16_then_fresh_ones():
    jobs = generate("shared_prefix", 1, 2048).jobs
    assert Counter(Counter(job.blocks[:16] for job in jobs[:1024]).values()) == {16: 64}
    assert {job.blocks[:16] for job in jobs[:1024]}.isdisjoint(job.blocks[:16] for job in jobs[1024:])
    assert {(job.prompt, job.output) for job in jobs} == {(2176, 256)}
    assert len({job.blocks[16] for job in jobs}) == 2048  # the questions
    assert len({job.blocks[:16] for job in jobs[:64]}) > 32  # not group by group


def test_by_zipf_the_first_group_is_asked_twice_as_often_as_the_second():
    asked = Counter(job.blocks[:16] for job in generate("zipf_prefix", 1, 40_000).jobs)
    first, second = (count for _, count in asked.most_common(2))
    assert first == pytest.approx(2 * second, rel=0.1)
    assert len(asked) > 2000


def test_an_agents_turn_begins_with_the_last_ones_prompt_and_answer():
    sessions = generate("agents", 1, 3000).jobs
    turns = [(job, job.then) for job in generate("agents", 1, 3000).all() if job.then is not None]
    assert len(turns) > 1000
    for job, then in turns:
        assert then.prompt > job.prompt + job.output
        assert then.blocks[: len(job.held)] == job.held
        assert job.think > 0
        assert then.prompt <= LONGEST
    tools = Counter(job.blocks[: TOOLS // GENERATED_BLOCK] for job in sessions)
    assert len(tools) == 8
    assert len({job.blocks[TOOLS // GENERATED_BLOCK] for job in sessions}) == len(sessions)


def test_without_reuse_no_text_is_in_common_and_lengths_are_azures():
    jobs = generate("no_reuse", 1, 20_000).jobs
    blocks = [block for job in jobs for block in job.blocks]
    assert len(set(blocks)) == len(blocks)
    assert mean(job.prompt for job in jobs) == pytest.approx(1155, rel=0.02)
    assert mean(job.output for job in jobs) == pytest.approx(211, rel=0.05)


def test_a_traces_requests_keep_what_they_share_and_answers_share_nothing(file: Path):
    workload = trace("mine", file, 1, 30)
    assert {job.blocks[0] for job in workload.jobs} == {0}
    assert len({job.blocks[1] for job in workload.jobs}) == 30
    answers = [block for job in workload.jobs for block in job.held[2:]]
    assert len(set(answers)) == len(answers) == 60  # 2,100 tokens have four full blocks
    assert set(answers).isdisjoint(block for job in workload.jobs for block in job.blocks)


def test_a_traces_requests_are_spread_over_the_time_that_their_stamp_stands_for(file: Path):
    one, other = (trace("mine", file, seed, 30) for seed in (1, 2))
    arrivals = [job.arrival for job in one.jobs]
    assert arrivals != [job.arrival for job in other.jobs]
    assert arrivals == sorted(arrivals)
    assert len(set(arrivals)) == 30
    assert arrivals[0] == 0
    assert 21 - 3 < arrivals[-1] < 24


def test_of_a_long_trace_a_stretch_at_random_is_taken(file: Path):
    stretches = [[job.blocks[1] for job in trace("mine", file, seed, 4).jobs] for seed in range(10)]
    assert {len(stretch) for stretch in stretches} == {4}
    assert len({min(stretch) for stretch in stretches}) > 3
    assert all(max(stretch) - min(stretch) == 3 for stretch in stretches)


def test_a_trace_that_is_much_too_short_is_copied_with_other_text(file: Path):
    jobs = trace("mine", file, 1, 180).jobs
    assert len(jobs) == 60  # a third of what was asked
    assert Counter(job.blocks[0] for job in jobs).most_common(1)[0][1] == 30
    blocks = [block for job in jobs for block in job.held[1:]]
    assert len(set(blocks)) == len(blocks)


def test_settings_are_tuned_on_the_first_third_of_a_trace(file: Path):
    first, rest = ({job.blocks[1] for job in trace("mine", file, 1, 99, part).jobs} for part in (Part.FIRST, Part.REST))
    assert {number % 1000 for number in first} >= set(range(10))
    assert rest == set(range(10, 30)) | {number for number in rest if number > 900}
