"""From a request body to what routing needs of it: model, prefix key, stream, session. Pure.

Nothing is re-serialised: the prompt stays the bytes that the client sent, as `msgspec.Raw`. Unknown fields are skipped,
known ones are never checked for type here: that is the engine's business, and its answer is passed on.
"""

from __future__ import annotations

import contextlib
import math
from typing import Final

import msgspec

from router.abridge import LONG, abridge, restore
from router.errors import BadRequest
from router.prefix import Stay
from router.usage import Usage

Raw = msgspec.Raw
_NONE = Raw(b"")


class _Body(msgspec.Struct):
    """The union of all inference paths' routing fields; whatever is absent stays empty."""

    model: Raw = _NONE
    stream: Raw = _NONE
    text: Raw = _NONE  # /generate
    input_ids: Raw = _NONE  # /generate, tokenised
    prompt: Raw = _NONE  # /v1/completions, and LMDeploy's /generate
    system: Raw = _NONE  # /v1/messages
    messages: Raw = _NONE  # /v1/chat/completions, /v1/messages
    instructions: Raw = _NONE  # /v1/responses
    input: Raw = _NONE  # /v1/responses, /v1/embeddings
    query: Raw = _NONE  # rerank
    user: Raw = _NONE  # session affinity


_decode = msgspec.json.Decoder(_Body).decode

# Which fields make up the prompt, in the order in which an engine's chat template would print them.
_PROMPT_FIELDS: dict[str, tuple[str, ...]] = {
    "/generate": ("text", "prompt", "input_ids"),
    "/v1/chat/completions": ("messages",),
    "/v1/completions": ("prompt",),
    "/v1/embeddings": ("input",),
    "/v1/responses": ("instructions", "input"),
    "/v1/messages": ("system", "messages"),
    "/v1/rerank": ("query",),
    "/v1/score": (),
    "/rerank": ("query",),
    "/score": (),
    "/classify": ("text",),
    "/encode": ("text",),
    "/tokenize": (),
    "/detokenize": (),
}
INFERENCE_PATHS = tuple(_PROMPT_FIELDS)

_CLOSERS = b'"]} \t\r\n'

# Bytes of JSON per token, for load estimates only: English text runs at about four characters per token.
BYTES_PER_TOKEN: Final = 4


class RouteRequest:
    """What a policy may look at.

    `key` is the prompt's JSON as it was sent, less its closing quotes and brackets; `size` its bytes, also when the key
    is no longer kept. `matched` is the policy's: how many of them the picked worker holds. `stay` is the policy's as
    well: what it keeps until the request is over there. `computed_by`, too: when the prompt should be computed there,
    monotonic seconds; for answers that come whole. `usage` is what the worker said of the prompt in the end.
    """

    __slots__ = ("computed_by", "key", "matched", "model", "path", "session", "size", "stay", "stream", "usage")

    def __init__(
        self, path: str, key: bytes = b"", model: str | None = None, stream: bool = False, session: str | None = None
    ):
        self.path = path
        self.key = key
        self.size = len(key)
        self.model = model
        self.stream = stream
        self.session = session
        self.matched = 0
        self.stay: Stay | None = None
        self.computed_by = math.inf
        self.usage: Usage | None = None

    @property
    def prompt_tokens(self) -> int:
        """Estimated prompt length, tokens."""
        return self.size // BYTES_PER_TOKEN

    @property
    def uncached_tokens(self) -> int:
        """Estimated prompt tokens that the picked worker must still compute."""
        return (self.size - self.matched) // BYTES_PER_TOKEN


def parse(path: str, body: bytes, session: str | None = None) -> RouteRequest:
    """Read what routing needs. `session` is the client's x-session-id header, if any; else the body's `user`.

    Raises BadRequest when the body is not one JSON object.
    """
    try:
        fields, cuts = _read(body)
    except RecursionError:
        raise BadRequest("the request body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the request body is not a JSON object: {error}") from None
    if session is None and fields.user:
        session = _text(fields.user)
    key = _prompt(path, fields)
    if cuts:
        key = restore(key, cuts)
    return RouteRequest(path, key, _text(fields.model), bytes(fields.stream) == b"true", session)


def _read(body: bytes) -> tuple[_Body, list[memoryview]]:
    """The body's fields, and what is cut out of the prompt's. Raises what the decoder does."""
    short, cuts = abridge(body) if len(body) >= LONG else (body, [])
    if cuts:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            fields = _decode(short)
            fields.model, fields.user = (Raw(restore(bytes(raw), cuts)) for raw in (fields.model, fields.user))
            return fields, cuts
    return _decode(body), []


def _prompt(path: str, fields: _Body) -> bytes:
    parts = [memoryview(raw) for name in _PROMPT_FIELDS[path] if (raw := getattr(fields, name))]
    return _open(parts[0] if len(parts) == 1 else memoryview(b"\n".join(parts)))


def _open(prompt: memoryview) -> bytes:
    """The prompt less its closing quotes and brackets, in one copy: a megabyte is not cheap to move.

    `[{..."hi"}]` is no prefix of the conversation's next turn, `[{..."hi"},{...`; without the closers it is.
    """
    tail = bytes(prompt[-64:])
    kept = len(tail.rstrip(_CLOSERS))
    return bytes(prompt[: len(prompt) - len(tail) + kept]) if kept else bytes(prompt).rstrip(_CLOSERS)


def _text(raw: Raw) -> str | None:
    """A JSON string's value; None for an absent or empty one, and for anything that is no string."""
    if not raw:
        return None
    try:
        return msgspec.json.decode(raw, type=str) or None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
