"""The translation between /generate and /v1/completions, on streams as llama.cpp and vLLM really send them."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import BadRequest
from router.generate import Translation

# Captured from llama.cpp's server: the last piece carries the usage.
LLAMA_CPP = """\
data: {"choices":[{"text":" ein","index":0,"logprobs":null,"finish_reason":null}],"created":1795355602,"model":"demo",\
"system_fingerprint":"b0-unknown","object":"text_completion","id":"chatcmpl-MSWA"}

data: {"choices":[{"text":" ","index":0,"logprobs":null,"finish_reason":null}],"created":1795355602,"model":"demo",\
"system_fingerprint":"b0-unknown","object":"text_completion","id":"chatcmpl-MSWA"}

data: {"choices":[{"text":"😛","index":0,"logprobs":null,"finish_reason":null}],"created":1795355602,"model":"demo",\
"system_fingerprint":"b0-unknown","object":"text_completion","id":"chatcmpl-MSWA"}

data: {"choices":[{"text":"","index":0,"logprobs":null,"finish_reason":"length"}],"created":1795355602,"model":"demo",\
"system_fingerprint":"b0-unknown","object":"text_completion","usage":{"completion_tokens":4,"prompt_tokens":10,\
"total_tokens":14,"prompt_tokens_details":{"cached_tokens":5}},"id":"chatcmpl-MSWA","timings":{"cache_n":5}}

data: [DONE]

"""

# vLLM with continuous_usage_stats: counts in every piece, and the whole once more after the finish, without choices.
VLLM = """\
data: {"id":"cmpl-7","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" a b","logprobs":\
null,"finish_reason":null,"stop_reason":null}],"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2}}

