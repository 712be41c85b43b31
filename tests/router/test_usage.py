"""What is read of an answer's end."""

from __future__ import annotations

import json

import pytest

from router.usage import read

OPENAI = {
    "choices": [{"text": "hello"}],
    "usage": {
        "prompt_tokens": 120,
        "completion_tokens": 5,
        "total_tokens": 125,
        "prompt_tokens_details": {"cached_tokens": 96},
    },
}
SGLANG = {"text": "hello", "meta_info": {"prompt_tokens": 120, "completion_tokens": 5, "cached_tokens": 96}}
PLAIN = {"choices": [], "usage": {"prompt_tokens": 120, "total_tokens": 125}}


def told(data: bytes) -> tuple[int, int | None] | None:
    usage = read(data)
    return (usage.prompt, usage.cached) if usage is not None else None


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize(("answer", "usage"), [(OPENAI, (120, 96)), (SGLANG, (120, 96)), (PLAIN, (120, None))])
def test_it_is_read_from_whole_answers_and_from_events(answer, usage, separators):
    body = json.dumps(answer, separators=separators).encode()
    assert told(body) == usage
    assert told(b"data: " + body + b"\n\ndata: [DONE]\n\n") == usage


def test_of_several_events_the_last_one_counts():
    events = [b"data: " + json.dumps({"usage": {"prompt_tokens": tokens}}).encode() + b"\n\n" for tokens in (7, 8)]
    assert told(b"".join(events)) == (8, None)


@pytest.mark.parametrize(("answer", "tokens"), [(OPENAI, 5), (SGLANG, 5), (PLAIN, 0)])
def test_the_answers_own_length_is_read_where_it_is_told(answer, tokens):
    usage = read(json.dumps(answer).encode())
    assert usage is not None
    assert usage.answer == tokens


def test_what_a_model_writes_is_not_taken_for_it():
    said = json.dumps({"text": '"prompt_tokens": 5, "cached_tokens": 5, '}).encode()
    assert told(said) is None
    assert told(json.dumps(PLAIN).encode() + said) == (120, None)


@pytest.mark.parametrize(
    "cut", [b'{"usage":{"prompt_tokens":12', b'"prompt_tokens":', b'"prompt_tok', b"", b'"prompt_tokens":null,']
)
def test_what_is_cut_off_or_no_number_says_nothing(cut):
    assert told(cut) is None


def test_numbers_that_cannot_be_are_not_believed():
    assert told(b'"prompt_tokens":10,"cached_tokens":11}') == (10, None)
    assert told(b'"prompt_tokens":0,"cached_tokens":0}') is None
    assert told(b'"prompt_tokens":1234567890,') is None
    assert told(b'"prompt_tokens":-5,') is None
