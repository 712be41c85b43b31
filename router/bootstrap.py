"""How a prefill and a decode worker of SGLang's find each other: three fields that both get in the same request. Pure.

The prefill worker listens for decode workers at `bootstrap_host`, `bootstrap_port`; what is handed over there is known
by its `bootstrap_room`, a random number. A request of several prompts has a list of each. Which request is one, and the
fields' form, are those of sglang-router 0.3.2.
"""

from __future__ import annotations

import random
from typing import Final
from urllib.parse import urlsplit

import msgspec

from router.errors import BadRequest

PATHS: Final = ("/generate", "/v1/chat/completions", "/v1/completions")  # those whose engines read the fields
ROOM_BITS: Final = 63  # engines keep it as a signed number of 64 bits
MOST_ROOMS: Final = 65_536  # of one request: 40 bytes each, to be written for three of the client's

# What only the prefill worker knows: the log probabilities of the prompt's tokens, by their names in `meta_info`.
_OF_PROMPT: Final = ("input_token_logprobs", "input_top_logprobs", "input_token_ids_logprobs")

_BLANKS: Final = b" \t\r\n"
_NONE: Final = msgspec.Raw(b"")


class _Fields(msgspec.Struct):
    bootstrap_host: str | list[str]
    bootstrap_port: int | list[int | None] | None
    bootstrap_room: int | list[int]


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Ask:
    """What of a request matters to a pair. `body` has none of the fields; `rooms` is None where it is no list."""

    __slots__ = ("body", "logprobs", "rooms")

    def __init__(self, body: bytes, rooms: int | None, logprobs: bool):
        self.body = body
        self.rooms = rooms
        self.logprobs = logprobs  # the prompt's are asked for


def ask(path: str, body: bytes) -> Ask:
    """Read a request's body. Raises BadRequest when it cannot be read, or asks for more than MOST_ROOMS at once."""
    try:
        fields = _fields(body)
        rooms = _answers(fields.get("n", _NONE)) if path == "/v1/chat/completions" else _prompts(fields)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the request body is not a JSON object: {error}") from None
    if rooms is not None and rooms > MOST_ROOMS:
        raise BadRequest(f"{rooms} answers are asked for at once: at most {MOST_ROOMS} are given")
    if not fields.keys().isdisjoint(_Fields.__struct_fields__):  # readers differ in which of two counts
        body = _encode({name: value for name, value in fields.items() if name not in _Fields.__struct_fields__})
    return Ask(body, rooms, path == "/generate" and bytes(fields.get("return_logprob", _NONE)) == b"true")


def introduce(ask: Ask, url: str, port: int | None, rng: random.Random) -> bytes:
    """The body for both workers of a pair, with rooms that no other request has; `url` and `port` are the prefill's."""
    rest = ask.body.rstrip(_BLANKS)[:-1].rstrip(_BLANKS)
    host, rooms = _host(url), ask.rooms
    if rooms is None:
        fields = _Fields(host, port, rng.getrandbits(ROOM_BITS))
    else:
        fields = _Fields([host] * rooms, [port] * rooms, [rng.getrandbits(ROOM_BITS) for _ in range(rooms)])
    return rest + (b"" if rest.endswith(b"{") else b",") + _encode(fields)[1:]


def merge(decoded: bytes, prefilled: bytes) -> bytes:
    """The decode worker's answer, with what the prefill worker's says of the prompt's tokens before what is there.

    Each is an object, or a list of them. Raises ValueError when they are no such answers.
    """
    try:
        if decoded.lstrip(_BLANKS).startswith(b"["):
            pairs = zip(_list(decoded), _list(prefilled), strict=True)
            return _encode([_merged(*pair) for pair in pairs])
        return _encode(_merged(msgspec.Raw(decoded), msgspec.Raw(prefilled)))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"the answers of the pair do not go together: {error}") from None


def _merged(decoded: msgspec.Raw, prefilled: msgspec.Raw) -> dict[str, object]:
    ours, theirs = _meta_info(decoded), _meta_info(prefilled)
    told: dict[str, object] = {**ours}
    told.update({name: _joined(theirs[name], ours.get(name)) for name in _OF_PROMPT if ours and name in theirs})
    answer: dict[str, object] = {**_fields(decoded)}
    return {**answer, "meta_info": told} if told else answer


def _meta_info(answer: msgspec.Raw) -> dict[str, msgspec.Raw]:
    return _fields(_fields(answer).get("meta_info", msgspec.Raw(b"{}")))


def _joined(first: msgspec.Raw, second: msgspec.Raw | None) -> object:
    """Two lists as one; what is null counts as an empty one."""
    lists = [_list(raw) for raw in (first, second) if raw is not None and bytes(raw) != b"null"]
    return [each for part in lists for each in part] if lists else first


def _prompts(fields: dict[str, msgspec.Raw]) -> int | None:
    """How many prompts there are in a list of them; None for one prompt, which may be a list of tokens."""
    for name in ("text", "input_ids", "prompt"):
        raw = fields.get(name, _NONE)
        inside = bytes(memoryview(raw)[:64]).lstrip(_BLANKS)
        if inside[:1] == b"[" and inside[1:].lstrip(_BLANKS)[:1] in (b'"', b"["):
            return len(_list(raw))
    return None


def _answers(n: msgspec.Raw) -> int | None:
    text = bytes(n)
    return int(text) if text.isdigit() and len(text) < 10 and int(text) > 1 else None


def _host(url: str) -> str:
    """The host of a worker's URL, with the brackets of an IPv6 address: the decode worker puts a port behind it."""
    host = urlsplit(url).hostname or ""
    return f"[{host}]" if ":" in host else host
