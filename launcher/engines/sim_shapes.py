"""The bodies that the simulated engine reads and writes: SGLang's own, OpenAI's, Anthropic's, vLLM's. Pure.

A dialect turns a body into a Job, and a Reply into an answer: `whole` for a JSON one; `opening`, `token`, `closing` and
`ending` for the parts of an event stream.
"""

from __future__ import annotations

import base64
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from launcher.engines import sim_text

Body = Mapping[str, Any]
encode_json = msgspec.json.encode
DONE = b"data: [DONE]\n\n"


class BadBody(ValueError):
    """A body that cannot be served; the message is for people, `param` names the field."""

    def __init__(self, message: str, param: str | None = None):
        super().__init__(message)
        self.param = param

    def body(self) -> dict[str, object]:
        return error_body(str(self), "invalid_request_error", "bad_request", self.param)


def error_body(message: str, type: str, code: str, param: str | None = None) -> dict[str, object]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": type, "code": code, "param": param}}


@dataclass
class Job:
    """What a body asks for."""

    prompts: list[bytes]
    max_tokens: int = 0  # 0: prefill only
    stop: tuple[str, ...] = ()
    stream: bool = False
    copies: int = 1  # answers per prompt
    listed: bool = False  # the prompt was a list, so the answer is one
    rid: str | None = None


@dataclass
class Choice:
    """One answer: all of it is known at the start; `generated` tokens of it exist so far."""

    index: int
    prompt: bytes
    prompt_tokens: int
    text: str
    tokens: int
    matched: str | None = None  # the stop string that ends it
    generated: int = 0
    cached: int = 0  # prompt tokens found in the prefix cache
    finished: bool = False
    aborted: bool = False
    seconds: float = 0.0  # from arrival to end

    def upto(self, tokens: int) -> str:
        return self.text[: tokens * sim_text.BYTES_PER_TOKEN]

    def delta(self, token: int) -> str:
        size = sim_text.BYTES_PER_TOKEN
        return self.text[(token - 1) * size : token * size]

    @property
    def so_far(self) -> str:
        return self.upto(self.generated)

    @property
    def ends_by(self) -> str:
        return "abort" if self.aborted else "stop" if self.matched is not None else "length"


def choices_of(job: Job, limit: int) -> list[Choice]:
    """The answers to a job, decided. Raises BadBody when one would exceed `limit` tokens, its prompt included."""
    answers = [_choice(prompt, job, limit) for prompt in job.prompts for _ in range(job.copies)]
    for index, choice in enumerate(answers):
        choice.index = index
    return answers


