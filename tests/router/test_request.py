"""What is read of a request body, for every endpoint; and that no body, however strange, breaks the reading."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.errors import BadRequest
from router.request import BYTES_PER_TOKEN, INFERENCE_PATHS, RouteRequest, parse

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
moderately = settings(max_examples=150, deadline=None)
paths = st.sampled_from(INFERENCE_PATHS)
everywhere = pytest.mark.parametrize("path", INFERENCE_PATHS)


def dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def read(path: str = "/generate", session: str | None = None, **body: Any) -> RouteRequest:
    return parse(path, dumps(body), session)


# -- the prompt


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/generate", {"text": "Hi"}, b'"Hi"'),
        ("/generate", {"text": ["Hi", "Ho"]}, b'["Hi", "Ho"]'),
        ("/generate", {"input_ids": [1, 2, 3]}, b"[1, 2, 3]"),
        ("/generate", {"prompt": "Hi", "sampling_params": {"max_new_tokens": 1}}, b'"Hi"'),
        ("/v1/chat/completions", {"model": "m", "messages": CHAT}, dumps(CHAT)),
        ("/v1/chat/completions", {"model": "m", "messages": CHAT, "prompt": "not this", "tools": []}, dumps(CHAT)),
        ("/v1/completions", {"model": "m", "prompt": "Hi", "text": "not this"}, b'"Hi"'),
        ("/v1/completions", {"prompt": [[1, 2], [3]]}, b"[[1, 2], [3]]"),
        ("/v1/embeddings", {"input": ["a", "b"]}, b'["a", "b"]'),
        ("/v1/responses", {"input": "Hi"}, b'"Hi"'),
        ("/v1/responses", {"input": CHAT, "instructions": "Be brief."}, b'"Be brief."\n' + dumps(CHAT)),
        ("/v1/messages", {"messages": CHAT}, dumps(CHAT)),
        ("/v1/messages", {"messages": CHAT, "system": "Be brief."}, b'"Be brief."\n' + dumps(CHAT)),
        ("/v1/rerank", {"query": "q", "documents": ["d"]}, b'"q"'),
        ("/rerank", {"query": "q", "documents": ["d"]}, b'"q"'),
        ("/v1/score", {"text_1": "a", "text_2": "b"}, b""),
        ("/score", {"text_1": "a", "text_2": "b"}, b""),
        ("/classify", {"text": "Hi"}, b'"Hi"'),
        ("/encode", {"text": "Hi"}, b'"Hi"'),
        ("/tokenize", {"prompt": "Hi"}, b""),
        ("/detokenize", {"tokens": [1]}, b""),
    ],
)
def test_each_endpoint_has_its_prompt(path: str, body: Any, key: bytes) -> None:
    assert parse(path, dumps(body)).key == key.rstrip(b']}"')


@pytest.mark.parametrize(
    ("prompt", "key"),
    [
        (b'"Once upon"', b'"Once upon'),
        (b'[{"role":"user","content":"hi"}]', b'[{"role":"user","content":"hi'),
        (b'[{"role": "user", "content": "hi"}\n ]', b'[{"role": "user", "content": "hi'),
        (b"[1,2,3]", b"[1,2,3"),
        (b"[" * 50 + b"1" + b"]" * 50, b"[" * 50 + b"1"),
        (b'"x' + b"]" * 1000 + b'"', b'"x'),
        (b'""', b""),
    ],
)
def test_a_key_ends_before_the_closing_brackets_so_that_it_begins_what_follows(prompt: bytes, key: bytes) -> None:
    assert parse("/generate", b'{"text":' + prompt + b"}").key == key


def test_the_table_above_leaves_no_endpoint_out() -> None:
    assert set(INFERENCE_PATHS) == {
        "/generate",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/rerank",
        "/v1/score",
        "/rerank",
        "/score",
        "/classify",
        "/encode",
        "/tokenize",
        "/detokenize",
    }


@pytest.mark.parametrize(
    "prompt",
    [b'"a\\u00e9\\/\\n"', '"é😀"'.encode(), b"[ 1,\n\t2 ]", b'{"b":1,"a":[ ],"b":2}', b"1.50e+3", b'"\\u0061"'],
)
def test_the_prompt_is_left_as_it_was_sent(prompt: bytes) -> None:
    assert parse("/generate", b' { "x" : 1 ,\n "text" : ' + prompt + b' , "y":2}\n').key == prompt.rstrip(b' ]}"')


messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=20)}),
    min_size=2,
    max_size=8,
)


@settings(max_examples=50, deadline=None)
@given(messages, st.text(max_size=10), st.booleans())
def test_a_conversation_that_grows_keeps_its_prefix(
    conversation: list[dict[str, str]], first: str, ascii_only: bool
) -> None:
    shapes: dict[str, Callable[[Any], Any]] = {
        "/v1/chat/completions": lambda part: {"model": "m", "messages": part, "stream": True},
        "/v1/messages": lambda part: {"max_tokens": 9, "messages": part, "system": first},
        "/v1/responses": lambda part: {"instructions": first, "input": part},
    }
    for path, shape in shapes.items():
        turns = [conversation[:length] for length in range(1, len(conversation) + 1)]
        keys = [parse(path, json.dumps(shape(turn), ensure_ascii=ascii_only).encode("utf-8")).key for turn in turns]
        for before, after in itertools.pairwise(keys):
            assert after.startswith(before)
            assert len(after) > len(before)


@moderately
@given(st.text(max_size=20), st.text(max_size=20))
def test_a_text_that_grows_keeps_its_prefix(before: str, more: str) -> None:
    assert read(text=before + more).key.startswith(read(text=before).key)


def test_the_order_of_the_fields_in_the_body_does_not_matter() -> None:
    one, other = b'{"messages":[1],"system":"s"}', b'{"system":"s","messages":[1]}'
    assert parse("/v1/messages", one).key == parse("/v1/messages", other).key == b'"s"\n[1'


def test_tokens_are_estimated_from_the_length_of_what_is_not_cached() -> None:
    request = RouteRequest("/generate", b"x" * 40 * BYTES_PER_TOKEN)
    assert (request.prompt_tokens, request.uncached_tokens) == (40, 40)
    request.matched = 30 * BYTES_PER_TOKEN
    assert (request.prompt_tokens, request.uncached_tokens) == (40, 10)


# -- the other fields


@everywhere
def test_model_stream_and_user_are_read_everywhere(path: str) -> None:
    request = read(path, model="org/model", stream=True, user="me")
    assert (request.path, request.model, request.stream, request.session) == (path, "org/model", True, "me")
    assert request.matched == 0


@everywhere
def test_an_empty_object_asks_for_nothing(path: str) -> None:
    request = parse(path, b"{}")
    assert (request.key, request.model, request.stream, request.session) == (b"", None, False, None)


def test_the_session_header_goes_before_the_user() -> None:
    assert read(user="me", session="s-1").session == "s-1"
    assert read(session="s-1").session == "s-1"


@pytest.mark.parametrize("model", ["größe", 'a"b', "\u2028", "😀"])
def test_a_models_name_may_be_any_text(model: str) -> None:
    assert parse("/generate", json.dumps({"model": model}).encode()).model == model
    assert parse("/generate", dumps({"model": model})).model == model


@pytest.mark.parametrize("value", [None, False, 0, 1, "true", [True], {}])
def test_only_true_asks_for_a_stream(value: Any) -> None:
    assert read(stream=value).stream is False


@pytest.mark.parametrize("value", [None, True, 0, 1.5, -1e300, "", [], ["m"], {}, {"a": {"b": []}}])
@everywhere
def test_a_field_of_the_wrong_type_is_the_engines_business(path: str, value: Any) -> None:
    names = [
        "model", "stream", "text", "input_ids", "prompt", "system", "messages", "instructions", "input", "query",
        "user",
    ]  # fmt: skip
    request = read(path, **dict.fromkeys(names, value))
    assert (request.model, request.session, request.stream) == (None, None, value is True)


def test_of_a_name_given_twice_the_last_one_counts_as_it_does_for_engines() -> None:
    body = b'{"model":"a","text":"x","model":"b","text":"y"}'
    request = parse("/generate", body)
    assert (request.model, request.key) == ("b", b'"y')
    assert json.loads(body) == {"model": "b", "text": "y"}


# -- hostile bodies


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"null", b"true", b"1", b'"text"', b"[]", b'[{"text":"Hi"}]', b"{", b"}", b"{}}", b"{}{}", b"\x00",
        b"\xef\xbb\xbf{}", '{"text":"Hi"}'.encode("utf-16"), b'{"text":"Hi"', b'{"text":"Hi',
        b"{'text':'Hi'}", b'{"text":"Hi",}', b'{"text"}', b'{"text":}', b'{"text":undefined}', b'{1:2}', b"text=Hi",
        b'{"text":NaN}', b'{"x":NaN}', b'{"x":Infinity}', b'{"x":-Infinity}', b'{"x":01}', b'{"x":+1}', b'{"x":.5}',
        b'{"x":"\n"}', b'{"x":"\x00"}', b'{"x":"\\x41"}', b'{"x":"\\u12"}', b'{"x":"\\ud83d"}', b'{"text":"\\ude00 x"}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/generate", "/tokenize"])
def test_what_is_no_json_object_is_a_bad_request(path: str, body: bytes) -> None:
    with pytest.raises(BadRequest, match="the request body is not a JSON object"):
        parse(path, body)


@pytest.mark.parametrize("name", ["text", "model", "unknown"])
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_deep_nesting_is_a_bad_request(name: str, opening: bytes) -> None:
    with pytest.raises(BadRequest, match="nested too deeply"):
        parse("/generate", b'{"' + name.encode() + b'":' + opening * 100_000)


@pytest.mark.parametrize("name", ["text", "model", "stream", "user", "unknown"])
@pytest.mark.parametrize(
    "value", [b"9" * 100_000, b"1e999999", b"-0.0", b"1" + b"0" * 400 + b".5", b"[" * 50 + b"]" * 50]
)
def test_numbers_and_lists_beyond_reason_are_the_engines_business(name: str, value: bytes) -> None:
    request = parse("/generate", b'{"' + name.encode() + b'":' + value + b"}")
    assert (request.model, request.stream, request.session) == (None, False, None)
    assert request.key == (value.rstrip(b"]") if name == "text" else b"")


def test_bytes_that_are_no_utf_8_make_no_name() -> None:
    request = parse("/generate", b'{"model":"\xff","user":"\xc3","text":"\xff","\xff":1}')
    assert (request.model, request.session, request.key) == (None, None, b'"\xff')


def outcome(path: str, body: bytes) -> RouteRequest | str:
    """A request, or what the client is told. Any other exception fails the test."""
    try:
        request = parse(path, body)
    except BadRequest as error:
        return error.message
    assert all(part in body for part in request.key.split(b"\n"))
    for name in (request.model, request.session):
        assert name is None or (name and name.encode())
    return request


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
names = st.sampled_from(["model", "stream", "text", "prompt", "input", "messages", "system", "user", "query", "x"])


@moderately
@given(paths, st.binary(max_size=60))
def test_any_bytes_are_a_request_or_a_bad_one(path: str, body: bytes) -> None:
    outcome(path, body)


@moderately
@given(paths, st.dictionaries(names, json_values, max_size=5), st.booleans())
@example("/generate", {"model": "\ud83d", "user": "\ude00"}, True)
@example("/generate", {"text": float("nan")}, True)
def test_any_object_is_a_request_or_a_bad_one(path: str, body: dict[str, Any], ascii_only: bool) -> None:
    raw = json.dumps(body, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = outcome(path, raw)
    if isinstance(found, str):
        assert any(odd in raw for odd in (b"NaN", b"Infinity", b"\\ud")), found
    else:
        model = body.get("model")
        assert found.model in (None, model)
        assert found.model is not None or not isinstance(model, str) or not model or not model.isprintable()


@moderately
@given(paths, st.integers(0, 200), st.binary(max_size=3), st.integers(0, 4))
def test_a_damaged_body_is_a_request_or_a_bad_one(path: str, at: int, put: bytes, drop: int) -> None:
    body = dumps({"model": "größe", "messages": CHAT, "stream": True, "user": "me", "text": 'a "b" \\ 😀', "n": [1.5]})
    outcome(path, body[:at] + put + body[at + drop :])


@pytest.mark.parametrize("cut", range(1, 40))
def test_what_the_client_is_told_repeats_nothing_of_the_body(cut: int) -> None:
    body = b'{"text": "secret secret", "secret": [secret]}'
    told = outcome("/generate", body[:cut])
    assert isinstance(told, str)
    assert "secret" not in told
