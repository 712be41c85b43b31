from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.engines import sim_text

text = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"))


@given(text)
def test_tokens_turn_back_into_the_text(value):
    ids = sim_text.encode(value.encode())
    assert sim_text.decode(ids) == value
    assert max(1, len(ids)) == sim_text.count(value.encode())


@given(text, text)
def test_a_longer_text_begins_with_the_tokens_and_blocks_of_a_shorter_one(value, more):
    short, long = value.encode(), (value + more).encode()
    whole = len(short) // 4
    assert sim_text.encode(long)[:whole] == sim_text.encode(short)[:whole]
    keys = sim_text.block_keys(short, 2)
    assert len(keys) == len(short) // 8
    assert sim_text.block_keys(long, 2)[: len(keys)] == keys


def test_a_block_is_another_one_after_another_beginning():
    one, two = sim_text.block_keys(b"AAAABBBB", 1), sim_text.block_keys(b"XXXXBBBB", 1)
    assert one[1] != two[1]
    assert len({*sim_text.block_keys(b"BBBBBBBB", 1)}) == 2


def test_token_ids_make_a_prompt_of_as_many_tokens():
    packed = sim_text.pack([1, 2, 2**32 - 1])
    assert sim_text.count(packed) == 3
    with pytest.raises(OverflowError):
        sim_text.pack([2**32])


@pytest.mark.parametrize("tokens", [0, 1, 100, 10_000])
def test_an_answer_has_as_many_tokens_as_asked_for(tokens):
    assert len(sim_text.encode(sim_text.answer(b"why", tokens).encode())) == tokens


def test_answers_are_the_same_for_the_same_prompt_only_and_grow_at_the_end():
    assert sim_text.answer(b"why", 20) == sim_text.answer(b"why", 20)
    assert sim_text.answer(b"why", 20) != sim_text.answer(b"how", 20)
    assert sim_text.answer(b"why", 9_000).startswith(sim_text.answer(b"why", 20))


def test_an_embedding_has_length_one():
    vector = sim_text.embedding(b"a text", 8)
    assert len(vector) == 8
    assert sum(x * x for x in vector) == pytest.approx(1)


def test_similarity_is_the_share_of_shared_words():
    assert sim_text.similarity(b"Cat dog", b"the dog") == 0.5
    assert sim_text.similarity(b"", b"the dog") == 0
