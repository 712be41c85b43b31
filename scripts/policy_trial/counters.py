"""What engines count themselves, from their metrics. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from router import prometheus_text


@dataclass(frozen=True)
class Counters:
    """Of one engine, since its start: prompt tokens in all, and those that its cache had."""

    prompts: float
    cached: float

    def since(self, earlier: Counters) -> Counters:
        return Counters(self.prompts - earlier.prompts, self.cached - earlier.cached)


def read(metrics: str) -> Counters:
    """Of SGLang's dialect, which counts all prompt tokens, or llama.cpp's, which counts those that it computes."""
    samples = prometheus_text.read(metrics)

    def total(name: str) -> float:
        return prometheus_text.total(samples, name) or 0.0

    cached = total("llamacpp:prompt_tokens_cached_total")
    return Counters(
        total("sglang:prompt_tokens_total") + total("llamacpp:prompt_tokens_total") + cached,
        total("sglang:cached_tokens_total") + cached,
    )
