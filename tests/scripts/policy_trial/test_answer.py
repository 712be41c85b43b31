"""What engines answer."""

from __future__ import annotations

import json

import pytest

from scripts.policy_trial.answer import Answer, AnswerError, read

USAGE = {"prompt_tokens": 40, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 32}}


def event(**content: object) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


TOKENS = event(choices=[{"text": "a "}]) + event(choices=[{"text": "b"}])
END = b"data: [DONE]\n\n"


def test_a_stream_is_read_with_the_engines_report_in_its_end():
    body = TOKENS + event(choices=[], usage=USAGE) + END
    assert read(body, stream=True) == Answer("a b", tokens=40, cached=32, generated=2)


def test_a_whole_answer_is_read_alike():
    body = json.dumps({"choices": [{"text": "a b"}], "usage": USAGE}).encode()
    assert read(body, stream=False) == Answer("a b", 40, 32, 2)


def test_an_engine_that_reports_no_hit_had_none():
    usage = {**USAGE, "prompt_tokens_details": None}
    assert read(event(choices=[], usage=usage) + END, stream=True).cached == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (TOKENS, "cut off"),
        (TOKENS + event(choices=[], usage=USAGE), "cut off"),
        (TOKENS + END, "no usage"),
        (event(error={"message": "no"}) + END, "no usage"),
        (b"data: nonsense\n\n" + END, "not a completion"),
    ],
)
def test_what_is_not_a_whole_answer_is_an_error(body: bytes, said: str):
    with pytest.raises(AnswerError, match=said):
        read(body, stream=True)


def test_an_error_is_no_whole_answer():
    with pytest.raises(AnswerError):
        read(b'{"error": "overloaded"}', stream=False)