def _choice(prompt: bytes, job: Job, limit: int) -> Choice:
    tokens = sim_text.count(prompt)
    if tokens + job.max_tokens > limit:
        raise BadBody(f"{tokens} prompt tokens and {job.max_tokens} to generate exceed the context of {limit} tokens")
    choice = Choice(0, prompt, tokens, sim_text.answer(prompt, job.max_tokens), job.max_tokens)
    found = [(at, stop) for stop in job.stop if stop and (at := choice.text.find(stop)) >= 0]
    if found:
        at, choice.matched = min(found)
        choice.tokens = -(-(at + len(choice.matched)) // sim_text.BYTES_PER_TOKEN)
        choice.text = choice.text[:at]
    return choice


@dataclass
class Reply:
    """The answers to one HTTP request, and what the shapes print around them."""

    id: str
    model: str
    created: int  # Unix seconds
    body: Body
    job: Job
    choices: list[Choice]
    serial: int = field(default=-1)  # of the last event, for streams that number them

    @property
    def prompt_tokens(self) -> int:
        return sum(choice.prompt_tokens for choice in self.choices[:: self.job.copies])

    @property
    def cached(self) -> int:
        return sum(choice.cached for choice in self.choices[:: self.job.copies])

    @property
    def generated(self) -> int:
        return sum(choice.generated for choice in self.choices)


# -- reading


def _tokens(body: Body, names: Sequence[str], default: int) -> int:
    for name in names:
        value = body.get(name)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise BadBody(f"{name} must be a whole number, 0 or more", name)
            return value
    return default


def _copies(body: Body) -> int:
    copies = body.get("n")
    if copies is None:
        return 1
    if isinstance(copies, bool) or not isinstance(copies, int) or not 1 <= copies <= 128:
        raise BadBody("n must be a whole number from 1 to 128", "n")
    return copies


def _stops(value: object, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise BadBody(f"{name} must be a string or a list of strings", name)
    return tuple(stops)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _ids(value: Sequence[object], name: str) -> bytes:
    if not all(isinstance(id, int) and not isinstance(id, bool) and 0 <= id < 2**32 for id in value):
        raise BadBody(f"{name} must hold token ids: whole numbers from 0 to 2^32 - 1", name)
    return sim_text.pack(value)  # type: ignore[arg-type]


def _prompts(value: object, name: str) -> tuple[list[bytes], bool]:
    """A string, a list of strings, token ids, or a list of those -> prompts, and whether it was a list of them."""
    if isinstance(value, str):
        return [_bytes(value)], False
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return [_bytes(item) for item in value], True
        if all(isinstance(item, list) for item in value):
            return [_ids(item, name) for item in value], True
        return [_ids(value, name)], False
    raise BadBody(f"{name} must be a string, a list of strings, token ids, or a list of those", name)


def _content(value: object) -> str:
    """A message's content: a string, or parts of which some have text."""
    if isinstance(value, list):
        return "".join(part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str))
    return value if isinstance(value, str) else ""


def _chat(messages: object, name: str, system: object = None) -> bytes:
    """The chat template. A conversation's next turn begins with all of this turn, its answer included."""
    if not isinstance(messages, list) or not messages or not all(isinstance(turn, dict) for turn in messages):
        raise BadBody(f"{name} must be a list of messages", name)
    turns = [{"role": "system", "content": system}] if system else []
    lines = [f"<|{turn.get('role', 'user')}|>\n{_content(turn.get('content'))}\n" for turn in [*turns, *messages]]
    return _bytes("".join(lines) + "<|assistant|>\n")


def _strings(body: Body, name: str) -> list[str]:
    value = body.get(name)
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not strings or not all(isinstance(item, (str, dict)) for item in strings):
        raise BadBody(f"{name} must be a string or a list of strings", name)
    return [item if isinstance(item, str) else _content([item]) for item in strings]


# -- writing


def sse(payload: object) -> bytes:
    return b"data: " + encode_json(payload) + b"\n\n"


def sse_event(payload: Mapping[str, object]) -> bytes:
    """An event with its type named twice, as Anthropic's API and OpenAI's responses do."""
    return b"event: " + str(payload["type"]).encode() + b"\n" + sse(payload)


def _usage(reply: Reply) -> dict[str, object]:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.generated,
        "total_tokens": reply.prompt_tokens + reply.generated,
        "prompt_tokens_details": {"cached_tokens": reply.cached},
    }


class Dialect:
    """One path's shapes. A dialect without a stream only needs `job` and `whole`."""

    def job(self, body: Body) -> Job:
        raise NotImplementedError

    def whole(self, reply: Reply) -> object:
        raise NotImplementedError

    def opening(self, reply: Reply) -> bytes:
        return b""

    def token(self, reply: Reply, choice: Choice, token: int) -> bytes:
        """The `token`-th token (from 1) of a choice."""
        return b""

    def closing(self, reply: Reply, choice: Choice) -> bytes:
        """A choice is finished."""
        return b""

    def ending(self, reply: Reply) -> bytes:
        return DONE


