from __future__ import annotations

import asyncio
import itertools
import json

import aiohttp
import openai
import pytest

from launcher.engines.sim_api import Parts, build_app
from launcher.engines.sim_driver import Driver
from launcher.engines.sim_engine import CostModel, Engine, EngineConfig
from router import prometheus_text, queues
from router.capacity import of_sglang
from router.request import INFERENCE_PATHS

LONG = 100_000  # tokens: at a real time scale, an answer that does not end during a test


@pytest.fixture
def serve(aiohttp_client):
    """serve(time_scale=0, cost=None, **engine settings) -> (client, parts)."""

    async def start(time_scale: float = 0, cost: CostModel | None = None, **settings):
        parts = Parts(
            Driver(Engine(EngineConfig(**settings), cost), time_scale), "m", "org/m", die=lambda by: deaths.append(by)
        )
        parts.deaths = deaths = []
        return await aiohttp_client(build_app(parts)), parts

    return start


async def post(client, path, **body):
    async with client.post(path, json=body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def events(client, path, **body) -> list[dict]:
    """The data of all events of a stream, without the [DONE] that must end it."""
    async with client.post(path, json={**body, "stream": True}) as response:
        assert response.content_type == "text/event-stream"
        text = (await response.read()).decode()
    data = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    if path not in ("/v1/messages", "/v1/responses"):
        assert data.pop() == "[DONE]"
    return [json.loads(each) for each in data]


async def eventually(condition) -> None:
    while not condition():
        await asyncio.sleep(0.002)


async def status(client, path, method="get", **body) -> int:
    async with client.request(method, path, json=body or None) as response:
        await response.read()
        return response.status


async def until_broken(response) -> bytes:
    """What arrives of a body that must not end well."""
    got = b""
    try:
        while chunk := await response.content.readany():
            got += chunk
    except (aiohttp.ClientError, ConnectionError):
        return got
    raise AssertionError("the body ended as if it were whole")


def generate(text, tokens, **body):
    return {"text": text, "sampling_params": {"max_new_tokens": tokens}, **body}


# -- SGLang's own


async def test_generate_says_text_and_counts(serve):
    client, _ = await serve()
    answer = await post(client, "/generate", **generate("why is it so?", 5, rid="r1"))
    assert len(answer["text"].split()) == 5
    meta = answer["meta_info"]
    assert meta.pop("e2e_latency") >= 0
    assert meta == {
        "id": "r1",
        "finish_reason": {"type": "length", "length": 5},
        "prompt_tokens": 4,
        "completion_tokens": 5,
        "cached_tokens": 0,
    }


async def test_the_same_prompt_gets_the_same_answer_and_its_prefix_is_cached(serve):
    client, _ = await serve()
    first, second = [await post(client, "/generate", **generate("x" * 400, 8)) for _ in range(2)]
    assert first["text"] == second["text"]
    assert (first["meta_info"]["cached_tokens"], second["meta_info"]["cached_tokens"]) == (0, 96)


async def test_generate_has_a_default_length(serve):
    client, _ = await serve()
    assert (await post(client, "/generate", text="hi"))["meta_info"]["completion_tokens"] == 128


async def test_streamed_text_is_cumulative_and_the_last_event_has_the_reason(serve):
    client, _ = await serve()
    whole = await post(client, "/generate", **generate("hi", 4))
    parts = await events(client, "/generate", **generate("hi", 4))
    assert [part["meta_info"]["completion_tokens"] for part in parts] == [1, 2, 3, 4]
    assert all(later["text"].startswith(part["text"]) for part, later in itertools.pairwise(parts))
    assert parts[-1]["text"] == whole["text"]
    assert [part["meta_info"]["finish_reason"] for part in parts] == [None] * 3 + [{"type": "length", "length": 4}]


async def test_a_stop_string_ends_the_answer_before_it(serve):
    client, _ = await serve()
    whole = (await post(client, "/generate", **generate("hi", 20)))["text"]
    stop = whole.split()[4]
    params = {"max_new_tokens": 20, "stop": [stop, "never"], "ignore_eos": True, "min_tokens": 3}
    answer = await post(client, "/generate", text="hi", sampling_params=params)
    assert answer["text"] == whole[: whole.index(stop)]
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    assert answer["meta_info"]["completion_tokens"] == whole.index(stop) // 4 + 1
    streamed = await events(client, "/generate", text="hi", sampling_params=params)
    assert streamed[-1]["text"] == answer["text"]


async def test_a_list_of_prompts_gets_a_list_of_answers(serve):
    client, _ = await serve()
    answers = await post(client, "/generate", **generate(["one", "two"], 3))
    single = await post(client, "/generate", **generate("two", 3))
    assert [len(answers), answers[1]["text"]] == [2, single["text"]]
    parts = await events(client, "/generate", **generate(["one", "two"], 3))
    assert sorted(part["index"] for part in parts) == [0, 0, 0, 1, 1, 1]


async def test_token_ids_are_a_prompt_and_share_the_cache_with_their_text(serve):
    client, _ = await serve()
    text = "words and more of them " * 20
    ids = (await post(client, "/tokenize", prompt=text))["tokens"]
    await post(client, "/generate", **generate(text, 1))
    answer = await post(client, "/generate", input_ids=ids, sampling_params={"max_new_tokens": 1})
    assert answer["meta_info"]["prompt_tokens"] == len(ids)
    assert answer["meta_info"]["cached_tokens"] == (len(ids) - 1) // 16 * 16
    assert (await post(client, "/detokenize", tokens=ids))["text"] == text


async def test_an_aborted_request_ends_as_aborted(serve):
    client, parts = await serve(time_scale=1)
    task = asyncio.create_task(post(client, "/generate", **generate("hi", LONG, rid="r1")))
    await eventually(lambda: parts.driver.engine.stats().running)
    async with client.post("/abort_request", json={"rid": "r1"}) as response:
        assert response.status == 200
    assert (await task)["meta_info"]["finish_reason"]["type"] == "abort"
    assert parts.driver.engine.stats().running == 0


async def test_information_is_where_sglang_has_it(serve):
    client, _ = await serve(kv_tokens=1_600, block_size=16)
    for path in ("/get_model_info", "/model_info"):
        assert (await (await client.get(path)).json())["model_path"] == "org/m"
    for path in ("/get_server_info", "/server_info"):
        assert (await (await client.get(path)).json())["max_total_num_tokens"] == 1_600
        assert of_sglang(await (await client.get(path)).read()) == 1_600
    models = await (await client.get("/v1/models")).json()
    assert [model["id"] for model in models["data"]] == ["m"]
    assert await status(client, "/health") == 200
    assert await status(client, "/health_generate") == 200


async def test_load_and_metrics_tell_what_runs(serve):
    client, parts = await serve(time_scale=1, max_num_seqs=1)
    tasks = [asyncio.create_task(post(client, "/generate", **generate("hi" * 100, LONG))) for _ in range(2)]
    await eventually(lambda: parts.driver.engine.stats().waiting)
    [load] = await (await client.get("/get_load")).json()
    assert (load["num_reqs"], load["num_waiting_reqs"]) == (2, 1)
    assert load["num_tokens"] >= 64
    metrics = await (await client.get("/metrics")).text()
    assert queues.read(metrics) == (1, 1)
    samples = prometheus_text.read(metrics)
    assert samples["sglang:cache_hit_rate"] == [0]
    assert 0 < samples["sglang:token_usage"][0] < 1
    assert await status(client, "/flush_cache", "post") == 400
    parts.driver.abort(None)
    await asyncio.gather(*tasks)
    assert await status(client, "/flush_cache") == 200


async def test_a_flushed_cache_has_nothing(serve):
    client, _ = await serve()
    await post(client, "/generate", **generate("x" * 400, 1))
    assert await status(client, "/flush_cache", "post") == 200
    assert (await post(client, "/generate", **generate("x" * 400, 1)))["meta_info"]["cached_tokens"] == 0


async def test_terminate_asks_the_process_to_stop(serve):
    client, parts = await serve()
    assert await status(client, "/terminate") == 200
    assert parts.stop.is_set()


# -- OpenAI's, read by OpenAI's own client


@pytest.fixture
async def ai(serve):
    client, _ = await serve()
    async with openai.AsyncOpenAI(base_url=str(client.make_url("/v1")), api_key="-") as ai:
        yield ai


async def test_completions(ai):
    answer = await ai.completions.create(model="m", prompt="p" * 200, n=2)
    assert [choice.finish_reason for choice in answer.choices] == ["length", "length"]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (50, 32)
    stream = await ai.completions.create(model="m", prompt="p" * 200, stream=True)
    assert "".join([part.choices[0].text async for part in stream]) == answer.choices[0].text


async def test_chat_and_its_next_turn_which_finds_the_first_one_cached(ai):
    turns = [{"role": "user", "content": "q" * 300}]
    answer = await ai.chat.completions.create(model="m", messages=turns, max_tokens=64)
    assert answer.usage.completion_tokens == 64
    turns += [{"role": "assistant", "content": answer.choices[0].message.content}, {"role": "user", "content": "go on"}]
    more = await ai.chat.completions.create(model="m", messages=turns, max_completion_tokens=4)
    computed = more.usage.prompt_tokens - more.usage.prompt_tokens_details.cached_tokens
    assert more.usage.prompt_tokens > answer.usage.total_tokens
    assert computed < 32


async def test_a_chat_stream_has_deltas_a_reason_and_the_usage_asked_for(ai):
    turns = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    options = {"include_usage": True}
    stream = await ai.chat.completions.create(
        model="m", messages=turns, max_tokens=3, stream=True, stream_options=options
    )
    parts = [part async for part in stream]
    assert parts[0].choices[0].delta.role == "assistant"
    assert [bool(part.choices[0].delta.content) for part in parts[1:4]] == [True] * 3
    assert parts[4].choices[0].finish_reason == "length"
    assert parts[5].choices == []
    assert parts[5].usage.completion_tokens == 3
    assert len(parts) == 6


async def test_responses(ai):
    answer = await ai.responses.create(model="m", input="hi", instructions="be brief", max_output_tokens=4)
    assert len(answer.output_text.split()) == 4
    assert answer.usage.output_tokens == 4
    stream = await ai.responses.create(model="m", input="hi", instructions="be brief", max_output_tokens=4, stream=True)
    parts = [part async for part in stream]
    assert "".join(part.delta for part in parts if part.type == "response.output_text.delta") == answer.output_text
    assert parts[-1].response.output_text == answer.output_text
    assert [part.sequence_number for part in parts] == list(range(len(parts)))


async def test_embeddings_are_the_same_in_both_encodings(ai):
    packed = await ai.embeddings.create(model="m", input=["a", "b"])
    plain = await ai.embeddings.create(model="m", input="b", encoding_format="float")
    assert packed.data[1].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert packed.usage.prompt_tokens == 2


# -- the others


async def test_messages_whole_and_streamed(serve):
    client, _ = await serve()
    body = {"messages": [{"role": "user", "content": "hi"}], "system": "be brief", "max_tokens": 3}
    whole = await post(client, "/v1/messages", **body)
    assert (whole["stop_reason"], whole["usage"]["output_tokens"]) == ("max_tokens", 3)
    async with client.post("/v1/messages", json={**body, "stream": True}) as response:
        lines = (await response.text()).splitlines()
    names = [line[7:] for line in lines if line.startswith("event: ")]
    data = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert [each["type"] for each in data] == names
    assert names == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert "".join(each["delta"]["text"] for each in data[2:5]) == whole["content"][0]["text"]


async def test_documents_are_ranked_by_the_words_they_share(serve):
    client, _ = await serve()
    body = {"query": "cat dog", "documents": ["a bird", "a cat", "cat and dog"]}
    assert [each["index"] for each in await post(client, "/v1/rerank", **body)] == [2, 1, 0]
    answer = await post(client, "/rerank", **body, top_n=2)
    assert [(each["index"], each["relevance_score"]) for each in answer["results"]] == [(2, 1.0), (1, 0.5)]


async def test_scores_in_both_shapes(serve):
    client, _ = await serve()
    labels = await post(client, "/v1/score", query="is it", items=["a", "b"], label_token_ids=[1, 2, 3])
    assert [sum(scores) for scores in labels["scores"]] == pytest.approx([1, 1])
    assert [len(scores) for scores in labels["scores"]] == [3, 3]
    pairs = await post(client, "/score", text_1="cat dog", text_2=["cat", "dog cat"])
    assert [each["score"] for each in pairs["data"]] == [0.5, 1.0]


async def test_vectors_of_sglang(serve):
    client, _ = await serve()
    assert len((await post(client, "/encode", text="a"))["embedding"]) == 64
    assert [len(each["embedding"]) for each in await post(client, "/classify", text=["a", "b"])] == [2, 2]


async def test_every_inference_path_of_the_router_is_served(serve):
    client, parts = await serve()
    for path in INFERENCE_PATHS:
        async with client.post(path, json={}) as response:
            assert response.status == 400, path
    assert parts.desk.seen == len(INFERENCE_PATHS)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/generate", b"{", None),
        ("/generate", b"[]", None),
        ("/generate", b"\xff", None),
        ("/generate", b"[" * 100_000, None),
        ("/generate", b'{"text": 1}', "text"),
        ("/generate", b'{"input_ids": [-1]}', "input_ids"),
        ("/generate", b'{"text": "a", "sampling_params": 3}', "sampling_params"),
        ("/generate", b'{"text": "a", "sampling_params": {"max_new_tokens": 99999999999}}', None),
        ("/v1/completions", b'{"prompt": "a", "max_tokens": -1}', "max_tokens"),
        ("/v1/completions", b'{"prompt": "a", "max_tokens": true}', "max_tokens"),
        ("/v1/completions", b'{"prompt": "a", "n": 0}', "n"),
        ("/v1/completions", b'{"prompt": "a", "stop": 1}', "stop"),
        ("/v1/chat/completions", b'{"messages": "a"}', "messages"),
        ("/rerank", b'{"query": "a", "documents": [1]}', "documents"),
        ("/score", b'{"text_1": ["a", "b"], "text_2": ["a"]}', "text_1"),
        ("/detokenize", b'{"tokens": ["a"]}', "tokens"),
        ("/abort_request", b"{}", "rid"),
    ],
)
async def test_a_bad_body_is_answered_in_openais_shape(serve, path, body, param):
    client, _ = await serve()
    async with client.post(path, data=body) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert error["message"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "bad_request", param)


