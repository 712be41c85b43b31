"""What an engine has answered: the events of a completion, or its JSON, read when all of it has come. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

EVENT = b"data: "
DONE = b"[DONE]"


class AnswerError(ValueError):
    """Not a whole answer: an error, or the end of it is missing."""


@dataclass(frozen=True)
class Answer:
    """`tokens` of the prompt, `cached` of them by the engine's own report, `generated` after it."""

    text: str
    tokens: int
    cached: int
    generated: int


def read(body: bytes, stream: bool) -> Answer:
    """Raises AnswerError."""
    try:
        parts = list(_events(body)) if stream else [msgspec.json.decode(body)]
        text = "".join(choice.get("text") or "" for part in parts for choice in part.get("choices") or ())
        usage = next(part["usage"] for part in reversed(parts) if part.get("usage"))
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return Answer(text, usage["prompt_tokens"], cached, usage["completion_tokens"])
    except StopIteration:
        raise AnswerError(f"no usage in it: {body[-200:]!r}") from None
    except (KeyError, AttributeError, msgspec.DecodeError) as error:
        raise AnswerError(f"not a completion ({error!r}): {body[-200:]!r}") from None


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    """All events of the stream. Raises AnswerError when its end is missing."""
    for line in body.splitlines():
        if line == EVENT + DONE:
            return
        if line.startswith(EVENT):
            yield msgspec.json.decode(line[len(EVENT) :])
    raise AnswerError(f"cut off: {body[-200:]!r}")