class Generate(Dialect):
    """SGLang's /generate. Streamed text is cumulative; the last event carries the finish reason."""

    def job(self, body: Body) -> Job:
        name = "text" if body.get("text") is not None else "input_ids"
        prompts, listed = _prompts(body.get(name), name)
        params = body.get("sampling_params") or {}
        if not isinstance(params, dict):
            raise BadBody("sampling_params must be an object", "sampling_params")
        rid = body.get("rid")
        return Job(
            prompts,
            _tokens(params, ("max_new_tokens",), 128),
            _stops(params.get("stop"), "stop"),
            body.get("stream") is True,
            copies=_copies(params),
            listed=listed,
            rid=rid if isinstance(rid, str) else None,
        )

    def whole(self, reply: Reply) -> object:
        answers = [self._answer(reply, choice, choice.generated) for choice in reply.choices]
        return answers if len(answers) > 1 or reply.job.listed else answers[0]

    def token(self, reply: Reply, choice: Choice, token: int) -> bytes:
        last = choice.finished and token == choice.generated and not choice.aborted
        return b"" if last else sse(self._answer(reply, choice, token))

    def closing(self, reply: Reply, choice: Choice) -> bytes:
        return sse(self._answer(reply, choice, choice.generated))

    def _answer(self, reply: Reply, choice: Choice, token: int) -> dict[str, object]:
        over = choice.finished and token == choice.generated
        many = len(reply.choices) > 1 or reply.job.listed
        meta: dict[str, object] = {
            "id": f"{reply.id}_{choice.index}" if many else reply.id,
            "finish_reason": self._reason(choice) if over else None,
            "prompt_tokens": choice.prompt_tokens,
            "completion_tokens": token,
            "cached_tokens": choice.cached,
        }
        if over:
            meta["e2e_latency"] = choice.seconds
        answer: dict[str, object] = {"text": choice.upto(token), "meta_info": meta}
        if many and reply.job.stream:
            answer["index"] = choice.index
        return answer

    def _reason(self, choice: Choice) -> dict[str, object]:
        if choice.aborted:
            return {"type": "abort", "message": "Aborted"}
        if choice.matched is not None:
            return {"type": "stop", "matched": choice.matched}
        return {"type": "length", "length": choice.tokens}


class Completions(Dialect):
    """OpenAI's /v1/completions."""

    prefix, kind, chunk_kind = "cmpl-", "text_completion", "text_completion"

    def job(self, body: Body) -> Job:
        prompts, listed = _prompts(body.get("prompt"), "prompt")
        return self._job(body, prompts, listed)

    def _job(self, body: Body, prompts: list[bytes], listed: bool) -> Job:
        return Job(
            prompts,
            _tokens(body, ("max_completion_tokens", "max_tokens"), 16),
            _stops(body.get("stop"), "stop"),
            body.get("stream") is True,
            copies=_copies(body),
            listed=listed,
        )

    def whole(self, reply: Reply) -> object:
        choices = [self._choice(choice) for choice in reply.choices]
        return self._frame(reply, self.kind, choices) | {"usage": _usage(reply)}

    def _choice(self, choice: Choice) -> dict[str, object]:
        return {"index": choice.index, "text": choice.so_far, "logprobs": None, "finish_reason": choice.ends_by}

    def token(self, reply: Reply, choice: Choice, token: int) -> bytes:
        return self._chunk(reply, choice, choice.delta(token), None)

    def closing(self, reply: Reply, choice: Choice) -> bytes:
        return self._chunk(reply, choice, "", choice.ends_by)

    def _chunk(self, reply: Reply, choice: Choice, text: str, reason: str | None) -> bytes:
        part = {"index": choice.index, "text": text, "logprobs": None, "finish_reason": reason}
        return sse(self._frame(reply, self.chunk_kind, [part]))

    def ending(self, reply: Reply) -> bytes:
        options = reply.body.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage") is True:
            return sse(self._frame(reply, self.chunk_kind, []) | {"usage": _usage(reply)}) + DONE
        return DONE

    def _frame(self, reply: Reply, kind: str, choices: list[dict[str, object]]) -> dict[str, object]:
        return {
            "id": self.prefix + reply.id,
            "object": kind,
            "created": reply.created,
            "model": reply.model,
            "choices": choices,
        }