async def test_every_answer_names_its_worker(serve):
    client, _ = await serve()
    for method, path in (("get", "/health"), ("post", "/generate"), ("get", "/nowhere")):
        async with client.request(method, path) as response:
            assert response.headers["x-sim-worker"] == str(client.port)


async def test_nothing_is_served_before_the_model_is_loaded(serve):
    client, parts = await serve()
    parts.ready = False
    assert await status(client, "/health") == 503
    assert await status(client, "/generate", "post", text="a") == 503
    parts.ready = True
    assert await status(client, "/health") == 200


# -- clients that leave


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_its_request(serve, stream):
    client, parts = await serve(time_scale=1)
    async with aiohttp.ClientSession() as session:
        sent = asyncio.create_task(session.post(client.make_url("/generate"), json=generate("hi", LONG, stream=stream)))
        await eventually(lambda: parts.driver.engine.stats().running)
        if stream:
            response = await sent
            await response.content.readline()
            response.close()
        sent.cancel()
    await eventually(lambda: not parts.driver.engine.stats().running)
    stats = parts.driver.engine.stats()
    assert (stats.cancelled, stats.finished, parts.desk.aborted) == (1, 0, 1)
    assert parts.driver.engine.kv.private == 0


async def test_of_many_prompts_all_or_none_are_queued(serve):
    client, parts = await serve(kv_tokens=160)
    async with client.post("/generate", json=generate(["a", "b" * 640], 1)) as response:
        assert response.status == 400
    assert parts.driver.engine.stats().steps == 0


