"""A simulated inference engine in virtual time: continuous batching, chunked prefill, prefix cache, preemption. Pure.

Time passes in steps, as in vLLM and SGLang. A step decodes one token of every decoding request and spends what is left
of its token budget on prefill, first come first served; all of them wait until the whole step is over. What a step
costs is the CostModel's word. The rules:

  admission    strictly in order. A request enters when its whole prompt fits into the available KV blocks, with a
               small reserve left for the running ones, and fewer than `max_num_seqs` run.
  prefix hit   decided at admission, in whole blocks; a block is cached once the step that computed it is over, and
               at least the prompt's last token is always computed.
  growth       a decoding request takes one more block each time its last one is full. When there is none, the most
               recently admitted request is preempted: it returns to the head of the queue and is recomputed later,
               less what is still cached of it. Its tokens are not produced twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from launcher.engines.sim_kv import KVCache


def _setting(default: Any, help: str) -> Any:
    """A field whose help text the command line prints."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class CostModel:
    """How long a step takes. Default: Llama-3.1-8B (32 layers, hidden size 4,096, bf16) on one H100-80G SXM.

    A prefill of u tokens after c cached ones: (flops_per_token * u + flops_per_pair * u * (c + u/2)) / (mfu * peak),
    which is 31 us per token and 1.18 ns per pair of tokens: 33 ms for 1,024 tokens, 0.3 s for 8,192, 9 s for 100,000.
    Constants: BLIS inference-sim's roofline and its fitted coefficients (median error 7 % end to end).
    Raises ValueError when a value cannot be used.
    """

    # 2 FLOP for each of 6.98e9 weights; the embedding table is left out, it is only looked up.
    flops_per_token: float = _setting(1.396e10, "FLOP per prompt token in the linear layers.")
    # 4 x 32 layers x 4,096: two multiply-adds per query, key and channel.
    flops_per_pair: float = _setting(524_288.0, "FLOP per pair of tokens in attention.")
    # Dense bf16, NVIDIA's data sheet of the H100 SXM.
    peak_flops: float = _setting(989.5e12, "FLOP per second that the device can do.")
    # Measured on 8B to 32B models: 0.45 to 0.51.
    mfu: float = _setting(0.45, "Share of peak-flops that prefill reaches, 0..1.")
    # Reading the weights at 3.35 TB/s, times BLIS's fitted 1.36, and launching 32 layers.
    seconds_per_step: float = _setting(6.83e-3, "Seconds per step, whatever is in it.")
    # Sampling and scheduling, fitted by BLIS.
    seconds_per_request: float = _setting(4.4e-6, "Seconds per step for each decoding request.")
    # 128 KiB at 3.35 TB/s, times BLIS's fitted 1.95.
    seconds_per_kv_token: float = _setting(76e-9, "Seconds per step for each token of KV cache that decode reads.")
    speed: float = _setting(1.0, "Relative speed of this replica: 0.5 takes twice as long.")

    def __post_init__(self) -> None:
        for name in ("peak_flops", "mfu", "speed", "seconds_per_step"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be greater than 0")
        for name in ("flops_per_token", "flops_per_pair", "seconds_per_request", "seconds_per_kv_token"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must not be negative")

    def prefill(self, tokens: int, context: int) -> float:
        """Seconds to compute `tokens` prompt tokens that follow `context` tokens whose KV is there."""
        flops = self.flops_per_token * tokens + self.flops_per_pair * tokens * (context + tokens / 2)
        return flops / (self.mfu * self.peak_flops) / self.speed

    def decode(self, requests: int, kv_tokens: int) -> float:
        """Seconds of a step that decodes one token for each of `requests`, which hold `kv_tokens` together."""
        seconds = self.seconds_per_step + self.seconds_per_request * requests + self.seconds_per_kv_token * kv_tokens
        return seconds / self.speed

    def step(self, requests: int, kv_tokens: int, chunks: Iterable[tuple[int, int]]) -> float:
        """Seconds of a mixed step: the decode step and each prefill chunk (tokens, context) add up."""
        return self.decode(requests, kv_tokens) + sum(self.prefill(tokens, context) for tokens, context in chunks)


@dataclass(frozen=True)
class EngineConfig:
    """Sizes and limits. Raises ValueError when a value cannot be used."""

    block_size: int = _setting(16, "Tokens per KV block.")  # vLLM's default
    # (80 GiB x 0.9 - 15.0 weights - 5.5 activations - 0.15 other) / 128 KiB per token.
    kv_tokens: int = _setting(420_656, "Tokens that the KV cache holds.")
    max_num_seqs: int = _setting(256, "Requests in the batch.")  # vLLM's default
    max_step_tokens: int = _setting(8_192, "Tokens per step, decode and prefill together.")  # chunked prefill's chunk
    # vLLM's watermark: without it, a request is admitted into the last block and preempted at once.
    watermark: float = _setting(0.01, "Share of the KV cache that admission leaves to running requests, 0..1.")
    token_events: bool = True  # whether every token is an event, or only each request's first one and its end

    def __post_init__(self) -> None:
        for name in ("block_size", "kv_tokens", "max_num_seqs", "max_step_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.kv_tokens < self.block_size:
            raise ValueError(f"kv_tokens is {self.kv_tokens}: it must hold at least one block of {self.block_size}")
        if self.max_step_tokens <= self.max_num_seqs:
            raise ValueError(f"max_step_tokens is {self.max_step_tokens}: it must exceed max_num_seqs")
        if not 0 <= self.watermark < 1:
            raise ValueError(f"watermark is {self.watermark}: it must lie between 0 and 1")


class Request(NamedTuple):
    """What the engine must know of a request.

    `keys` are the chained keys of the full blocks of prompt and output, in order; the engine looks at a key only when
    the block has been computed. They may end early: blocks without a key are never shared.
    `output_tokens` is how many the request will produce; 0 ends it with its prefill (an embedding, say).
    """

    id: str
    prompt_tokens: int
    output_tokens: int
    keys: Sequence[int] = ()


Kind = Literal["first_token", "token", "finished"]


class Event(NamedTuple):
    """Something that happened to a request, at virtual second `time`."""

    time: float
    kind: Kind
    id: str
    generated: int  # output tokens so far
    cached: int  # prompt tokens that were not computed, because they were cached at the first admission


@dataclass(frozen=True)
class Stats:
    """Gauges of this moment, and totals since the start."""

    running: int
    waiting: int
    kv_usage: float  # share of the KV blocks that running requests hold, 0..1
    kv_tokens: int  # the same in tokens
    steps: int
    prompt_tokens: int  # of all requests admitted
    hit_tokens: int  # of those, found in the cache
    generated_tokens: int
    finished: int
    cancelled: int
    preempted: int

    @property
    def hit_rate(self) -> float:
        return self.hit_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


class RequestTooLong(ValueError):
    """Prompt and output together exceed the KV cache: the request could never run to its end."""


class _Sequence:
    """A request's progress. While it decodes, `computed` and `generated` are those of the step it joined in."""

    __slots__ = ("cached", "computed", "generated", "joined", "keyed", "last_step", "private", "request", "target")

    def __init__(self, request: Request):
        self.request = request
        self.generated = 0  # output tokens produced
        self.cached: int | None = None  # None until the first admission
        self.computed = 0  # tokens whose KV is there
        self.target = 0  # tokens to have computed when prefill ends
        self.keyed = 0  # leading blocks held in the cache
        self.private = 0  # further blocks held
        self.joined = -1  # the step after which it began to decode; -1: it does not decode
        self.last_step = -1  # the step that will end it


class Engine:
    """One replica. Call advance(now) before add(..., now); `now` never goes back. Seconds throughout."""

    def __init__(self, config: EngineConfig | None = None, cost: CostModel | None = None):
        self.config = config or EngineConfig()
        self.cost = cost or CostModel()
        self.kv = KVCache(self.config.kv_tokens // self.config.block_size)
        self._reserve = int(self.kv.capacity * self.config.watermark)  # blocks
        self._waiting: OrderedDict[str, _Sequence] = OrderedDict()
        self._running: dict[str, _Sequence] = {}  # in order of admission: prefilling and decoding
        self._prefilling: dict[str, _Sequence] = {}  # in order of admission
        self._decoding: dict[str, _Sequence] = {}
        self._decode_kv = 0  # computed tokens of the decoding requests
        # Decoding requests by the step (modulo block size) before which they need a new block. Each decoding request
        # gains one token in every step, so this never has to be reshuffled.
        self._growing: tuple[dict[str, _Sequence], ...] = tuple({} for _ in range(self.config.block_size))
        self._ending: dict[int, list[_Sequence]] = {}  # by the step that ends them
        self._chunks: list[tuple[_Sequence, int]] = []  # what the present step prefills
        self._steps = 0  # steps completed
        self._step_end: float | None = None  # None: idle
        self._blocked = False  # the queue's head does not fit, and nothing has been released since
        self._prompt_tokens = self._hit_tokens = self._generated_tokens = 0
        self._finished = self._cancelled = self._preempted = 0

    # -- the outside

    def add(self, request: Request, now: float) -> None:
        """Queue a request. Raises RequestTooLong, and ValueError for an id that is in use or an empty prompt."""
        if request.prompt_tokens < 1 or request.output_tokens < 0:
            raise ValueError("a request has at least one prompt token, and no fewer than 0 output tokens")
        if request.id in self._waiting or request.id in self._running:
            raise ValueError(f"request {request.id} is already here")
        if self._step_end is not None and self._step_end < now:
            raise ValueError(f"a step ended at {self._step_end}: advance to {now} before adding")
        tokens, limit = request.prompt_tokens + request.output_tokens, self.kv.capacity * self.config.block_size
        if tokens > limit:
            raise RequestTooLong(f"prompt and output have {tokens} tokens, the KV cache holds {limit}")
        self._waiting[request.id] = _Sequence(request)
        if self._step_end is None:
            self._start_step(now)

    def next_event_time(self) -> float | None:
        """When the present step ends; None while there is nothing to do."""
        return self._step_end

    def advance(self, now: float) -> list[Event]:
        """Run all steps that end at or before `now`; what happened, in order."""
        events: list[Event] = []
        while self._step_end is not None and self._step_end <= now:
            end = self._step_end
            self._finish_step(end, events)
            self._start_step(end)
        return events

    def cancel(self, id: str) -> bool:
        """Forget a request and free its blocks; the present step still takes its time. False: not here (any more)."""
        seq = self._waiting.pop(id, None)
        if seq is None:
            seq = self._running.get(id)
            if seq is None:
                return False
            self._leave(seq)
        self._cancelled += 1
        self._blocked = False
        return True

    def flush(self) -> bool:
        """Empty the prefix cache. False, and nothing done, while requests are here, as in SGLang and vLLM."""
        if self._running or self._waiting:
            return False
        self.kv.flush()
        return True

    def cached_tokens(self, request: Request) -> int:
        """How many prompt tokens would be a prefix hit now."""
        return self._match(request.keys, request.prompt_tokens)[0] * self.config.block_size

    def stats(self) -> Stats:
        held = self.kv.capacity - self.kv.available
        return Stats(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_usage=self.kv.usage,
            kv_tokens=held * self.config.block_size,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            hit_tokens=self._hit_tokens,
            generated_tokens=self._generated_tokens,
            finished=self._finished,
            cancelled=self._cancelled,
            preempted=self._preempted,
        )

    # -- a step's beginning

    def _start_step(self, now: float) -> None:
        self._grow()
        self._chunks = []
        budget = self._prefill_admitted(self.config.max_step_tokens - len(self._decoding))
        self._admit(budget)
        if not self._decoding and not self._chunks:
            self._step_end = None
            return
        chunks = [(tokens, seq.computed) for seq, tokens in self._chunks]
        self._step_end = now + self.cost.step(len(self._decoding), self._decode_kv, chunks)

    def _grow(self) -> None:
        """A new block for each decoding request whose last one is full, taken from the newest requests if need be."""
        for seq in list(self._growing[self._steps % self.config.block_size].values()):
            while seq.joined >= 0 and not self.kv.available:
                self._preempt(next(reversed(self._running.values())))
            if seq.joined >= 0:
                self.kv.allocate(1)
                seq.private += 1

    def _preempt(self, seq: _Sequence) -> None:
        self._leave(seq)
        self._waiting[seq.request.id] = seq
        self._waiting.move_to_end(seq.request.id, last=False)
        self._preempted += 1

    def _prefill_admitted(self, budget: int) -> int:
        for seq in self._prefilling.values():
            budget = self._chunk(seq, budget)
        return budget

    def _admit(self, budget: int) -> None:
        while budget and self._waiting and not self._blocked:
            seq = next(iter(self._waiting.values()))
            if len(self._running) >= self.config.max_num_seqs or not self._take_blocks(seq):
                self._blocked = True
                return
            del self._waiting[seq.request.id]
            self._running[seq.request.id] = self._prefilling[seq.request.id] = seq
            budget = self._chunk(seq, budget)

    def _take_blocks(self, seq: _Sequence) -> bool:
        """Reference what is cached of the request and reserve blocks for the rest of its prefill, or change nothing."""
        request, size = seq.request, self.config.block_size
        target = request.prompt_tokens + seq.generated
        hits, idle = self._match(request.keys, target)
        need = -(-target // size) - hits
        if self.kv.available - idle - need < (self._reserve if self._running else 0):
            return False
        self.kv.acquire(request.keys[:hits])
        self.kv.allocate(need)
        seq.keyed, seq.private, seq.computed, seq.target = hits, need, hits * size, target
        if seq.cached is None:
            seq.cached = hits * size
            self._prompt_tokens += request.prompt_tokens
            self._hit_tokens += seq.cached
        return True

    def _match(self, keys: Sequence[int], tokens: int) -> tuple[int, int]:
        """Leading cached blocks, all and idle ones; the last token is always computed, for its logits are needed."""
        return self.kv.match(keys, (tokens - 1) // self.config.block_size)

    def _chunk(self, seq: _Sequence, budget: int) -> int:
        """Give the request as much of the budget as it can use; what is left."""
        tokens = min(budget, seq.target - seq.computed)
        if tokens:
            self._chunks.append((seq, tokens))
        return budget - tokens

    # -- a step's end

    def _finish_step(self, now: float, events: list[Event]) -> None:
        self._steps += 1
        self._decode_kv += len(self._decoding)
        self._generated_tokens += len(self._decoding)
        if self.config.token_events:
            for seq in self._decoding.values():
                events.append(self._event(now, "token", seq))
        for seq in self._growing[self._steps % self.config.block_size].values():
            self._commit(seq, self._computed(seq))
        for seq in self._ending.pop(self._steps, ()):
            if seq.last_step == self._steps:
                self._end(seq, now, events)
        for seq, tokens in self._chunks:
            if seq.request.id in self._prefilling:
                self._prefilled(seq, tokens, now, events)

    def _prefilled(self, seq: _Sequence, tokens: int, now: float, events: list[Event]) -> None:
        seq.computed += tokens
        self._commit(seq, seq.computed)
        if seq.computed < seq.target:
            return
        self._blocked = False
        if seq.request.output_tokens:
            seq.generated += 1
            self._generated_tokens += 1
            if seq.generated == 1:
                events.append(self._event(now, "first_token", seq))
            elif self.config.token_events:
                events.append(self._event(now, "token", seq))
        if seq.generated == seq.request.output_tokens:
            self._end(seq, now, events)
        else:
            self._join(seq)

    def _join(self, seq: _Sequence) -> None:
        """From the next step on, the request decodes."""
        del self._prefilling[seq.request.id]
        self._decoding[seq.request.id] = seq
        self._decode_kv += seq.computed
        seq.joined = self._steps
        self._growing[(self._steps - seq.computed) % self.config.block_size][seq.request.id] = seq
        seq.last_step = self._steps + seq.request.output_tokens - seq.generated
        self._ending.setdefault(seq.last_step, []).append(seq)

    def _commit(self, seq: _Sequence, computed: int) -> None:
        """The full blocks among the first `computed` tokens are in the cache from now on."""
        keys = seq.request.keys
        for key in keys[seq.keyed : min(len(keys), computed // self.config.block_size)]:
            self.kv.commit(key)
            seq.keyed += 1
            seq.private -= 1

    def _end(self, seq: _Sequence, now: float, events: list[Event]) -> None:
        self._leave(seq)
        self._finished += 1
        events.append(self._event(now, "finished", seq))

    def _leave(self, seq: _Sequence) -> None:
        """Take a running request out of the batch; its computed blocks stay cached, the others are free."""
        id = seq.request.id
        del self._running[id]
        if self._prefilling.pop(id, None) is None:
            del self._decoding[id]
            del self._growing[(seq.joined - seq.computed) % self.config.block_size][id]
            self._decode_kv -= self._computed(seq)
            seq.generated = self._generated(seq)
            seq.joined = seq.last_step = -1
        self.kv.release(seq.request.keys[: seq.keyed], seq.private)
        seq.keyed = seq.private = seq.computed = 0
        self._blocked = False

    # -- a decoding request's counts, which every step raises by one

    def _computed(self, seq: _Sequence) -> int:
        return seq.computed + self._steps - seq.joined

    def _generated(self, seq: _Sequence) -> int:
        return seq.generated + (self._steps - seq.joined if seq.joined >= 0 else 0)

    def _event(self, now: float, kind: Kind, seq: _Sequence) -> Event:
        return Event(now, kind, seq.request.id, self._generated(seq), seq.cached or 0)