class ChatCompletions(Completions):
    """OpenAI's /v1/chat/completions."""

    prefix, kind, chunk_kind = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def job(self, body: Body) -> Job:
        return self._job(body, [_chat(body.get("messages"), "messages")], False)

    def _choice(self, choice: Choice) -> dict[str, object]:
        message = {"role": "assistant", "content": choice.so_far}
        return {"index": choice.index, "message": message, "logprobs": None, "finish_reason": choice.ends_by}

    def opening(self, reply: Reply) -> bytes:
        start = {"role": "assistant", "content": ""}
        return b"".join(self._delta(reply, choice, start, None) for choice in reply.choices)

    def _chunk(self, reply: Reply, choice: Choice, text: str, reason: str | None) -> bytes:
        return self._delta(reply, choice, {"content": text} if reason is None else {}, reason)

    def _delta(self, reply: Reply, choice: Choice, delta: dict[str, str], reason: str | None) -> bytes:
        part = {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return sse(self._frame(reply, self.chunk_kind, [part]))


class Responses(Dialect):
    """OpenAI's /v1/responses."""

    def job(self, body: Body) -> Job:
        value = body.get("input")
        messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
        prompt = _chat(messages, "input", body.get("instructions"))
        return Job([prompt], _tokens(body, ("max_output_tokens",), 16), stream=body.get("stream") is True)

    def whole(self, reply: Reply) -> dict[str, object]:
        return self._response(reply, "completed", [self._item(reply, "completed")])

    def opening(self, reply: Reply) -> bytes:
        response = self._response(reply, "in_progress", [])
        return b"".join(
            (
                self._event(reply, "response.created", response=response),
                self._event(reply, "response.in_progress", response=response),
                self._event(reply, "response.output_item.added", output_index=0, item=self._item(reply, "in_progress")),
                self._event(reply, "response.content_part.added", **self._at(reply), part=self._part("")),
            )
        )

    def token(self, reply: Reply, choice: Choice, token: int) -> bytes:
        delta = choice.delta(token)
        return self._event(reply, "response.output_text.delta", **self._at(reply), delta=delta, logprobs=[])

    def closing(self, reply: Reply, choice: Choice) -> bytes:
        text = choice.so_far
        return b"".join(
            (
                self._event(reply, "response.output_text.done", **self._at(reply), text=text, logprobs=[]),
                self._event(reply, "response.content_part.done", **self._at(reply), part=self._part(text)),
                self._event(reply, "response.output_item.done", output_index=0, item=self._item(reply, "completed")),
                self._event(reply, "response.completed", response=self.whole(reply)),
            )
        )

    def ending(self, reply: Reply) -> bytes:
        return b""

    def _event(self, reply: Reply, type: str, **fields: object) -> bytes:
        reply.serial += 1
        return sse_event({"type": type, "sequence_number": reply.serial, **fields})

    def _at(self, reply: Reply) -> dict[str, Any]:
        return {"item_id": f"msg_{reply.id}", "output_index": 0, "content_index": 0}

    def _part(self, text: str) -> dict[str, object]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _item(self, reply: Reply, status: str) -> dict[str, object]:
        content = [self._part(reply.choices[0].so_far)] if status == "completed" else []
        return {
            "type": "message",
            "id": f"msg_{reply.id}",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _response(self, reply: Reply, status: str, output: list[dict[str, object]]) -> dict[str, object]:
        usage = {
            "input_tokens": reply.prompt_tokens,
            "input_tokens_details": {"cached_tokens": reply.cached},
            "output_tokens": reply.generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": reply.prompt_tokens + reply.generated,
        }
        return {
            "id": f"resp_{reply.id}",
            "object": "response",
            "created_at": reply.created,
            "status": status,
            "model": reply.model,
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "error": None,
            "incomplete_details": None,
            "usage": usage if status == "completed" else None,
        }


class Messages(Dialect):
    """Anthropic's /v1/messages."""

    def job(self, body: Body) -> Job:
        return Job(
            [_chat(body.get("messages"), "messages", _content(body.get("system")))],
            _tokens(body, ("max_tokens",), 16),
            _stops(body.get("stop_sequences"), "stop_sequences"),
            body.get("stream") is True,
        )

    def whole(self, reply: Reply) -> object:
        content = [{"type": "text", "text": reply.choices[0].so_far}]
        return self._message(reply, content) | self._stop(reply.choices[0])

    def opening(self, reply: Reply) -> bytes:
        message = self._message(reply, []) | {"stop_reason": None, "stop_sequence": None}
        block = {"type": "text", "text": ""}
        return sse_event({"type": "message_start", "message": message}) + sse_event(
            {"type": "content_block_start", "index": 0, "content_block": block}
        )

    def token(self, reply: Reply, choice: Choice, token: int) -> bytes:
        delta = {"type": "text_delta", "text": choice.delta(token)}
        return sse_event({"type": "content_block_delta", "index": 0, "delta": delta})

    def closing(self, reply: Reply, choice: Choice) -> bytes:
        usage = {"output_tokens": choice.generated}
        return sse_event({"type": "content_block_stop", "index": 0}) + sse_event(
            {"type": "message_delta", "delta": self._stop(choice), "usage": usage}
        )

    def ending(self, reply: Reply) -> bytes:
        return sse_event({"type": "message_stop"})

    def _stop(self, choice: Choice) -> dict[str, object]:
        reason = "max_tokens" if choice.matched is None else "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": choice.matched}

    def _message(self, reply: Reply, content: list[dict[str, str]]) -> dict[str, object]:
        usage = {
            "input_tokens": reply.prompt_tokens - reply.cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": reply.cached,
            "output_tokens": reply.generated,
        }
        return {
            "id": f"msg_{reply.id}",
            "type": "message",
            "role": "assistant",
            "model": reply.model,
            "content": content,
            "usage": usage,
        }


_DIMENSIONS = 64


class Embeddings(Dialect):
    """OpenAI's /v1/embeddings."""

    def job(self, body: Body) -> Job:
        _tokens(body, ("dimensions",), 0)
        return Job(_prompts(body.get("input"), "input")[0])

    def whole(self, reply: Reply) -> object:
        size = min(_tokens(reply.body, ("dimensions",), _DIMENSIONS) or _DIMENSIONS, 4_096)
        data = [
            {"object": "embedding", "index": choice.index, "embedding": self._vector(reply, choice, size)}
            for choice in reply.choices
        ]
        usage = {"prompt_tokens": reply.prompt_tokens, "total_tokens": reply.prompt_tokens}
        return {"object": "list", "data": data, "model": reply.model, "usage": usage}

    def _vector(self, reply: Reply, choice: Choice, size: int) -> object:
        vector = sim_text.embedding(choice.prompt, size)
        if reply.body.get("encoding_format") == "base64":  # what the openai package asks for: little-endian float32
            return base64.b64encode(array("f", vector).tobytes()).decode()
        return vector


class Encode(Dialect):
    """SGLang's /encode, and its /classify: a vector for each text."""

    def __init__(self, dimensions: int):
        self.dimensions = dimensions

    def job(self, body: Body) -> Job:
        name = next((name for name in ("text", "input_ids", "input") if body.get(name) is not None), "text")
        prompts, listed = _prompts(body.get(name), name)
        return Job(prompts, listed=listed)

    def whole(self, reply: Reply) -> object:
        answers = [
            {
                "embedding": sim_text.embedding(choice.prompt, self.dimensions),
                "meta_info": {
                    "id": reply.id,
                    "finish_reason": {"type": "length", "length": 0},
                    "prompt_tokens": choice.prompt_tokens,
                    "cached_tokens": choice.cached,
                    "e2e_latency": choice.seconds,
                },
            }
            for choice in reply.choices
        ]
        return answers if reply.job.listed else answers[0]


class Rerank(Dialect):
    """vLLM's /rerank (Jina's shape), and SGLang's /v1/rerank, which is a bare list."""

    def __init__(self, bare: bool):
        self.bare = bare

    def job(self, body: Body) -> Job:
        query = body.get("query")
        if not isinstance(query, str):
            raise BadBody("query must be a string", "query")
        _tokens(body, ("top_n",), 0)
        return Job([_bytes(f"{query}\n{text}") for text in _strings(body, "documents")])

    def whole(self, reply: Reply) -> object:
        query, documents = _bytes(reply.body["query"]), _strings(reply.body, "documents")
        scored = [(sim_text.similarity(query, _bytes(text)), at, text) for at, text in enumerate(documents)]
        scored.sort(key=lambda item: (-item[0], item[1]))
        scored = scored[: _tokens(reply.body, ("top_n",), 0) or None]
        if self.bare:
            return [{"score": score, "document": text, "index": at, "meta_info": None} for score, at, text in scored]
        results = [{"index": at, "document": {"text": text}, "relevance_score": score} for score, at, text in scored]
        usage = {"total_tokens": reply.prompt_tokens}
        return {"id": f"rerank-{reply.id}", "model": reply.model, "usage": usage, "results": results}


class Score(Dialect):
    """SGLang's query and items, each with a probability for every label; vLLM's text_1 and text_2, with one score."""

    def job(self, body: Body) -> Job:
        if body.get("text_1") is not None:
            pairs = self._pairs(body)
            return Job([_bytes(f"{a}\n{b}") for a, b in pairs])
        query, items = _prompts(body.get("query"), "query")[0], _prompts(body.get("items"), "items")[0]
        return Job([query[0] + item for item in items])

    def whole(self, reply: Reply) -> object:
        usage = {"prompt_tokens": reply.prompt_tokens, "total_tokens": reply.prompt_tokens}
        if reply.body.get("text_1") is not None:
            data = [
                {"index": at, "object": "score", "score": sim_text.similarity(_bytes(a), _bytes(b))}
                for at, (a, b) in enumerate(self._pairs(reply.body))
            ]
            frame = {"id": f"score-{reply.id}", "object": "list", "created": reply.created, "model": reply.model}
            return frame | {"data": data, "usage": usage}
        labels = reply.body.get("label_token_ids")
        size = len(labels) if isinstance(labels, list) and labels else 2
        scores = [[x * x for x in sim_text.embedding(choice.prompt, size)] for choice in reply.choices]
        return {"object": "scoring", "model": reply.model, "scores": scores, "usage": usage}

    def _pairs(self, body: Body) -> list[tuple[str, str]]:
        left, right = _strings(body, "text_1"), _strings(body, "text_2")
        if len(left) == 1:
            left = left * len(right)
        if len(left) != len(right):
            raise BadBody("text_1 must hold one text, or as many as text_2", "text_1")
        return list(zip(left, right, strict=True))


# What the engine computes; the paths are those that the router passes on.
DIALECTS: dict[str, Dialect] = {
    "/generate": Generate(),
    "/v1/completions": Completions(),
    "/v1/chat/completions": ChatCompletions(),
    "/v1/responses": Responses(),
    "/v1/messages": Messages(),
    "/v1/embeddings": Embeddings(),
    "/v1/rerank": Rerank(bare=True),
    "/rerank": Rerank(bare=False),
    "/v1/score": Score(),
    "/score": Score(),
    "/classify": Encode(dimensions=2),
    "/encode": Encode(dimensions=_DIMENSIONS),
}


# -- what needs no engine


def tokenize(body: Body) -> object:
    """{"prompt" or "messages"} -> {"tokens", "count"}."""
    if body.get("messages") is not None:
        prompts, listed = [_chat(body["messages"], "messages")], False
    else:
        prompts, listed = _prompts(body.get("prompt"), "prompt")
    ids = [sim_text.encode(prompt) for prompt in prompts]
    counts = [len(each) for each in ids]
    return {"tokens": ids, "count": counts} if listed else {"tokens": ids[0], "count": counts[0]}


def detokenize(body: Body) -> object:
    """{"tokens"} -> the text, under vLLM's name and SGLang's."""
    tokens = body.get("tokens")
    if not isinstance(tokens, list):
        raise BadBody("tokens must be a list of token ids", "tokens")
    _ids(tokens, "tokens")
    text = sim_text.decode(tokens)
    return {"prompt": text, "text": text}


IMMEDIATE: dict[str, Callable[[Body], object]] = {"/tokenize": tokenize, "/detokenize": detokenize}