data: {"id":"cmpl-7","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" c","logprobs":\
null,"finish_reason":"stop","stop_reason":"###"}],"usage":{"prompt_tokens":3,"total_tokens":6,"completion_tokens":3}}

data: {"id":"cmpl-7","object":"text_completion","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":3,\
"total_tokens":6,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":2}}}

data: [DONE]

"""


def translation(model: str | None = None, **body: Any) -> Translation:
    return Translation(json.dumps({"text": "Hi", **body}).encode(), model)


def asked(model: str | None = None, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(translation(model, **body).body)
    return found


def events(stream: bytes) -> list[Any]:
    """What a client of SGLang's reads: lines that begin with data:, up to [DONE], which is None here."""
    lines = [line for line in stream.decode().split("\n\n") if line]
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [None if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def test_a_request_is_put_in_openais_terms():
    params = {
        "max_new_tokens": 7,
        "temperature": 0.5,
        "top_k": 3,
        "stop": ["x"],
        "min_new_tokens": 2,
        "ignore_eos": True,
    }
    assert asked("served", sampling_params=params) == {
        "model": "served",
        "prompt": "Hi",
        "max_tokens": 7,
        "temperature": 0.5,
        "top_k": 3,
        "stop": ["x"],
        "min_tokens": 2,
        "ignore_eos": True,
    }


def test_without_parameters_the_length_is_sglangs_default():
    assert asked() == asked(sampling_params=None) == {"prompt": "Hi", "max_tokens": 128}


def test_no_limit_stays_no_limit_and_other_nulls_are_left_to_the_engine():
    assert asked(sampling_params={"max_new_tokens": None, "n": None}) == {"prompt": "Hi", "max_tokens": None}


def test_fields_that_are_not_known_pass_under_their_own_name():
    found = asked(sampling_params={"dry_multiplier": 0.8}, cache_prompt=False)
    assert (found["dry_multiplier"], found["cache_prompt"]) == (0.8, False)


def test_every_renamed_parameter_reaches_its_name():
    found = asked(sampling_params={"sampling_seed": 4, "no_stop_trim": True, "ebnf": "root ::= x"})
    assert (found["seed"], found["include_stop_str_in_output"], found["grammar"]) == (4, True, "root ::= x")
    assert found["structured_outputs"] == {"grammar": "root ::= x"}


def test_a_regex_constrains_the_output():
    assert asked(sampling_params={"regex": "a+"})["structured_outputs"] == {"regex": "a+"}


def test_a_penalty_reaches_both_engines_under_their_names():
    found = asked(sampling_params={"repetition_penalty": 1.5})
    assert (found["repetition_penalty"], found["repeat_penalty"]) == (1.5, 1.5)


def test_a_json_schema_reaches_both_engines_in_their_forms():
    found = asked(sampling_params={"json_schema": '{"type": "object"}'})
    assert found["json_schema"] == {"type": "object"}
    assert json.loads(found["structured_outputs"]["json"]) == {"type": "object"}


def test_the_model_of_the_worker_wins_over_the_clients_name():
    body = b'{"text": "Hi", "model": "asked"}'
    assert json.loads(Translation(body, "served").body)["model"] == "served"
    assert json.loads(Translation(body, None).body)["model"] == "asked"


def test_only_a_stream_asks_for_usage_because_vllm_refuses_it_otherwise():
    assert asked(stream=True)["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert asked(stream=True)["stream"] is True
    assert "stream_options" not in asked(stream=False)
    assert translation(stream=True).stream
    assert not translation(stream=False).stream


def test_token_ids_are_a_prompt_too():
    assert json.loads(Translation(b'{"input_ids": [1, 2]}', None).body)["prompt"] == [1, 2]
    assert json.loads(Translation(b'{"input_ids": [ [1, 2], [3]]}', None).body)["prompt"] == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"[]", "object"),
        (b"{", "object"),
        (b"", "object"),
        (b"[" * 100_000, "object"),
        (b'{"text": "a", "sampling_params": [{}]}', "sampling_params"),
        (b"{}", "input_ids"),
        (b'{"text": null}', "input_ids"),
        (b'{"text": "a", "input_ids": [1]}', "input_ids"),
        (b'{"text": 5}', "string"),
        (b'{"text": []}', "string"),
        (b'{"text": [{}]}', "string"),
        (b'{"text": "a", "image_data": "x.png"}', "image_data"),
        (b'{"text": "a", "return_logprob": true}', "return_logprob"),
        (b'{"text": "a", "sampling_params": {"stop_regex": "a+"}}', "stop_regex"),
        (b'{"text": "a", "sampling_params": {"json_schema": "{}, \\"n\\": 9"}}', "json_schema"),
        (b'{"text": "a", "rid": "\xff"}', "Unicode"),
    ],
)
def test_what_cannot_be_translated_is_refused_in_one_line(body: bytes, word: str):
    with pytest.raises(BadRequest) as caught:
        Translation(body, None)
    assert word in caught.value.message
    assert "\n" not in caught.value.message


def test_what_is_refused_may_be_there_and_empty():
    assert translation(image_data=None, return_logprob=False, lora_path="").body


ANSWER: dict[str, Any] = {
    "id": "cmpl-1",
    "choices": [{"index": 0, "text": " there", "finish_reason": "length"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
}


def whole(translation: Translation, answer: dict[str, Any]) -> Any:
    return json.loads(translation.whole(json.dumps(answer).encode()))


def test_a_complete_answer_is_put_in_sglangs_terms():
    assert whole(translation(), ANSWER) == {
        "text": " there",
        "meta_info": {
            "id": "cmpl-1",
            "finish_reason": {"type": "length", "length": 2},
            "prompt_tokens": 5,
            "completion_tokens": 2,
            "cached_tokens": 4,
        },
    }


def test_the_clients_request_id_comes_back():
    assert whole(translation(rid="mine"), ANSWER)["meta_info"]["id"] == "mine"


def test_a_stop_says_what_matched_where_the_engine_tells():
    answer = {"choices": [{"text": "x", "finish_reason": "stop", "stop_reason": 13}], "usage": None}
    assert whole(translation(), answer)["meta_info"]["finish_reason"] == {"type": "stop", "matched": 13}


def test_other_reasons_keep_their_name():
    answer = {"choices": [{"text": "x", "finish_reason": "abort"}]}
    assert whole(translation(), answer)["meta_info"]["finish_reason"] == {"type": "abort"}


def test_a_list_of_prompts_is_answered_by_a_list_in_its_order():
    choices = [
        {"index": 1, "text": "two", "finish_reason": "stop", "token_ids": [7], "prompt_token_ids": [1, 2, 3]},
        {"index": 0, "text": "one", "finish_reason": "stop", "token_ids": [8, 9], "prompt_token_ids": [1]},
    ]
    request = translation(text=["a", "b"])
    assert json.loads(request.body)["return_token_ids"] is True
    first, second = whole(
        request, {"id": "c", "choices": choices, "usage": {"prompt_tokens": 4, "completion_tokens": 3}}
    )
    assert (first["text"], first["index"], second["text"], second["index"]) == ("one", 0, "two", 1)
    assert [first["meta_info"][key] for key in ("id", "prompt_tokens", "completion_tokens")] == ["c_0", 1, 2]
    assert [second["meta_info"][key] for key in ("id", "prompt_tokens", "completion_tokens")] == ["c_1", 3, 1]


def test_counts_of_a_list_that_the_engine_does_not_tell_are_null_not_invented():
    choices = [{"index": i, "text": "x", "finish_reason": "stop"} for i in (0, 1)]
    answers = whole(translation(text=["a", "b"]), {**ANSWER, "choices": choices})
    assert [answer["meta_info"]["completion_tokens"] for answer in answers] == [None, None]


def test_a_list_of_one_is_still_a_list():
    (answer,) = whole(translation(text=["a"]), ANSWER)
    assert answer["meta_info"]["completion_tokens"] == 2


def test_several_answers_per_prompt_are_a_list():
    assert isinstance(whole(translation(sampling_params={"n": 2}), ANSWER), list)


@pytest.mark.parametrize("body", [b"", b"not json", b"{}", b'{"choices": []}', b'{"choices": [{"text": 5}]}', b"\xff"])
def test_garbage_from_a_worker_is_a_value_error(body: bytes):
    with pytest.raises(ValueError):
        translation().whole(body)


def test_llama_cpps_stream_becomes_cumulative():
    *pieces, last, done = events(translation(stream=True).feed(LLAMA_CPP.encode()))
    assert [piece["text"] for piece in pieces] == [" ein", " ein ", " ein 😛"]
    assert [piece["meta_info"]["completion_tokens"] for piece in pieces] == [1, 2, 3]
    assert all(piece["meta_info"]["finish_reason"] is None for piece in pieces)
    assert last == {
        "text": " ein 😛",
        "meta_info": {
            "id": "chatcmpl-MSWA",
            "finish_reason": {"type": "length", "length": 4},
            "prompt_tokens": 10,
            "completion_tokens": 4,
            "cached_tokens": 5,
        },
    }
    assert done is None


def test_vllms_last_event_waits_for_the_usage():
    request = translation(stream=True)
    before, after = VLLM.encode().split(
        b'data: {"id":"cmpl-7","object":"text_completion","created":1,"model":"m","choices":[]'
    )
    (first,) = events(request.feed(before))
    assert (first["text"], first["meta_info"]["completion_tokens"]) == (" a b", 2)
    last, done = events(request.feed(b'data: {"choices":[]' + after))
    assert last["text"] == " a b c"
    assert last["meta_info"]["finish_reason"] == {"type": "stop", "matched": "###"}
    assert last["meta_info"]["cached_tokens"] == 2
    assert done is None


def test_a_stream_without_usage_still_ends_with_its_reason():
    stream = b'data: {"choices":[{"text":"x","finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    last, done = events(translation(stream=True).feed(stream))
    assert last["meta_info"]["finish_reason"] == {"type": "stop", "matched": None}
    assert done is None


@pytest.mark.parametrize("stream", [LLAMA_CPP, VLLM, LLAMA_CPP.replace("\n", "\r\n")])
@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 1000), max_size=12))
def test_a_stream_may_be_split_anywhere(stream: str, cuts: list[int]):
    data = stream.encode()
    whole, split = translation(stream=True), translation(stream=True)
    edges = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    parts = [split.feed(data[a:b]) for a, b in itertools.pairwise(edges)]
    assert b"".join(parts) == whole.feed(data) != b""


