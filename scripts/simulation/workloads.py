"""The workloads: requests whose prompts share text in different ways, in order of arrival. Pure, but for trace files.

Arrivals are in seconds of an arbitrary scale: load.py stretches them to a load. Equal seeds give equal requests.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.simulation.job import Job, Workload
from scripts.simulation.trace import BLOCK, Part, Row, cut, gaps, read

# Tokens of a block in generated workloads. All shared text is a multiple of it.
GENERATED_BLOCK = 128

# SGLang's benchmark of shared prefixes (bench_serving --dataset-name generated-shared-prefix), with its defaults.
GROUPS = 64
PROMPTS = 16  # of each group
SYSTEM = 2048  # tokens that a group shares
QUESTION = 128
ANSWER = 256

# The same with the groups drawn by Zipf's law: 4096 x 2048 tokens are the caches of some twenty 8B engines on H100.
MANY_GROUPS = 4096
EXPONENT = 1.0

# Azure's conversations of 2023 (AzureLLMInferenceTrace_conv.csv): mean 1,155 tokens in, 211 out; medians 1,020 and 129
# (Splitwise, ISCA 2024, section III). Log-normal: mean / median = exp(sigma^2 / 2).
PROMPT_MEDIAN, PROMPT_SIGMA = 1020, 0.498
ANSWER_MEDIAN, ANSWER_SIGMA = 129, 0.992

# Agents: our own numbers, such that prompts average about 10,000 tokens (Mooncake's tool-and-agent trace: 8,596),
# most of each known from the turn before.
KINDS = 8  # of agents, each with its system prompt and tools
TOOLS = 4096  # tokens of those
TASK_MEDIAN, TASK_SIGMA = 500, 1.0  # tokens of a session's first message
RESULT_MEDIAN, RESULT_SIGMA = 300, 1.2  # tokens that a turn adds: what a tool or a person says
TURNS = 8  # of a session, on average; geometric
LONGEST = 32_768  # tokens of a prompt, at which a session ends
THINK_MEDIAN, THINK_SIGMA = 3.0, 1.2  # s: tools take seconds, people tens of them

Generator = Callable[[random.Random, int], list[Job]]


def shared_prefix(rng: random.Random, requests: int) -> list[Job]:
    """64 groups of 16 prompts with a prefix each, in random order; then as many fresh groups, until it is enough."""
    ids = itertools.count()
    prompts: list[list[int]] = []
    while len(prompts) < requests:
        round_ = [prefix for prefix in _prefixes(ids, GROUPS) for _ in range(PROMPTS)]
        rng.shuffle(round_)
        prompts += round_
    return [_question(arrival, prefix, ids) for arrival, prefix in zip(_poisson(rng), prompts[:requests], strict=False)]


def zipf_prefix(rng: random.Random, requests: int) -> list[Job]:
    """The same prompts of many more groups, the n-th of which is asked 1/n as often as the first."""
    ids = itertools.count()
    prefixes = _prefixes(ids, MANY_GROUPS)
    weights = list(itertools.accumulate(1 / rank**EXPONENT for rank in range(1, MANY_GROUPS + 1)))
    drawn = rng.choices(prefixes, cum_weights=weights, k=requests)
    return [_question(arrival, prefix, ids) for arrival, prefix in zip(_poisson(rng), drawn, strict=False)]


def agents(rng: random.Random, requests: int) -> list[Job]:
    """Sessions of several turns: tools and system prompt first, then all that was said so far and something new."""
    ids = itertools.count()
    kinds = _prefixes(ids, KINDS, TOOLS)
    weights = [1 / rank for rank in range(1, KINDS + 1)]
    sessions, made = [], 0
    for arrival in _poisson(rng):
        if made >= requests:
            break
        first, turns = _session(rng, arrival, rng.choices(kinds, weights)[0], ids)
        sessions.append(first)
        made += turns
    return sessions


def no_reuse(rng: random.Random, requests: int) -> list[Job]:
    """Lengths as of Azure's conversations, and no text in common: nothing is to be won by a cache."""
    ids = itertools.count()
    arrivals = itertools.islice(_poisson(rng), requests)
    return [
        _job(at, [], ids, _tokens(rng, PROMPT_MEDIAN, PROMPT_SIGMA), _tokens(rng, ANSWER_MEDIAN, ANSWER_SIGMA))
        for at in arrivals
    ]


GENERATORS: dict[str, Generator] = {
    "shared_prefix": shared_prefix,
    "zipf_prefix": zipf_prefix,
    "agents": agents,
    "no_reuse": no_reuse,
}


