"""What the workers of a pair are told, and how their answers become one."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from router.bootstrap import MOST_ROOMS, ask, introduce, merge
from router.errors import BadRequest

CHAT = "/v1/chat/completions"


def told(path: str, body: bytes, url: str = "http://prefill1:8000", port: int | None = 9000) -> Any:
    return json.loads(introduce(ask(path, body), url, port, random.Random(1)))


@pytest.mark.parametrize("body", [b'{"text":"hi","x":1.50}', b' { "text" : "hi" , "x" : 1.50 } \r\n\t'])
def test_three_fields_are_put_behind_what_the_client_sent(body: bytes) -> None:
    whole = introduce(ask("/generate", body), "http://prefill1:8000", 9000, random.Random(1))
    assert whole.startswith(body.rstrip()[:-1].rstrip())
    room = json.loads(whole)["bootstrap_room"]
    assert json.loads(whole) == {
        "text": "hi", "x": 1.5, "bootstrap_host": "prefill1", "bootstrap_port": 9000, "bootstrap_room": room
    }  # fmt: skip


@pytest.mark.parametrize("body", [b"{}", b" { } "])
def test_an_empty_object_gets_them_too(body: bytes) -> None:
    assert list(told("/generate", body)) == ["bootstrap_host", "bootstrap_port", "bootstrap_room"]


def test_no_port_is_null_for_the_engine_knows_its_own() -> None:
    assert told("/generate", b'{"text":"hi"}', port=None)["bootstrap_port"] is None


def test_an_ipv6_address_keeps_its_brackets() -> None:
    assert told("/generate", b"{}", url="http://[fd00::7]:8000")["bootstrap_host"] == "[fd00::7]"


def test_rooms_are_numbers_of_63_bits_and_never_the_same() -> None:
    rng, asked = random.Random(1), ask("/generate", b"{}")
    rooms = [json.loads(introduce(asked, "http://p", None, rng))["bootstrap_room"] for _ in range(1000)]
    assert len(set(rooms)) == 1000
    assert all(0 <= room < 2**63 for room in rooms)
    assert max(rooms) > 2**62


@pytest.mark.parametrize(
    ("path", "body", "rooms"),
    [
        ("/generate", b'{"text":"a"}', None),
        ("/generate", b'{"text":["a","b"]}', 2),
        ("/generate", b'{"text": [ "a" ]}', 1),
        ("/generate", b'{"input_ids":[1,2,3]}', None),
        ("/generate", b'{"input_ids":[[1,2],[3]]}', 2),
        ("/generate", b'{"text":null,"input_ids":[[1],[2],[3]]}', 3),
        ("/generate", b'{"text":[]}', None),
        ("/generate", b'{"text":"a","sampling_params":{"n":4}}', None),
        ("/v1/completions", b'{"prompt":"a","n":2}', None),
        ("/v1/completions", b'{"prompt":["a","b"],"n":2}', 2),
        ("/v1/completions", b'{"prompt":[1,2]}', None),
        ("/v1/completions", b'{"prompt":[[1,2],[3]]}', 2),
        (CHAT, b'{"messages":[{"role":"user"}]}', None),
        (CHAT, b'{"messages":[],"n":1}', None),
        (CHAT, b'{"messages":[],"n":3}', 3),
        (CHAT, b'{"messages":[],"n":"3"}', None),
        (CHAT, b'{"messages":[],"n":-3}', None),
        (CHAT, b'{"messages":[],"text":["a"]}', None),
    ],
)
def test_each_prompt_of_a_list_and_each_answer_of_a_chat_has_a_room(path: str, body: bytes, rooms: int | None) -> None:
    found = told(path, body)
    values = [found[f"bootstrap_{name}"] for name in ("host", "port", "room")]
    if rooms is None:
        assert [type(value) for value in values] == [str, int, int]
    else:
        assert values[:2] == [["prefill1"] * rooms, [9000] * rooms]
        assert len(set(values[2])) == rooms


@pytest.mark.parametrize("body", [
    b'{"messages":[],"n":65537}', b'{"messages":[],"n":999999999}', b'{"prompt":[%b""]}' % (b'"",' * MOST_ROOMS),
])  # fmt: skip
def test_a_request_cannot_ask_for_any_number_of_rooms(body: bytes) -> None:
    with pytest.raises(BadRequest, match="at most 65536"):
        ask(CHAT if b"messages" in body else "/v1/completions", body)


@pytest.mark.parametrize("name", [b"bootstrap_host", b"\\u0062ootstrap_host"])
def test_what_a_client_says_of_a_room_is_not_passed_on(name: bytes) -> None:
    body = b'{"text":"hi","%b":"10.0.0.1",' % name + b'"bootstrap_port":22,"bootstrap_room":5,"bootstrap_other":6}'
    whole = introduce(ask("/generate", body), "http://prefill1:8000", 9000, random.Random(1))
    assert whole.count(b"bootstrap_host") == whole.count(b'"bootstrap_room"') == 1
    assert json.loads(whole)["bootstrap_host"] == "prefill1"
    assert json.loads(whole)["bootstrap_other"] == 6


@pytest.mark.parametrize(
    ("path", "body", "wanted"),
    [
        ("/generate", b'{"return_logprob":true}', True),
        ("/generate", b'{"return_logprob":false}', False),
        ("/generate", b'{"x":{"return_logprob":true}}', False),
        ("/v1/completions", b'{"return_logprob":true}', False),
    ],
)
def test_only_generate_has_log_probabilities_of_the_prompt(path: str, body: bytes, wanted: bool) -> None:
    assert ask(path, body).logprobs is wanted


def answer(**meta: Any) -> dict[str, Any]:
    return {"text": "t", "meta_info": meta}


def test_the_prompts_log_probabilities_come_from_the_prefill_worker_and_all_else_from_the_other() -> None:
    prefilled = answer(id="p", input_token_logprobs=[[-1.50, 5, None]], output_token_logprobs=[[-9.0, 1, None]])
    decoded = answer(id="d", input_token_logprobs=[[-0.1, 6, None]], output_token_logprobs=[[-2.0, 2, None]])
    merged = json.loads(merge(json.dumps(decoded).encode(), json.dumps(prefilled).encode()))
    assert merged == answer(
        id="d", input_token_logprobs=[[-1.5, 5, None], [-0.1, 6, None]], output_token_logprobs=[[-2.0, 2, None]]
    )


def test_numbers_keep_the_digits_that_the_engines_wrote() -> None:
    merged = merge(b'{"meta_info":{"input_token_logprobs":[]}}', b'{"meta_info":{"input_token_logprobs":[[-1.50,5]]}}')
    assert b"[-1.50,5]" in merged


@pytest.mark.parametrize("theirs", [None, []])
def test_what_neither_has_stays_as_it_was(theirs: Any) -> None:
    decoded, prefilled = answer(input_top_logprobs=theirs), answer(input_top_logprobs=theirs)
    assert json.loads(merge(json.dumps(decoded).encode(), json.dumps(prefilled).encode())) == decoded


def test_answers_to_several_prompts_are_merged_one_by_one() -> None:
    prefilled = [answer(input_token_logprobs=[[number]]) for number in range(2)]
    decoded = [answer(input_token_logprobs=None) for _ in range(2)]
    assert json.loads(merge(json.dumps(decoded).encode(), json.dumps(prefilled).encode())) == prefilled


@pytest.mark.parametrize(("decoded", "prefilled"), [
    (b"{}", b"no"), (b"no", b"{}"), (b"[{},{}]", b"[{}]"), (b"[{}]", b"{}"), (b'{"meta_info":7}', b"{}"),
    (b'{"meta_info":{"id":1}}', b'{"meta_info":{"input_token_logprobs":7}}'), (b"[" * 5000, b"[" * 5000),
])  # fmt: skip
def test_answers_that_do_not_go_together_are_an_error(decoded: bytes, prefilled: bytes) -> None:
    with pytest.raises(ValueError, match="do not go together"):
        merge(decoded, prefilled)


def test_an_answer_without_facts_is_left_alone() -> None:
    assert json.loads(merge(b'{"text":"t"}', b'{"meta_info":{"input_token_logprobs":[]}}')) == {"text": "t"}
