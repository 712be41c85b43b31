"""SGLang's /generate for engines that know only OpenAI's /v1/completions: the request there, the answer back. Pure.

What differs between the two is in the tables below; the rest goes through under its own name. An answer's text is
cumulative in a stream, and its token counts come with every event. What the engine does not tell is null: vLLM gives
the ids of a list of prompts (counted here), llama.cpp gives counts for single prompts and for streams only.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Raw, Struct

from router.errors import BadRequest

_MAX_NEW_TOKENS = 128  # SGLang's default; OpenAI's is 16

# What has no counterpart. To leave one of these out silently would answer another question than was asked.
_REFUSED = (
    "image_data",
    "video_data",
    "audio_data",
    "input_embeds",
    "session_params",
    "return_logprob",
    "return_hidden_states",
    "custom_logit_processor",
    "lora_path",
    "stop_regex",  # a sampling parameter
)
_EMPTY = (b"null", b"false", b"[]", b"{}", b'""')

# Sampling parameters whose names differ. Two names: vLLM's and llama.cpp's; each ignores fields it does not know.
_NAMES: dict[str, tuple[str, ...]] = {
    "max_new_tokens": ("max_tokens",),
    "min_new_tokens": ("min_tokens",),
    "sampling_seed": ("seed",),
    "repetition_penalty": ("repetition_penalty", "repeat_penalty"),
    "no_stop_trim": ("include_stop_str_in_output",),
    "ebnf": ("grammar",),  # llama.cpp
}
# Constraints on the output, as vLLM's `structured_outputs` calls them.
_STRUCTURED = {"json_schema": "json", "regex": "regex", "ebnf": "grammar"}

_OWN = ("text", "input_ids", "prompt", "sampling_params", "rid", "stream")
_NULL = Raw(b"null")
_DONE = b"data: [DONE]\n\n"


class _Details(Struct):
    cached_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Choice(Struct):
    """One answer, or in a stream the next piece of one. The ids are there when `return_token_ids` asked for them."""

    text: str = ""
    index: int = 0
    finish_reason: str | None = None
    stop_reason: int | str | None = None  # vLLM: the stop string or token; null for the end-of-sequence token
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class _Answer(Struct):
    choices: list[_Choice] | None = None
    id: str = ""
    usage: _Usage | None = None


class _Output(Struct):
    """What is known of one answer so far. Token counts are null until told."""

    text: str = ""
    finish_reason: str | None = None
    matched: int | str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_answer = msgspec.json.Decoder(_Answer).decode
_event = msgspec.json.Decoder(_Answer | None).decode  # llama.cpp begins the stream of a list with `data: null`
_encode = msgspec.json.Encoder().encode


class Translation:
    """One /generate request on its way to /v1/completions, and its answer on the way back.

    Shapes: SGLang's `GenerateReqInput` and `meta_info`, vLLM's `CompletionRequest`, llama.cpp's server as observed.
    Raises BadRequest when the request cannot be put in OpenAI's terms. `model` is the name that the worker knows;
    without one the body's own is kept, if any. A stream has state: each attempt at a worker needs its own Translation.
    """

    path = "/v1/completions"

    def __init__(self, body: bytes, model: str | None):
        fields = _object(body, "the request body")
        given = fields.get("sampling_params", _NULL)
        params = _object(given, "sampling_params") if bytes(given) != b"null" else {}
        prompt, listed = _prompt(fields)
        # A list of prompts, or several answers per prompt, is answered by a list.
        self._many = listed or bytes(params.get("n", b"1")) not in (b"1", b"null")
        self._rid = _string(fields.get("rid", _NULL))
        self.stream = bytes(fields.get("stream", _NULL)) == b"true"
        request: dict[str, object] = {name: raw for name, raw in fields.items() if name not in _OWN}
        request.update(_renamed(params))
        request.update(self._framing())
        request["prompt"] = prompt
        if model is not None:
            request["model"] = model
        self.body: bytes = _encode(request)

        self._rest = b""  # of the worker's stream: an incomplete line
        self._data: list[bytes] = []  # the data lines of an incomplete event
        self._outputs: dict[int, _Output] = {}
        self._id = ""
        self._held: _Output | None = None  # a finished single answer, until its usage has come

    def _framing(self) -> dict[str, object]:
        if self.stream:  # continuous: vLLM then tells the counts with each event, as SGLang does
            return {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        return {"return_token_ids": True} if self._many else {}

    def whole(self, body: bytes) -> bytes:
        """A complete answer. Raises ValueError when it is none."""
        try:
            answer = _answer(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"the worker's answer is not a completion: {error}") from None
        if not answer.choices:
            raise ValueError("the worker's answer is not a completion: it has no choices")
        alone = len(answer.choices) == 1  # else usage is the total (vLLM), or the first choice's (llama.cpp)
        choices = sorted(answer.choices, key=lambda choice: choice.index)
        shapes = [
            self._shape(choice.index, _output(choice, answer.usage if alone else None), answer.id) for choice in choices
        ]
        return _encode(shapes if self._many else shapes[0])

    def feed(self, data: bytes) -> bytes:
        """The next bytes of a stream, split anywhere; returns the events that they complete, maybe none.

        Comments are dropped: SGLang's clients take every line for data. Raises ValueError when an event is garbage.
        """
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        return b"".join([self._line(line) for line in lines])

    def finish(self) -> bytes:
        """What is left when the worker's stream came to its regular end. A torn last event is dropped."""
        torn, self._rest = self._rest, b""
        try:
            return self._line(torn) + self._line(b"") + self._release()
        except ValueError:
            return self._release()

    def _line(self, line: bytes) -> bytes:
        line = line.removesuffix(b"\r")
        if not line:
            event, self._data = b"\n".join(self._data), []
            return self._dispatch(event) if event else b""
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        return b""

    def _dispatch(self, event: bytes) -> bytes:
        if event == b"[DONE]":
            return self._release() + _DONE
        try:
            chunk = _event(event)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"the worker's stream is garbled: {error}") from None
        if chunk is None:
            return b""
        if chunk.choices is None:  # an error, in whatever shape
            return self._release() + b"data: " + event.replace(b"\n", b"\ndata: ") + b"\n\n"
        self._id = self._id or chunk.id
        if not chunk.choices:
            if self._held is not None and chunk.usage is not None:
                _count(self._held, chunk.usage)
            return self._release()
        return b"".join([self._piece(choice, chunk.usage) for choice in chunk.choices])

    def _piece(self, choice: _Choice, usage: _Usage | None) -> bytes:
        output = self._outputs.setdefault(choice.index, _Output())
        if usage is not None:
            _count(output, usage)
        elif choice.text:  # llama.cpp: one piece per token, the exact count comes at the end
            output.completion_tokens = (output.completion_tokens or 0) + 1
        _extend(output, choice)
        if output.finish_reason is not None and not self._many:
            self._held = output
            return b""
        return self._sse(choice.index, output) if choice.text or output.finish_reason else b""

    def _release(self) -> bytes:
        output, self._held = self._held, None
        return self._sse(0, output) if output is not None else b""

    def _sse(self, index: int, output: _Output) -> bytes:
        return b"data: " + _encode(self._shape(index, output, self._id)) + b"\n\n"

    def _shape(self, index: int, output: _Output, id: str) -> dict[str, object]:
        """SGLang's answer object; those of a list are numbered, and their ids too."""
        id = self._rid or id
        meta_info = {
            "id": f"{id}_{index}" if self._many else id,
            "finish_reason": _finish_reason(output),
            "prompt_tokens": output.prompt_tokens,
            "completion_tokens": output.completion_tokens,
            "cached_tokens": output.cached_tokens,
        }
        shape: dict[str, object] = {"text": output.text, "meta_info": meta_info}
        if self._many:
            shape["index"] = index
        return shape