# -- faults


async def arm(client, **faults):
    async with client.post("/fault", json=faults) as response:
        assert response.status == 200, await response.text()


async def test_a_status_can_be_armed_for_so_many_requests(serve):
    client, _ = await serve()
    await arm(client, status=503, retry_after=7, times=1)
    async with client.post("/generate", json={"text": "a"}) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "7")
    await post(client, "/generate", text="a")


async def test_faults_can_be_seen_disarmed_and_misspelt(serve):
    client, _ = await serve()
    await arm(client, status=500)
    assert (await (await client.get("/fault")).json())["armed"]["status"] == 500
    assert (await (await client.delete("/fault")).json())["armed"]["status"] == 0
    assert await status(client, "/fault", "post", statu=500) == 400


@pytest.mark.parametrize("cut_by", ["close", "reset"])
async def test_a_connection_can_be_dropped_before_the_first_byte(serve, cut_by):
    client, parts = await serve()
    await arm(client, drop=True, cut_by=cut_by, times=1)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(b'POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{"text": "ab"}')
    if cut_by == "reset":
        with pytest.raises(ConnectionResetError):
            await reader.read()
    else:
        assert await reader.read() == b""
    writer.close()
    await post(client, "/generate", **generate("a", 1))
    assert parts.desk.aborted == 0


