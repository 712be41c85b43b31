"""What an engine's work costs: one table of constants, each with its source. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Costs:
    """Seconds and tokens of one engine. The cost of a step is that of its decodes plus that of its prefill chunks.

    Prefill is bound by arithmetic: a part linear in the tokens (the weights) and one in the pairs of a token and those
    before it (attention). Decoding is bound by memory: the weights are read once a step, each token of context once.
    """

    token: float  # s per prompt token
    pair: float  # s per pair of a prompt token and one before it
    base: float  # s per step, whatever is in it
    running: float  # s per request being decoded, per step
    context: float  # s per token of context being decoded, per step
    kv_tokens: int  # what the KV cache holds
    chunk: int = 8192  # prompt tokens and decodes of a step: vLLM's default on an H100, SGLang's on any 80 GB
    max_running: int = 256  # requests at once: vLLM's default; on an H100 now 1024, for which its KV cache is too small

    def prefill(self, uncached: int, cached: int) -> float:
        """Seconds that `uncached` prompt tokens take when `cached` are before them."""
        return uncached * (self.token + self.pair * (cached + uncached / 2))

    def step(self, running: int, context: int) -> float:
        """Seconds of a step that decodes `running` requests with `context` tokens in all."""
        return self.base + self.running * running + self.context * context

    def stretch(self, steps: int, running: int, context: int) -> float:
        """Seconds of so many steps in a row: each adds a token of context for each request."""
        grown = steps * context + running * (steps * (steps - 1) // 2)
        return steps * (self.base + self.running * running) + self.context * grown


# Llama-3.1-8B in bfloat16. Prefill: 1.396e10 operations a token in the weights, 524,288 a pair in attention (4 x 32
# layers x 4,096), at 45 % of 989.5 Tflop/s, which is what BLIS fits to vLLM on an H100 (and llm-d's measured 15,928
# tokens/s of a 32B model on two H100 amounts to 51 %). Steps: BLIS' fit on a roofline of 3.35 TB/s: 1.3625 x the time
# to read 13.96 GB of weights, 32.1 us a layer and 126 us a step make 6.83 ms; 4.4 us a request; 1.947 x the time to
# read the 128 KiB of a token of context make 76 ns. KV: 90 % of 80 GiB less 20.65 GiB of weights and activations.
H100_8B = Costs(
    token=1.396e10 / (0.45 * 989.5e12),  # 31.3 us
    pair=524_288 / (0.45 * 989.5e12),  # 1.18 ns
    base=6.83e-3,
    running=4.4e-6,
    context=76e-9,
    kv_tokens=421_000,
)

# The same model on an A100. Prefill: 67 us a token in the weights by Vidur's profile (Preble measured 50 us with a 7B
# model), attention by a peak of 312 Tflop/s. Steps: BLIS' fit on a roofline of 2.04 TB/s makes 10.5 ms and 125 ns
# (Vidur's profile has 9.8 ms in the weights, Preble 5.5 ms in all). The chunk is vLLM's default there.
A100_8B = Costs(
    token=67e-6,
    pair=524_288 / (0.45 * 312e12),
    base=10.5e-3,
    running=4.4e-6,
    context=125e-9,
    kv_tokens=421_000,
    chunk=2048,
)

ENGINES = {
    "h100_8b": H100_8B,
    "a100_8b": A100_8B,
    "h100_8b_big": replace(H100_8B, kv_tokens=1_700_000),  # with a second tier of cache in the host's memory
}
