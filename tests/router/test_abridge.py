"""What is cut out of a long body: only what stands within its strings, and nothing is lost."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from router.abridge import FEW, GAP, LONG, MARK, abridge, restore
from router.errors import BadRequest
from router.request import parse

IMAGE = "data:image/png;base64," + "iVBORw0K" * LONG


def chat(*contents: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": content} for content in contents]}).encode()


def image(data: str = IMAGE) -> list[Any]:
    return [{"type": "image_url", "image_url": {"url": data}}, {"type": "text", "text": "What is this?"}]


def test_images_are_cut_out() -> None:
    short, cuts = abridge(chat(image(), image(IMAGE * 2)))
    assert len(short) < 1000
    assert [len(cut) for cut in cuts] == [len(IMAGE), 2 * len(IMAGE)]


def test_what_was_cut_out_comes_back() -> None:
    body = chat(image(), "a \\", "b " * GAP, 'c "' * 5 + "d" * GAP * 2 + "\\\\")
    short, cuts = abridge(body)
    assert len(cuts) == 3
    assert len(short) < 1000
    assert restore(short, cuts) == body


@pytest.mark.parametrize("end", ["\\", "\\\\", '"', '\\"', '\\" said he, \\"', "\\" * 100, "\\" * 100 + '"', "é", "\n"])
def test_a_string_ends_where_it_ended(end: str) -> None:
    body = json.dumps({"text": "a" * LONG + end, "model": "m"}).encode()
    request, same = parse("/generate", body), parse("/generate", b" " * LONG + json.dumps({"text": end}).encode())
    assert request.model == "m"
    assert request.key.endswith(same.key[1:])
    assert restore(*abridge(body)) == body


@pytest.mark.parametrize(
    "body",
    [
        b'{"text":"' + b"a" * 100_000 + b'"x"}',
        b'{"text"' + b" " * 100_000 + b'"x"}',
        b'{"text":"x"' + b"a" * 100_000 + b'"model":"m"}',
        b'{"text":"x"}' + b"a" * 100_000 + b'"',
        b'{"text":"' + b"a" * 100_000,
        b'{"text":"' + b"a" * 100_000 + b'\\"}',
    ],
)
def test_what_is_no_json_does_not_become_so(body: bytes) -> None:
    with pytest.raises(BadRequest):
        parse("/generate", body)


def test_what_is_long_and_no_string_is_read_in_full() -> None:
    numbers = b"[" + b"1, " * LONG + b"1"
    assert parse("/generate", b'{"input_ids": ' + numbers + b'], "model": "m"}').key == numbers


def test_blanks_between_two_fields_are_read_in_full() -> None:
    request = parse("/generate", b'{"text":"x",' + b" " * LONG + b'"model":"m"}')
    assert (request.key, request.model) == (b'"x', "m")


def test_a_long_name_is_whole() -> None:
    name = "m" * LONG
    request = parse("/generate", json.dumps({"text": "x", "model": name, "user": name}).encode())
    assert request.model == request.session == name


@pytest.mark.parametrize("stray", [MARK, MARK * 2, MARK + b"0" + MARK])
def test_a_body_that_has_marks_of_its_own_is_left_alone(stray: bytes) -> None:
    body = b'{"x":"' + stray + b'","text":"' + b"a" * LONG + b'"}'
    assert abridge(body) == (body, [])
    assert parse("/generate", body).key == b'"' + b"a" * LONG


def test_where_quotes_are_many_the_search_ends() -> None:
    body = chat('"' * FEW + "a" * GAP * 2)
    assert abridge(body) == (body, [])


def test_a_cut_is_worth_going_on() -> None:
    assert len(abridge(chat(*["a" * GAP * 2] * FEW))[1]) == FEW


CLOSERS = b'"]} \n'
PIECES = {"a": "a" * GAP * 2, "b": "b" * LONG, "/": "\\" * 70, "\\": "\\", '"': '"', "}": "}]", "e": "é", "x": "x"}
texts = st.text(st.sampled_from(list(PIECES)), max_size=8)
bodies = st.dictionaries(st.sampled_from(["text", "model", "user", "x"]), texts | st.lists(texts, max_size=3))


def grown(value: Any) -> Any:
    """Each letter of the texts becomes the piece that it stands for."""
    return [grown(one) for one in value] if isinstance(value, list) else "".join(PIECES[letter] for letter in value)


@settings(max_examples=200, deadline=None)
@example({"text": 'b"}', "model": "b/"}, None)
@given(bodies, st.sampled_from([None, 2]))
def test_a_long_body_says_what_it_says_when_it_is_read_in_full(body: dict[str, Any], indent: int | None) -> None:
    told = json.dumps({name: grown(value) for name, value in body.items()}, indent=indent).encode() + b" " * LONG
    request, fields = parse("/generate", told), msgspec.json.decode(told, type=dict[str, msgspec.Raw])
    prompt = bytes(fields.get("text", b""))
    assert prompt.startswith(request.key)
    assert prompt.rstrip(CLOSERS) == request.key.rstrip(CLOSERS)
    for name, value in (("model", request.model), ("user", request.session)):
        told_of = body.get(name)
        assert value == (grown(told_of) if told_of and isinstance(told_of, str) else None)
