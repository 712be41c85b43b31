"""What an engine says a request was to it: the prompt's tokens, those that it had cached, the answer's. Pure.

In OpenAI's shapes that is `usage`, in SGLang's /generate `meta_info`; either ends the answer. What was cached llama.cpp
always tells, SGLang with --enable-cache-report (/generate: always), vLLM with --enable-prompt-tokens-details.
"""

from __future__ import annotations

import re
from typing import Final

NEAR_THE_END: Final = 4096  # bytes of an answer; what engines put after it are some hundred

# A quote inside a JSON string is escaped: nothing that a model writes looks like these.
_PROMPT: Final = b'"prompt_tokens":'
_CACHED: Final = b'"cached_tokens":'
_ANSWER: Final = b'"completion_tokens":'
_NUMBER: Final = re.compile(rb"\s*([0-9]{1,9})[\s,}]")


class Usage:
    """Of one request, in the engine's tokens. `cached` is None where it does not tell, `answer` then 0."""

    __slots__ = ("answer", "cached", "prompt")

    def __init__(self, prompt: int, cached: int | None, answer: int = 0):
        self.prompt = prompt
        self.cached = cached
        self.answer = answer


def read(end: bytes) -> Usage | None:
    """The usage in the last NEAR_THE_END bytes of an answer; None where it is not, or not whole."""
    prompt = _last(end, _PROMPT)
    if not prompt:
        return None
    cached = _last(end, _CACHED)
    return Usage(prompt, cached if cached is None or cached <= prompt else None, _last(end, _ANSWER) or 0)


def _last(end: bytes, name: bytes) -> int | None:
    """The number that follows the name where it stands last."""
    at = end.rfind(name)
    found = _NUMBER.match(end, at + len(name)) if at >= 0 else None
    return int(found[1]) if found is not None else None
