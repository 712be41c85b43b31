"""OpenAI's and Anthropic's own clients against a launch: what they ask, what they read, and what they raise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.commands import Command

pytestmark = pytest.mark.e2e

KEY = "sesame"
HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture
async def node(sim: Any) -> Command:
    """Two sim engines that serve the model `any`, behind a key."""
    launch: Command = await sim(2, "--api-key", KEY)
    await launch.ready(2)
    return launch


@pytest.fixture
async def ai(node: Command) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(node: Command) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=node.url, api_key=KEY, max_retries=0) as client:
        yield client


async def test_a_chat_is_the_same_whole_and_streamed(ai: openai.AsyncOpenAI) -> None:
    whole = await ai.chat.completions.create(model="any", messages=HELLO, max_tokens=6)
    stream = await ai.chat.completions.create(model="any", messages=HELLO, max_tokens=6, stream=True)
    parts = [part.choices[0] async for part in stream]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 6
    assert "".join(part.delta.content or "" for part in parts) == whole.choices[0].message.content
    assert [part.finish_reason for part in parts if part.finish_reason] == ["length"]


async def test_completions(ai: openai.AsyncOpenAI) -> None:
    whole = await ai.completions.create(model="any", prompt="Hello", max_tokens=6)
    stream = await ai.completions.create(model="any", prompt="Hello", max_tokens=6, stream=True)
    assert len(whole.choices[0].text.split()) == 6
    assert "".join([part.choices[0].text async for part in stream]) == whole.choices[0].text


async def test_embeddings(ai: openai.AsyncOpenAI) -> None:
    answer = await ai.embeddings.create(model="any", input=["one", "two", "one"])
    first, second, third = (each.embedding for each in answer.data)
    assert first == third != second


async def test_the_models_are_listed(ai: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in ai.models.list()] == ["any"]


async def test_a_model_that_nobody_serves_is_not_found(ai: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        await ai.chat.completions.create(model="other", messages=HELLO)
    assert raised.value.code == "model_not_found"


async def test_a_wrong_key_is_an_authentication_error(ai: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        await ai.with_options(api_key="wrong").chat.completions.create(model="any", messages=HELLO)


async def test_a_bad_field_is_the_clients_fault(ai: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await ai.chat.completions.create(model="any", messages=HELLO, max_tokens=-1)
    assert raised.value.param == "max_tokens"


async def test_a_message_is_the_same_whole_and_streamed(claude: anthropic.AsyncAnthropic) -> None:
    whole = await claude.messages.create(model="any", max_tokens=6, system="Be brief.", messages=HELLO)
    async with claude.messages.stream(model="any", max_tokens=6, system="Be brief.", messages=HELLO) as stream:
        kinds = [event.type async for event in stream]
        streamed = await stream.get_final_message()
    assert [block.type for block in whole.content] == ["text"]
    assert streamed.content[0].text == whole.content[0].text
    assert (streamed.stop_reason, streamed.usage.output_tokens) == ("max_tokens", 6)
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


async def test_the_key_may_be_in_either_of_anthropics_headers(claude: anthropic.AsyncAnthropic) -> None:
    """The client sends it as a bearer's; older ones, and its HTTP API's documentation, in x-api-key."""
    older = claude.with_options(default_headers={"Authorization": anthropic.Omit(), "x-api-key": KEY})
    for client in (claude, older):
        assert (await client.messages.create(model="any", max_tokens=6, messages=HELLO)).usage.output_tokens == 6
    with pytest.raises(anthropic.AuthenticationError):
        await claude.with_options(api_key="wrong").messages.create(model="any", max_tokens=6, messages=HELLO)