def _object(raw: bytes | Raw, what: str) -> dict[str, Raw]:
    """The fields of a JSON object. Raises BadRequest for anything else, and for fields without a counterpart."""
    try:
        fields = _fields(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest(f"{what} is not a JSON object") from None
    for name in _REFUSED:
        if bytes(fields.get(name, _NULL)) not in _EMPTY:
            raise BadRequest(f"{name} is not available: the engine behind this model has no /generate", param=name)
    return fields


def _string(raw: Raw) -> str | None:
    """A JSON string's value, None for anything else. Raises BadRequest when it is not valid Unicode."""
    if not bytes(raw).startswith(b'"'):
        return None
    try:
        return msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRequest("the request body holds a string that is not valid Unicode") from None


def _schema(raw: Raw) -> Raw:
    """SGLang's JSON schema is JSON in a string, llama.cpp's is JSON."""
    text = _string(raw)
    try:
        return raw if text is None else msgspec.json.decode(text, type=Raw)
    except (msgspec.DecodeError, RecursionError):
        raise BadRequest("json_schema is not JSON", param="json_schema") from None


def _prompt(fields: dict[str, Raw]) -> tuple[Raw, bool]:
    """The prompt as it came, and whether it is a list of prompts. The engine checks what the first two bytes do not."""
    given = [name for name in ("text", "input_ids", "prompt") if bytes(fields.get(name, _NULL)) != b"null"]
    if len(given) != 1:
        raise BadRequest("give the prompt either as text or as input_ids")
    raw = fields[given[0]]
    text = bytes(raw)
    kind = text[:1] + text[1:].lstrip()[:1] if text[:1] == b"[" else text[:1]
    if kind not in (b'"', b'["', b"[[") and not kind[1:].isdigit():
        raise BadRequest(f"{given[0]} must be a string, a list of token ids, or a list of either", param=given[0])
    return raw, kind in (b'["', b"[[")


def _renamed(params: dict[str, Raw]) -> Iterable[tuple[str, object]]:
    """The sampling parameters under their OpenAI names. Null means the engine's default, as it does for SGLang."""
    yield "max_tokens", _MAX_NEW_TOKENS
    structured: dict[str, Raw] = {}
    for name, value in params.items():
        if bytes(value) == b"null" and name != "max_new_tokens":  # there it means: up to the context's end
            continue
        if name in _STRUCTURED:
            structured[_STRUCTURED[name]] = value
        for theirs in _NAMES.get(name, (name,)):
            yield theirs, _schema(value) if name == "json_schema" else value
    if structured:
        yield "structured_outputs", structured


def _extend(output: _Output, choice: _Choice) -> None:
    output.text += choice.text
    output.finish_reason = choice.finish_reason
    output.matched = choice.stop_reason


def _finish_reason(output: _Output) -> dict[str, str | int | None] | None:
    if output.finish_reason is None:
        return None
    if output.finish_reason == "stop":
        return {"type": "stop", "matched": output.matched}
    if output.finish_reason == "length":
        return {"type": "length", "length": output.completion_tokens}
    return {"type": output.finish_reason}


def _output(choice: _Choice, usage: _Usage | None) -> _Output:
    output = _Output()
    _extend(output, choice)
    if choice.token_ids is not None:
        output.completion_tokens = len(choice.token_ids)
    if choice.prompt_token_ids is not None:
        output.prompt_tokens = len(choice.prompt_token_ids)
    if usage is not None:
        _count(output, usage)
    return output


def _count(output: _Output, usage: _Usage) -> None:
    output.prompt_tokens = usage.prompt_tokens
    output.completion_tokens = usage.completion_tokens
    if usage.prompt_tokens_details is not None:
        output.cached_tokens = usage.prompt_tokens_details.cached_tokens
