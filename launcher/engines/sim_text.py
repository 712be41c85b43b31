"""The simulated model's language: what is a token, which blocks a text has, and what is answered. Pure.

A token is four bytes of UTF-8, which is about the length of a token of English, and its id is those bytes as a number:
counting is a division, a longer text has a shorter one's tokens as its prefix, and ids turn back into text.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from zlib import crc32

BYTES_PER_TOKEN = 4

# Three letters and a space: one token each.
_WORDS = (
    "the sun and sea are old but you can see far out low fog may sit day for day one boat ran its way new men had oil "
    "red ink was set dry ice hot tea big sky yet all who ask got two ear key map pen cup box owl fox ant bee cow pig "
    "dog cat hen elm oak fir ash fig nut pea rye bay ivy"
)
_LOOP = 4_093  # words; prime, so that no request's beginning falls into a pattern


def _babble() -> str:
    """A fixed sequence of _LOOP words, drawn by a linear congruential generator (Numerical Recipes' constants)."""
    words = [word for word in _WORDS.split() if len(word) == 3]
    state, drawn = 1, []
    for _ in range(_LOOP):
        state = (state * 1_664_525 + 1_013_904_223) % 2**32
        drawn.append(words[(state >> 16) % len(words)] + " ")
    return "".join(drawn)


_BABBLE = _babble()


def count(text: bytes) -> int:
    """Tokens of a prompt; an empty one still has its beginning-of-text token."""
    return max(1, -(-len(text) // BYTES_PER_TOKEN))


def answer(prompt: bytes, tokens: int) -> str:
    """The `tokens` words that follow `prompt`: always the same ones, and different ones for different prompts."""
    start = crc32(prompt) % _LOOP * BYTES_PER_TOKEN
    end = start + tokens * BYTES_PER_TOKEN
    if end <= len(_BABBLE):
        return _BABBLE[start:end]
    return (_BABBLE * (end // len(_BABBLE) + 1))[start:end]


def block_keys(text: bytes, block_size: int) -> tuple[int, ...]:
    """The chained keys of the full blocks of `text`, for sim_engine.Request: equal keys, equal text up to there.

    Python salts its hash of bytes, so keys mean something within one process only.
    """
    size = block_size * BYTES_PER_TOKEN
    full = len(text) - len(text) % size
    blocks = (text[at : at + size] for at in range(0, full, size))
    return tuple(itertools.accumulate(blocks, lambda key, block: hash((key, block)), initial=0))[1:]


def encode(text: bytes) -> list[int]:
    """Text -> token ids."""
    return [int.from_bytes(text[at : at + BYTES_PER_TOKEN], "big") for at in range(0, len(text), BYTES_PER_TOKEN)]


def pack(ids: Iterable[int]) -> bytes:
    """Token ids -> a prompt of as many tokens. Raises OverflowError for a number that is no token id."""
    return b"".join(id.to_bytes(BYTES_PER_TOKEN, "big") for id in ids)


def decode(ids: Iterable[int]) -> str:
    """Token ids -> text. A last token of fewer than four bytes was padded with NUL, which no text has."""
    return pack(ids).replace(b"\0", b"").decode("utf-8", "replace")


def similarity(a: bytes, b: bytes) -> float:
    """Share of the words of `a` that `b` has too, 0..1: a score that looks like one."""
    words = set(a.lower().split())
    return len(words & set(b.lower().split())) / len(words) if words else 0.0


def embedding(text: bytes, dimensions: int) -> list[float]:
    """A vector of length 1 that depends on the text alone."""
    raw = [crc32(text, seed) / 2**31 - 1 for seed in range(dimensions)]
    norm = sum(x * x for x in raw) ** 0.5 or 1.0
    return [x / norm for x in raw]