def test_a_stream_may_come_byte_by_byte():
    data = LLAMA_CPP.replace("\n", "\r\n").encode()
    split = translation(stream=True)
    assert b"".join(split.feed(bytes([byte])) for byte in data) == translation(stream=True).feed(LLAMA_CPP.encode())


def test_comments_and_foreign_fields_are_dropped():
    stream = b': ping\n\nevent: x\nid: 3\ndata:{"choices":[{"text":"x"}]}\n: more\n\ndata: null\n\n'
    (only,) = events(translation(stream=True).feed(stream))
    assert only["text"] == "x"


def test_data_of_several_lines_is_one_event():
    (only,) = events(translation(stream=True).feed(b'data: {"choices":\ndata: [{"text":"x"}]}\n\n'))
    assert only["text"] == "x"


def test_an_error_event_passes_as_it_is():
    error = b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'
    assert translation(stream=True).feed(error) == error


def test_an_error_of_several_lines_passes_as_one_event():
    error = b'data: {"error":\ndata:  {"code": 500}}\n\n'
    assert translation(stream=True).feed(error) == error


def test_what_was_held_back_comes_before_an_error():
    finish = b'data: {"choices":[{"text":"x","finish_reason":"stop"}]}\n\n'
    last, error = events(translation(stream=True).feed(finish + b'data: {"error": {"code": 500}}\n\n'))
    assert last["text"] == "x"
    assert error == {"error": {"code": 500}}


def test_a_garbled_event_is_a_value_error():
    with pytest.raises(ValueError):
        translation(stream=True).feed(b'data: {"choices":\n\n')


def test_the_answers_of_a_list_are_streamed_with_their_index():
    request = translation(text=["a", "b"], stream=True)
    out = b"".join(
        request.feed(b'data: {"id":"c","choices":[{"index":%d,"text":"%s","finish_reason":%s}]}\n\n' % event)
        for event in [(1, b"x", b"null"), (0, b"u", b"null"), (1, b"y", b'"stop"'), (0, b"", b'"stop"')]
    )
    found = [(event["index"], event["text"], event["meta_info"]["finish_reason"] is not None) for event in events(out)]
    assert found == [(1, "x", False), (0, "u", False), (1, "xy", True), (0, "u", True)]


def test_the_end_of_the_stream_gives_what_was_held_back():
    request = translation(stream=True)
    assert request.feed(b'data: {"choices":[{"text":"x","finish_reason":"stop"}]}\n\n') == b""
    (last,) = events(request.finish())
    assert last["text"] == "x"
    assert request.finish() == b""


def test_the_end_of_the_stream_may_lack_its_blank_line():
    request = translation(stream=True)
    assert request.feed(b"data: [DONE]") + request.finish() == b"data: [DONE]\n\n"


def test_a_torn_last_event_is_dropped():
    request = translation(stream=True)
    assert request.feed(b'data: {"choices":[{"te') + request.finish() == b""
