"""A job's prompt as text: equal blocks are equal words; an answer is part of its session's next prompt. Pure."""

from __future__ import annotations

import functools
import random

from scripts.simulation.job import Job, Workload

_WORDS = (
    "the sun and sea are old but you can see far out low fog may sit day for one boy ran its way new men had oil "
    "red ink was set dry ice hot tea big sky yet all who ask got two ear key map pen cup box owl fox ant bee cow "
    "pig dog cat hen elm oak fir ash fig nut pea rye bay ivy"
)
# Three letters and a space: a token of the simulated engines, which count four bytes, and of most tokenizers.
WORDS = tuple(f"{word} " for word in _WORDS.split())
BYTES = 4  # of a token


@functools.cache
def block_text(block: int, tokens: int) -> str:
    """So many words, always the same ones for the same block."""
    return "".join(random.Random(block).choices(WORDS, k=tokens))


def prompt(workload: Workload, job: Job, said: str = "") -> str:
    """`job.prompt` words. `said`: what the session has said so far, with which it begins."""
    text = "".join(block_text(block, workload.block) for block in job.blocks)
    return said + text[len(said) : job.prompt * BYTES]


def goes_on(job: Job) -> bool:
    """Whether the session's next prompt contains this one and its answer, not only the same beginning."""
    return job.then is not None and job.then.blocks[: len(job.blocks)] == job.blocks