def generate(name: str, seed: int, requests: int, part: Part = Part.WHOLE) -> Workload:
    """The generated workload of that name, of at least `requests` requests. Its first part has seeds of its own."""
    rng = random.Random(f"{name} {seed} {'tuning' if part is Part.FIRST else ''}")
    return Workload(name, GENERATED_BLOCK, GENERATORS[name](rng, requests))


def trace(name: str, path: Path, seed: int, requests: int, part: Part = Part.WHOLE) -> Workload:
    """The trace file's requests, or a stretch of `requests` at random if there are more.

    Where there is not a third of them, copies in parallel with other text make up for it: other users who behave alike.
    Requests are spread at random over the time until the next time stamp. Raises TraceError.
    """
    rng = random.Random(f"{name} {seed}")
    rows = cut(read(path), part)
    spread = gaps(rows)
    start = rng.randrange(max(1, len(rows) - requests + 1))
    stretch = rows[start : start + requests]
    copies = -(-requests // (3 * len(rows)))
    known = 1 + max((id for row in rows for id in row.hash_ids), default=0)  # ids of the file are below it
    ids = itertools.count(copies * known)
    jobs = [_row(row, rng, spread, copy * known, ids) for copy in range(copies) for row in stretch]
    began = min(job.arrival for job in jobs)
    for job in jobs:
        job.arrival -= began
    return Workload(name, BLOCK, sorted(jobs, key=lambda job: job.arrival)[:requests])


def _row(row: Row, rng: random.Random, spread: dict[float, float], offset: int, ids: Iterator[int]) -> Job:
    """The trace says nothing of answers' text: their blocks fill caches, but no prompt has them."""
    at = (row.timestamp + rng.random() * spread[row.timestamp]) / 1000
    known = [offset + id for id in row.hash_ids[: -(-row.input_length // BLOCK)]]
    return _job(at, known, ids, row.input_length, max(1, row.output_length), BLOCK)


def _poisson(rng: random.Random) -> Iterator[float]:
    """Arrivals without memory, one a second on average."""
    now = 0.0
    while True:
        now += rng.expovariate(1.0)
        yield now


def _tokens(rng: random.Random, median: float, sigma: float) -> int:
    """Log-normal, at least one."""
    return max(1, round(median * rng.lognormvariate(0.0, sigma)))


def _prefixes(ids: Iterator[int], count: int, tokens: int = SYSTEM) -> list[list[int]]:
    return [list(itertools.islice(ids, tokens // GENERATED_BLOCK)) for _ in range(count)]


def _question(arrival: float, prefix: list[int], ids: Iterator[int]) -> Job:
    return _job(arrival, prefix, ids, SYSTEM + QUESTION, ANSWER)


def _job(
    arrival: float, known: list[int], ids: Iterator[int], prompt: int, output: int, block: int = GENERATED_BLOCK
) -> Job:
    """A request that begins with the text of `known`, all of it in its prompt; what follows nobody else has.

    A block that the prompt fills in part only is another one once the answer has filled it.
    """
    text = [*known, *itertools.islice(ids, -(-prompt // block) - len(known))]
    full = prompt // block
    held = [*text[:full], *itertools.islice(ids, (prompt + output) // block - full)]
    return Job(arrival, tuple(text), prompt, output, tuple(held))


def _session(rng: random.Random, arrival: float, prefix: list[int], ids: Iterator[int]) -> tuple[Job, int]:
    """Its first request, and how many there are. All of its text is one sequence of blocks, which the turns extend."""
    text = list(prefix)
    prompt = TOOLS + _tokens(rng, TASK_MEDIAN, TASK_SIGMA)
    first = last = _turn(rng, arrival, text, ids, prompt)
    turns = 1
    while rng.random() > 1 / TURNS:
        prompt += last.output + _tokens(rng, RESULT_MEDIAN, RESULT_SIGMA)
        if prompt > LONGEST:
            break
        last.think = THINK_MEDIAN * rng.lognormvariate(0.0, THINK_SIGMA)
        last.then = _turn(rng, 0.0, text, ids, prompt)
        last = last.then
        turns += 1
    return first, turns


def _turn(rng: random.Random, arrival: float, text: list[int], ids: Iterator[int], prompt: int) -> Job:
    output = _tokens(rng, ANSWER_MEDIAN, ANSWER_SIGMA)
    text += itertools.islice(ids, max(0, -(-(prompt + output) // GENERATED_BLOCK) - len(text)))
    blocks = tuple(text[: -(-prompt // GENERATED_BLOCK)])
    return Job(arrival, blocks, prompt, output, tuple(text[: (prompt + output) // GENERATED_BLOCK]))
