"""The API's description as data: OpenAPI 3.0, one row for each path and method. Pure.

Inference bodies are the engine's: the fields named here are those that the router reads, and those used most. Whatever
else a request holds is passed on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from router.api.trust import LEVELS, Level

Json = dict[str, Any]

API_VERSION = "1.0"  # of the paths and shapes described here, not of the program

ABOUT = """One address for all workers of this node.

**Inference** paths are passed on byte for byte to the worker that the routing policy picks; they need the `--api-key`,
if one is set. **Control** paths need the `--admin-api-key`; without one they answer callers on this machine only. Keys
are sent as `Authorization: Bearer KEY` or `x-api-key: KEY`."""

TAGS = {
    "Inference": "Passed on to a worker.",
    "Models": "What the workers serve.",
    "Health": "For probes and load balancers.",
    "Workers": "Membership; SGLang's paths and their REST form.",
    "Nodes": "Membership; LMDeploy's paths.",
    "Metrics": "Load and Prometheus metrics.",
    "Pages": "For people.",
}


class Operation(NamedTuple):
    """One row: what is asked, with what, and what comes back. `answers` maps a status to (meaning, content)."""

    tag: str
    method: str
    path: str
    summary: str
    answers: dict[int, tuple[str, Json]]
    body: Json | None = None
    params: tuple[Json, ...] = ()


# -- building blocks


def _object(required: tuple[str, ...] = (), /, **properties: Json) -> Json:
    schema: Json = {"type": "object", "properties": properties}
    return {**schema, "required": list(required)} if required else schema


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _told(schema: Json, description: str) -> Json:
    return {**schema, "description": description}


def _maybe(schema: Json) -> Json:
    return {**schema, "nullable": True}


def _json(schema: Json, example: object = None) -> Json:
    return {"application/json": {"schema": schema} if example is None else {"schema": schema, "example": example}}


def _text(example: str) -> Json:
    return {"text/plain": {"schema": STRING, "example": example}}


def _param(name: str, where: str, description: str, schema: Json, example: object = None) -> Json:
    made = {"name": name, "in": where, "description": description, "schema": schema, "required": where == "path"}
    return made if example is None else {**made, "example": example}


STRING, NUMBER, INTEGER, BOOLEAN = ({"type": name} for name in ("string", "number", "integer", "boolean"))
ANYTHING: Json = {"type": "object", "additionalProperties": True}
URL = "http://worker1:30001"

MODEL = _told(STRING, "Goes to a worker that serves it; left out: to any worker")
STREAM = _told(BOOLEAN, "Answer as server-sent events")
PROMPT = {"oneOf": [STRING, _list(STRING), _list(INTEGER)]}
MESSAGES = _list(_object(("role", "content"), role=STRING, content={"oneOf": [STRING, _list(ANYTHING)]}))
CHAT_EXAMPLE = [{"role": "user", "content": "Why is the sky blue?"}]

# -- components

WORKER_EXAMPLE = {
    "id": "w0",
    "url": URL,
    "worker_type": "regular",
    "state": "ready",
    "healthy": True,
    "inflight": 3,
    "prefill_outstanding": 512,
    "node": None,
    "devices": ["0"],
    "pid": 4711,
    "restarts": 0,
    "models": ["meta-llama/Llama-3.1-8B-Instruct"],
    "speed": None,
    "kv_tokens": 420_656,
    "bootstrap_port": None,
    "waiting": None,
    "last_error": None,
}
WORKER_TYPE = _told({"type": "string", "enum": ["regular", "prefill", "decode"]}, "What of a request it does")
BOOTSTRAP_PORT = _told(_maybe(INTEGER), "Where a prefill worker meets decode workers; null: the engine's default")
STATES = ["starting", "ready", "unhealthy", "draining", "backoff", "failed", "stopped"]

SCHEMAS: dict[str, Json] = {
    "Worker": _object(
        tuple(WORKER_EXAMPLE),
        id=STRING,
        url=STRING,
        worker_type=WORKER_TYPE,
        state={"type": "string", "enum": STATES},
        healthy=BOOLEAN,
        inflight=_told(INTEGER, "Requests under way on it"),
        prefill_outstanding=_told(INTEGER, "Estimated prompt tokens that it has yet to compute"),
        node=_told(_maybe(STRING), "Of a cluster, where it runs"),
        devices=_told(_list(STRING), "GPUs; empty for a worker started elsewhere"),
        pid=_told(_maybe(INTEGER), "The engine's process, when launched here"),
        restarts=INTEGER,
        models=_told(_list(STRING), "Empty until it has told; it then takes requests for any model"),
        speed=_told(_maybe(NUMBER), "Relative throughput, as given by whoever added it"),
        kv_tokens=_told(_maybe(INTEGER), "What its KV cache holds; null when its engine does not tell"),
        bootstrap_port=BOOTSTRAP_PORT,
        waiting=_told(_maybe(STRING), "Why it has no place in a cluster yet"),
        last_error=_maybe(STRING),
    ),
    "Node": _object(
        ("role", "models", "unfinished", "latency", "speed"),
        role=_told(INTEGER, "1: prefill and decode; 2: prefill; 3: decode"),
        models=_list(STRING),
        unfinished=_told(INTEGER, "Requests under way on it"),
        latency=_told(_list(NUMBER), "Seconds, the last 15 successful requests, newest last"),
        speed=_maybe(NUMBER),
    ),
    "Model": _object(
        ("id", "object", "created", "owned_by"),
        id=STRING,
        object=STRING,
        created=INTEGER,
        owned_by=STRING,
        root=STRING,
    ),
    "Error": _object(
        ("error",),
        error=_object(
            ("message", "type", "code", "param"), message=STRING, type=STRING, code=STRING, param=_maybe(STRING)
        ),
    ),
    "Readiness": _object(
        ("status", "healthy_workers", "total_workers"),
        status=STRING,
        reason=_told(STRING, "Only when not ready"),
        healthy_workers=INTEGER,
        total_workers=INTEGER,
    ),
    "Flush": _object(
        ("status", "message", "workers_flushed", "total_workers", "successful", "failed"),
        status={"type": "string", "enum": ["success", "partial_success", "error"]},
        message=STRING,
        workers_flushed=INTEGER,
        total_workers=INTEGER,
        successful=_list(STRING),
        failed=_list(_object(("worker", "error"), worker=STRING, error=STRING)),
    ),
}

# -- answers

ERRORS = {
    400: "Cannot be understood, or makes no sense",
    401: "The key is missing or wrong",
    403: "Not from here: another machine, or another site's page",
    404: "Not found",
    413: "Larger than --max-payload-size",
    429: "The queue is full; see Retry-After",
    502: "The workers failed",
    503: "No worker can serve this now; see Retry-After",
    504: "Not in time",
}


def _errors(*statuses: int) -> dict[int, tuple[str, Json]]:
    return {status: (ERRORS[status], _json(_ref("Error"))) for status in statuses}


def _ok(content: Json, meaning: str = "Done") -> dict[int, tuple[str, Json]]:
    return {200: (meaning, content)}


ONE_WORKER = _json(_ref("Worker"), WORKER_EXAMPLE)
FLUSHED = {
    "status": "success",
    "message": "flushed 1 of 1 workers, and the router's prefix index",
    "workers_flushed": 1,
    "total_workers": 1,
    "successful": [URL],
    "failed": [],
}
REFUSED = [{"worker": "http://worker2:30001", "error": "HTTP 404"}]
SOME_FLUSHED = {
    **FLUSHED,
    "status": "partial_success",
    "message": "flushed 1 of 2 workers, and the router's prefix index",
    "total_workers": 2,
    "failed": REFUSED,
}
NONE_FLUSHED = {
    **FLUSHED,
    "status": "error",
    "message": "flushed 0 of 1 workers, and the router's prefix index",
    "workers_flushed": 0,
    "successful": [],
    "failed": REFUSED,
}
READY = {"status": "ready", "healthy_workers": 4, "total_workers": 4}
NOT_READY = {"status": "not ready", "reason": "no healthy worker", "healthy_workers": 0, "total_workers": 4}
NODE_EXAMPLE = {"role": 1, "models": ["m"], "unfinished": 0, "latency": [1.5], "speed": None}
CARD = {"id": "m", "object": "model", "created": 0, "owned_by": "llm-launch", "root": "m"}
NODE_BODY = _json(_object(("url",), url=STRING), {"url": URL})

PAGE = {"text/html": {"schema": STRING, "example": "<!doctype html>"}}
EVENTS = 'event: snapshot\ndata: {"sample":{"time":1700000000.0},"draining":false,"workers":[]}\n\n'

WORKER_URL = _param("url", "query", "The worker's URL: scheme, host and port", STRING, URL)
NODE_URL = _param("node_url", "query", "Older form of the body's url", STRING)
WORKER_ID = _param("id", "path", "The worker's id, or its URL (percent-encoded)", STRING, "w0")
FORCE = _param("force", "query", "Do not wait for the requests under way", BOOLEAN)
LINES = _param("lines", "query", "How many of its last lines", {**INTEGER, "minimum": 1, "maximum": 1000})
AFTER = _param("after", "query", "Instead of the last lines, all since an earlier answer: its `next`", STRING)
WAIT = _param("wait", "query", "false: answer 202 at once, and go on watching it", BOOLEAN)

# -- inference: path, summary, fields, required fields, example

INFERENCE: list[tuple[str, str, dict[str, Json], tuple[str, ...], Json]] = [
    (
        "/generate",
        "Complete a text; works on every engine, translated where it has no such path",
        {
            "text": PROMPT,
            "input_ids": _list(INTEGER),
            "sampling_params": _object(
                max_new_tokens=INTEGER,
                temperature=NUMBER,
                top_p=NUMBER,
                stop={"oneOf": [STRING, _list(STRING)]},
            ),
            "stream": STREAM,
        },
        (),
        {"text": "The capital of France is", "sampling_params": {"max_new_tokens": 16, "temperature": 0}},
    ),
    (
        "/v1/chat/completions",
        "Answer a conversation (OpenAI)",
        {"model": MODEL, "messages": MESSAGES, "max_tokens": INTEGER, "temperature": NUMBER, "stream": STREAM},
        ("messages",),
        {"model": "m", "messages": CHAT_EXAMPLE, "max_tokens": 64},
    ),
    (
        "/v1/completions",
        "Complete a text (OpenAI)",
        {"model": MODEL, "prompt": PROMPT, "max_tokens": INTEGER, "temperature": NUMBER, "stream": STREAM},
        ("prompt",),
        {"model": "m", "prompt": "Once upon a time", "max_tokens": 64},
    ),
    (
        "/v1/embeddings",
        "Embed texts (OpenAI)",
        {"model": MODEL, "input": PROMPT},
        ("input",),
        {"model": "m", "input": ["a text", "another"]},
    ),
    (
        "/v1/responses",
        "Answer, with tools and state where the engine has them (OpenAI)",
        {"model": MODEL, "instructions": STRING, "input": {"oneOf": [STRING, _list(ANYTHING)]}, "stream": STREAM},
        ("input",),
        {"model": "m", "input": "Why is the sky blue?"},
    ),
    (
        "/v1/messages",
        "Answer a conversation (Anthropic)",
        {"model": MODEL, "system": STRING, "messages": MESSAGES, "max_tokens": INTEGER, "stream": STREAM},
        ("messages", "max_tokens"),
        {"model": "m", "messages": CHAT_EXAMPLE, "max_tokens": 64},
    ),
    (
        "/v1/rerank",
        "Order documents by how well they fit a query",
        {"model": MODEL, "query": STRING, "documents": _list(STRING)},
        ("query", "documents"),
        {"model": "m", "query": "capital of France", "documents": ["Paris", "Rome"]},
    ),
    (
        "/v1/score",
        "Score items against a query",
        {"model": MODEL, "query": PROMPT, "items": PROMPT},
        (),
        {"model": "m", "query": "Is this a fruit?", "items": ["apple", "car"]},
    ),
    (
        "/rerank",
        "Order documents by how well they fit a query",
        {"model": MODEL, "query": STRING, "documents": _list(STRING)},
        ("query", "documents"),
        {"query": "capital of France", "documents": ["Paris", "Rome"]},
    ),
    (
        "/score",
        "Score pairs of texts",
        {"model": MODEL, "text_1": PROMPT, "text_2": PROMPT},
        (),
        {"model": "m", "text_1": "a fruit", "text_2": ["apple", "car"]},
    ),
    (
        "/classify",
        "Classify a text",
        {"model": MODEL, "text": PROMPT},
        (),
        {"text": "I like it"},
    ),
    (
        "/encode",
        "Embed a text (SGLang)",
        {"model": MODEL, "text": PROMPT},
        (),
        {"text": "a text"},
    ),
    (
        "/tokenize",
        "Text to token ids",
        {"model": MODEL, "prompt": STRING},
        (),
        {"model": "m", "prompt": "a text"},
    ),
    (
        "/detokenize",
        "Token ids to text",
        {"model": MODEL, "tokens": _list(INTEGER)},
        (),
        {"model": "m", "tokens": [1, 2, 3]},
    ),
]

# What engines answer to these: examples, of which the schemas are made; an engine may leave out or add what it likes.
TOKENS = {"prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 4}}
CHAT = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "m"}
CHAT_CHOICE = {"index": 0, "message": {"role": "assistant", "content": " Scattering."}, "finish_reason": "stop"}
TEXT = {"id": "cmpl-1", "object": "text_completion", "created": 1_700_000_000, "model": "m"}
RANKED = {"id": "rerank-1", "model": "m", "results": [{"index": 0, "relevance_score": 0.98}]}
SCORED = {"id": "score-1", "object": "list", "model": "m", "data": [{"index": 0, "object": "score", "score": 0.98}]}
RESPONSE_TEXT = {"type": "output_text", "text": " Scattering.", "annotations": []}
RESPONSE_OUT = {"type": "message", "role": "assistant", "content": [RESPONSE_TEXT]}
ANSWERS: dict[str, Json] = {
    "/generate": {
        "text": " Paris.",
        "meta_info": {
            "id": "1",
            "finish_reason": {"type": "stop"},
            "prompt_tokens": 6,
            "completion_tokens": 2,
            "cached_tokens": 4,
        },
    },
    "/v1/chat/completions": {**CHAT, "choices": [CHAT_CHOICE], "usage": TOKENS},
    "/v1/completions": {
        **TEXT,
        "choices": [{"index": 0, "text": " there was", "finish_reason": "length"}],
        "usage": TOKENS,
    },
    "/v1/embeddings": {
        "object": "list",
        "model": "m",
        "data": [{"index": 0, "object": "embedding", "embedding": [0.1, -0.2]}],
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    },
    "/v1/responses": {
        "id": "resp_1",
        "object": "response",
        "model": "m",
        "status": "completed",
        "output": [RESPONSE_OUT],
        "usage": {"input_tokens": 6, "output_tokens": 2, "total_tokens": 8},
    },
    "/v1/messages": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": " Scattering."}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 6, "output_tokens": 2},
    },
    "/v1/rerank": RANKED,
    "/v1/score": SCORED,
    "/rerank": RANKED,
    "/score": SCORED,
    "/classify": {"data": [{"index": 0, "label": "POSITIVE", "probs": [0.1, 0.9], "num_classes": 2}]},
    "/encode": {"embedding": [0.1, -0.2], "meta_info": {"id": "1", "prompt_tokens": 3}},
    "/tokenize": {"tokens": [1, 2, 3], "count": 3, "max_model_len": 8192},
    "/detokenize": {"prompt": "a text"},
}
# Their events, where they stream.
STREAMS: dict[str, str] = {
    "/generate": 'data: {"text":" Paris","meta_info":{"completion_tokens":1}}\n\ndata: [DONE]\n\n',
    "/v1/chat/completions": 'data: {"choices":[{"index":0,"delta":{"content":" Scattering"}}]}\n\ndata: [DONE]\n\n',
    "/v1/completions": 'data: {"choices":[{"index":0,"text":" there"}]}\n\ndata: [DONE]\n\n',
    "/v1/responses": 'event: response.output_text.delta\ndata: {"delta":" Scattering"}\n\n',
    "/v1/messages": 'event: content_block_delta\ndata: {"delta":{"type":"text_delta","text":" Scattering"}}\n\n',
}
MODEL_INFO = {"model_path": "m", "tokenizer_path": "m", "is_generation": True}
SERVER_INFO = {"model_path": "m", "tp_size": 1, "max_total_num_tokens": 420_656}


def _shape(example: object) -> Json:
    """The schema of what looks like this example; nothing is required."""
    if isinstance(example, dict):
        return {"type": "object", "properties": {name: _shape(value) for name, value in example.items()}}
    if isinstance(example, list):
        return {"type": "array", "items": _shape(example[0]) if example else {}}
    kinds: dict[type, Json] = {bool: BOOLEAN, int: INTEGER, float: NUMBER, str: STRING}
    return kinds.get(type(example), {})


def _inference(path: str, summary: str, fields: dict[str, Json], required: tuple[str, ...], example: Json) -> Operation:
    body = _json({**_object(required, **fields), "additionalProperties": True}, example)
    content = _json(_shape(ANSWERS[path]), ANSWERS[path])
    if path in STREAMS:
        content["text/event-stream"] = {"schema": _told(STRING, "With stream: true"), "example": STREAMS[path]}
    answers = _ok(content, "The worker's answer, as it came") | _errors(400, 401, 404, 413, 429, 502, 503, 504)
    return Operation("Inference", "post", path, summary, answers, body)


def _info(path: str, what: str, example: Json) -> Operation:
    answers = _ok(_json(_shape(example), example), "The engine's answer, as it came") | _errors(401, 404, 502, 503)
    return Operation("Models", "get", path, what, answers)


# -- every operation

OPERATIONS: list[Operation] = [
    *(_inference(*row) for row in INFERENCE),
    Operation(
        "Models",
        "get",
        "/v1/models",
        "All models that some worker serves, each once",
        _ok(
            _json(
                _object(("object", "data"), object=STRING, data=_list(_ref("Model"))),
                {"object": "list", "data": [CARD]},
            )
        )
        | _errors(401),
    ),
    Operation(
        "Models",
        "get",
        "/v1/models/{model}",
        "One model",
        _ok(_json(_ref("Model"), CARD)) | _errors(401, 404),
        params=(_param("model", "path", "Its name; may hold slashes", STRING, "m"),),
    ),
    _info("/get_model_info", "A ready worker's account of its model (SGLang)", MODEL_INFO),
    _info("/model_info", "A ready worker's account of its model (SGLang's newer name)", MODEL_INFO),
    _info("/get_server_info", "A ready worker's settings (SGLang)", SERVER_INFO),
    _info("/server_info", "A ready worker's settings (SGLang's newer name)", SERVER_INFO),
    Operation("Health", "get", "/health", "Whether the router runs", _ok(_text("OK"))),
    Operation("Health", "get", "/liveness", "Whether the router runs", _ok(_text("OK"))),
    Operation(
        "Health",
        "get",
        "/readiness",
        "Whether a worker can serve, and the router is not shutting down",
        _ok(_json(_ref("Readiness"), READY), "Ready") | {503: ("Not ready", _json(_ref("Readiness"), NOT_READY))},
    ),
    Operation(
        "Health",
        "get",
        "/health_generate",
        "Whether some worker generates a token",
        _ok(_text("OK")) | _errors(401, 503),
    ),
    Operation(
        "Workers",
        "post",
        "/add_worker",
        "Add a worker and wait until it is healthy",
        _ok(_text(f"Successfully added worker: {URL}"))
        | {202: ("Accepted, and watched from now on (wait=false)", _text(f"Accepted worker: {URL}"))}
        | _errors(400, 401, 403, 504),
        params=(
            {**WORKER_URL, "required": True},
            WAIT,
            _param("worker_type", "query", "With --pd-disaggregation: prefill or decode", WORKER_TYPE),
            _param("bootstrap_port", "query", "Of a prefill worker", INTEGER),
        ),
    ),
    Operation(
        "Workers",
        "post",
        "/remove_worker",
        "Drain a worker and remove it",
        _ok(_text(f"Successfully removed worker: {URL}")) | _errors(400, 401, 403, 404),
        params=({**WORKER_URL, "required": True}, FORCE),
    ),
    Operation(
        "Workers",
        "get",
        "/list_workers",
        "The workers' URLs",
        _ok(_json(_object(("urls",), urls=_list(STRING)), {"urls": [URL]})) | _errors(401, 403),
    ),
    Operation(
        "Workers",
        "get",
        "/workers",
        "All workers and how they are",
        _ok(
            _json(
                _object(("workers", "total"), workers=_list(_ref("Worker")), total=INTEGER),
                {"workers": [WORKER_EXAMPLE], "total": 1},
            )
        )
        | _errors(401, 403),
    ),
    Operation(
        "Workers",
        "post",
        "/workers",
        "Add a worker",
        {201: ("Added, and healthy", ONE_WORKER), 202: ("Accepted, and watched from now on (wait: false)", ONE_WORKER)}
        | _errors(400, 401, 403, 504),
        _json(
            _object(
                ("url",),
                url=STRING,
                models=_list(STRING),
                speed=_maybe(NUMBER),
                worker_type=WORKER_TYPE,
                bootstrap_port=BOOTSTRAP_PORT,
                wait=BOOLEAN,
            ),
            {"url": URL},
        ),
    ),
    Operation(
        "Workers",
        "post",
        "/workers/restart",
        "Restart the workers launched here, one at a time, losing no request",
        _ok(
            _json(
                _object(("restarted", "skipped"), restarted=_list(STRING), skipped=_list(STRING)),
                {"restarted": [URL], "skipped": []},
            )
        )
        | _errors(401, 403, 502),
    ),
    Operation(
        "Workers",
        "get",
        "/workers/{id}",
        "One worker",
        _ok(ONE_WORKER) | _errors(401, 403, 404),
        params=(WORKER_ID,),
    ),
    Operation(
        "Workers",
        "delete",
        "/workers/{id}",
        "Drain a worker and remove it",
        _ok(
            _json(
                _object(("status", "message"), status=STRING, message=STRING),
                {"status": "success", "message": f"Successfully removed worker: {URL}"},
            )
        )
        | _errors(401, 403, 404),
        params=(WORKER_ID, FORCE),
    ),
    Operation(
        "Workers",
        "post",
        "/workers/{id}/drain",
        "Send it no new requests",
        _ok(ONE_WORKER) | _errors(401, 403, 404),
        params=(WORKER_ID,),
    ),
    Operation(
        "Workers",
        "post",
        "/workers/{id}/undrain",
        "Send it requests again",
        _ok(ONE_WORKER) | _errors(401, 403, 404),
        params=(WORKER_ID,),
    ),
    Operation(
        "Workers",
        "post",
        "/workers/{id}/restart",
        "Drain and restart a worker that was launched here",
        _ok(ONE_WORKER) | _errors(400, 401, 403, 404, 502),
        params=(WORKER_ID,),
    ),
    Operation(
        "Workers",
        "get",
        "/workers/{id}/logs",
        "What a worker that was launched here wrote",
        _ok(
            _json(
                _object(("worker", "lines", "next"), worker=STRING, lines=_list(STRING), next=STRING),
                {"worker": "w0", "lines": ["INFO: Application startup complete."], "next": "w0.1.log:5120"},
            )
        )
        | _errors(400, 401, 403, 404),
        params=(WORKER_ID, LINES, AFTER),
    ),
    Operation(
        "Workers",
        "post",
        "/flush_cache",
        "Have all workers drop their prefix caches",
        _ok(_json(_ref("Flush"), FLUSHED), "All did")
        | {206: ("Some did", _json(_ref("Flush"), SOME_FLUSHED)), 502: ("None did", _json(_ref("Flush"), NONE_FLUSHED))}
        | _errors(401, 403),
    ),
    Operation(
        "Nodes",
        "get",
        "/nodes/status",
        "All nodes and how they are, by URL",
        _ok(_json({"type": "object", "additionalProperties": _ref("Node")}, {URL: NODE_EXAMPLE})) | _errors(401, 403),
    ),
    Operation(
        "Nodes",
        "post",
        "/nodes/add",
        "Register a node; one that names its models is taken at its word and watched, any other must answer now",
        _ok(_json(STRING, "Added successfully")) | _errors(400, 401, 403),
        _json(
            _object(
                ("url",),
                url=STRING,
                status=_maybe(_object(models=_list(STRING), speed=_maybe(NUMBER), role=INTEGER)),
            ),
            {"url": URL, "status": {"models": ["m"], "speed": 120, "role": 1}},
        ),
    ),
    Operation(
        "Nodes",
        "post",
        "/nodes/remove",
        "Drain a node and remove it",
        _ok(_json(STRING, "Deleted successfully")) | _errors(400, 401, 403, 404),
        NODE_BODY,
        (NODE_URL,),
    ),
    Operation(
        "Nodes",
        "post",
        "/nodes/terminate",
        "Ask a node's engine to stop, and remove it",
        _ok(_json(STRING, "Terminated successfully")) | _errors(400, 401, 403, 404, 502),
        NODE_BODY,
        (NODE_URL,),
    ),
    Operation(
        "Nodes",
        "get",
        "/nodes/terminate_all",
        "Ask all engines to stop, and remove them",
        _ok(_json(STRING, "All nodes terminated successfully")) | _errors(401, 403, 502),
    ),
    Operation(
        "Metrics",
        "get",
        "/get_loads",
        "Requests under way on each worker",
        _ok(
            _json(
                _object(("workers",), workers=_list(_object(("worker", "load"), worker=STRING, load=INTEGER))),
                {"workers": [{"worker": URL, "load": 3}]},
            )
        )
        | _errors(401, 403),
    ),
    Operation(
        "Metrics",
        "get",
        "/metrics",
        "The router's metrics, for Prometheus",
        _ok(_text("llm_router_inflight 3.0")) | _errors(401, 403),
    ),
    Operation(
        "Metrics",
        "get",
        "/engine_metrics",
        "All engines' metrics, for Prometheus, each with the label worker",
        _ok(_text(f'sglang:num_running_reqs{{worker="{URL}"}} 3.0')) | _errors(401, 403),
    ),
    Operation(
        "Pages",
        "get",
        "/events",
        "What the dashboard shows, as it changes: one event `history`, then an event `snapshot` each second",
        _ok({"text/event-stream": {"schema": STRING, "example": EVENTS}}) | _errors(401, 403),
    ),
    Operation("Pages", "get", "/", "The dashboard", _ok(PAGE)),
    Operation("Pages", "get", "/docs", "This page", _ok(PAGE)),
    Operation("Pages", "get", "/openapi.json", "This description", _ok(_json(ANYTHING, {"openapi": "3.0.3"}))),
]


def document() -> Json:
    """The whole description."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.0.3",
        "info": {"title": "llm-launch router", "version": API_VERSION, "description": ABOUT},
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _described(operation: Operation) -> Json:
    made: Json = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": f"{operation.method}_{operation.path.strip('/').translate(_FLAT) or 'dashboard'}",
        "responses": {
            str(status): {"description": meaning, "content": content}
            for status, (meaning, content) in operation.answers.items()
        },
    }
    if operation.params:
        made["parameters"] = list(operation.params)
    if operation.body is not None:
        made["requestBody"] = {"required": not operation.params, "content": operation.body}
    if operation.tag == "Inference" or LEVELS.get(operation.path, Level.ADMIN) is not Level.OPEN:
        made["security"] = [{"bearer": []}, {"x-api-key": []}]
    return made


_FLAT = str.maketrans({"/": "_", "{": None, "}": None})
