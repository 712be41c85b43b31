"""How many bytes of prompts each worker's cache has room for: what engines tell, and what their answers teach. Pure.

To believe in a smaller cache than there is costs far more than to believe in a larger one: what the index forgets is
sent elsewhere, computed again, and turns out something else there. Simulated, 8 workers: with half the room mean TTFT
is +49 % (agents at load 1.0: 8 times), with twice the room +4 %, with no bound at all +12 %. So what is learnt of a
pool of blocks only adds room.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from router.fleet import Worker
from router.request import BYTES_PER_TOKEN
from router.usage import Usage

# Bytes of JSON per token that may be learnt: lists of token ids have seven, text at most six. Images have hundreds, in
# base64: what they are in tokens says nothing of text.
DENSEST: Final = 8.0
PRIOR: Final = 4096  # tokens of the usual density that are believed in at first
REMEMBERED: Final = 50  # prompts, answers

# An engine held more than was believed: so much more room for each byte of it, up to MORE times what it told. That is
# rarely seen, for what the index forgot is sent elsewhere. Sixteen workers that do not tell had 4.3 times the mean TTFT
# of workers that do; with a gain of 1, 2.8 times; 20, +17 %; 100, +7 %.
GAIN: Final = 100
MORE: Final = 8
# Tokens of chat templates and tools are in no prompt's text, and engines round to blocks.
NOISE: Final = 1024


class Rooms:
    """`total` is what an index needs for all workers, never less than `least`. Sole writers: its own methods."""

    def __init__(self, least: int):
        self.total = least
        self._least = least
        self._workers: Sequence[Worker] = ()
        self._news = 0  # answers since all were added up
        self._bytes = float(PRIOR * BYTES_PER_TOKEN)  # of prompts, fading
        self._tokens = float(PRIOR)  # of the same, by the engines' count
        self._density = float(BYTES_PER_TOKEN)
        self._extra: dict[str, int] = {}  # bytes by worker, beyond what it told
        self._seen = 0  # prompts, as far as they are remembered
        self._mean = 0.0  # bytes of a prompt, fading

    def of(self, worker: Worker) -> int:
        """Bytes that this worker's cache has room for; one that does not tell may take all there is.

        Of a cache that keeps so many prompts and no more, whatever their size, this is about as much as those are: what
        they have in common counts once, and so it does where a prompt replaces the one most like it (llama.cpp).
        """
        if worker.kv_tokens is None:
            return self.total
        told = int(worker.kv_tokens * self._density)
        if worker.kv_prompts is not None:
            return min(told, int(worker.kv_prompts * self._mean))
        return told + min(self._extra.get(worker.id, 0), (MORE - 1) * told)

    def among(self, workers: Sequence[Worker]) -> None:
        """These are all there are."""
        self._workers, self._news = workers, 0
        told = sum(self.of(worker) for worker in workers if worker.kv_tokens is not None)
        extra = sum(self._extra.get(worker.id, 0) for worker in workers if worker.kv_tokens is None)
        self.total = max(self._least, told) + min(extra, (MORE - 1) * self._least)

    def sent(self, size: int) -> None:
        """Another prompt, of so many bytes."""
        self._seen = min(self._seen + 1, REMEMBERED)
        self._mean += (size - self._mean) / self._seen

    def told(self, worker: Worker, size: int, held: int, usage: Usage) -> None:
        """A prompt of `size` bytes, `held` of which the worker was believed to hold, was this to it."""
        self._bytes += size - self._bytes / REMEMBERED
        self._tokens += usage.prompt - self._tokens / REMEMBERED
        self._density = min(DENSEST, max(float(BYTES_PER_TOKEN), self._bytes / self._tokens))
        if usage.cached is not None:
            more = usage.cached * size // usage.prompt - held
            if more > NOISE:
                self._extra[worker.id] = self._extra.get(worker.id, 0) + GAIN * more
        self._news += 1
        if self._news >= len(self._workers):  # so what it costs an answer does not grow with the fleet
            self.among(self._workers)

    def forget(self, worker: Worker) -> None:
        """It was started anew, or left."""
        self._extra.pop(worker.id, None)