@pytest.mark.parametrize("cut_by", ["close", "reset"])
async def test_a_stream_can_be_broken_after_some_tokens(serve, cut_by):
    client, parts = await serve()
    await arm(client, break_after=3, cut_by=cut_by)
    async with client.post("/v1/completions", json={"prompt": "a", "stream": True}) as response:
        got = await until_broken(response)
    if cut_by == "close":
        assert got.count(b"data: ") == 3
    assert b"DONE" not in got
    assert parts.driver.engine.stats().running == 0
    await post(client, "/v1/completions", prompt="a")


async def test_a_worker_can_hang_with_or_without_its_health(serve):
    client, parts = await serve()
    await arm(client, hang="requests")
    stuck = asyncio.create_task(client.post("/generate", json={"text": "a"}))
    await eventually(lambda: parts.desk.seen)
    assert await status(client, "/health") == 200
    await arm(client, hang="all")
    silent = asyncio.create_task(client.get("/health"))
    answered, waiting = await asyncio.wait({stuck, silent}, timeout=0.2)
    assert not answered
    for task in waiting:
        task.cancel()
    await eventually(lambda: parts.desk.aborted == 1)


async def test_death_comes_at_an_arrival_or_after_a_first_token(serve):
    client, parts = await serve()
    await arm(client, die_after=2)
    await post(client, "/generate", **generate("a", 1))
    assert parts.deaths == []
    await post(client, "/generate", **generate("a", 1))
    assert parts.deaths == ["kill"]
    await arm(client, die_after=1, die_at="first-token", die_by="exit")
    seen = []
    parts.die = lambda by: seen.append((by, parts.driver.engine.stats().generated_tokens))
    await post(client, "/generate", **generate("a", 1))
    assert seen == [("exit", 3)]


async def test_time_passes_as_the_scale_says(serve):
    """An hour a step, if a second were a second."""
    client, parts = await serve(time_scale=1e-6, cost=CostModel(seconds_per_step=3_600))
    await post(client, "/generate", **generate("a", 3))
    assert parts.driver.engine.stats().steps == 3


async def test_with_a_key_only_health_answers_strangers(serve):
    client, parts = await serve()
    parts.key = "s3cret"
    assert await status(client, "/health") == 200
    for path in ("/v1/models", "/metrics", "/get_server_info"):
        assert await status(client, path) == 401
    assert await status(client, "/generate", "post", text="hi") == 401
    async with client.get("/v1/models", headers={"Authorization": "Bearer s3cret"}) as answer:
        assert answer.status == 200
    async with client.get("/v1/models", headers={"Authorization": "Bearer s3cre"}) as answer:
        assert answer.status == 401
