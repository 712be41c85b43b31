"""Active health: what is asked of workers, how often, and what follows from the answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import unused_port

from router.config import RouterConfig
from router.errors import NotFound
from router.fleet import Breaker, Fleet, State, Worker
from router.health import NotInference, Prober, Tally, learn, probe
from tests.router.engines import MODELS, Engine, Handle, until
from tests.router.world import left_to_collect

FAST = RouterConfig(health_check_interval=0.01, health_check_timeout=1.0)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@asynccontextmanager
async def watched(session, url, config=FAST, **told):
    """A fleet of one worker under watch: (fleet, worker, prober)."""
    fleet = Fleet()
    prober = Prober(config, fleet, session)
    prober.start()
    worker = Worker(fleet.next_id(), url, **told)
    fleet.add(worker)
    try:
        yield fleet, worker, prober
    finally:
        await prober.close()


def gone() -> web.Response:
    raise ConnectionResetError


# -- one probe


async def test_a_probe_of_a_healthy_worker_finds_nothing_wrong(session):
    async with Engine() as engine:
        assert await probe(session, engine.url, "/health", 1.0) is None


async def test_a_probe_says_what_is_wrong_in_a_few_words(session):
    async with Engine({"/health": 503}) as engine:
        assert await probe(session, engine.url, "/health", 1.0) == "HTTP 503"
    assert await probe(session, f"http://127.0.0.1:{unused_port()}", "/health", 1.0) == "connection refused"


async def test_a_probe_gives_up_on_a_worker_that_accepts_and_says_nothing(session):
    async with Silent() as url:
        assert await probe(session, url, "/health", 0.05) == "no answer within 0.05 s"


async def test_a_probe_follows_no_redirect(session):
    async with Engine() as other:
        moved = lambda: web.Response(status=302, headers={"Location": other.url + "/health"})  # noqa: E731
        async with Engine({"/health": moved}) as engine:
            assert await probe(session, engine.url, "/health", 1.0) == "HTTP 302"
        assert other.asked == []


# -- learning


async def test_a_workers_models_are_learnt(session):
    async with Engine() as engine:
        fleet, worker = Fleet(), Worker("w0", engine.url)
        assert await learn(session, fleet, worker) is None
    assert worker.models == ("m",)


@pytest.mark.parametrize(("status", "native"), [(404, False), (405, True), (200, True)])
async def test_generate_is_a_workers_own_unless_it_has_no_such_path(session, status, native):
    async with Engine({"/v1/models": MODELS, "/generate": status}) as engine:
        worker = Worker("w0", engine.url)
        await learn(session, Fleet(), worker)
    assert worker.native_generate is native


async def test_lmdeploys_generate_is_another_than_sglangs(session):
    listing = {"data": [{"id": "m", "owned_by": "lmdeploy"}]}
    async with Engine({"/v1/models": listing, "/generate": 405}) as engine:
        worker = Worker("w0", engine.url)
        await learn(session, Fleet(), worker)
    assert worker.native_generate is False


async def test_what_the_launcher_said_about_generate_stands(session):
    async with Engine({"/v1/models": MODELS, "/generate": 200}) as engine:
        worker = Worker("w0", engine.url, native_generate=False)
        await learn(session, Fleet(), worker)
        assert worker.native_generate is False


@pytest.mark.parametrize(
    "answers",
    [
        {"/get_model_info": {"model_path": "m"}},
        {"/model_info": {"model_path": "m"}},
        {"/v1/models": 401},
        {"/v1/models": "<html>", "/get_model_info": {"model_path": "m"}},
        {"/generate": 405},
    ],
)
async def test_a_worker_without_a_readable_model_list_may_still_be_an_inference_server(session, answers):
    async with Engine(answers) as engine:
        assert await learn(session, Fleet(), Worker("w0", engine.url)) is None


@pytest.mark.parametrize(
    "answers",
    [{}, {"/v1/models": "<html>welcome"}, {"/v1/models": {"data": 1}}, {"/get_model_info": "<html>", "/generate": 200}],
)
async def test_a_server_of_another_kind_is_no_worker(session, answers):
    async with Engine(answers) as engine:
        with pytest.raises(NotInference, match="neither /v1/models nor /get_model_info"):
            await learn(session, Fleet(), Worker("w0", engine.url))


async def test_a_model_list_that_fails_is_asked_for_again_later(session):
    async with Engine({"/v1/models": 503}) as engine:
        assert await learn(session, Fleet(), Worker("w0", engine.url)) == "/v1/models answers HTTP 503"


SERVER_INFO = {"max_total_num_tokens": 4096}
CACHE_CONFIG = 'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0\n'
PROPS = {"default_generation_settings": {"n_ctx": 2048}, "total_slots": 4}


@pytest.mark.parametrize(
    ("path", "answer", "told"),
    [
        ("/server_info", SERVER_INFO, (4096, None)),
        ("/get_server_info", SERVER_INFO, (4096, None)),
        ("/metrics", CACHE_CONFIG, (1600, None)),
        ("/props", PROPS, (2048, 4)),
    ],
)
async def test_what_a_workers_kv_cache_holds_is_learnt_where_its_engine_tells_it(session, path, answer, told):
    async with Engine({"/v1/models": MODELS, path: answer}) as engine:
        worker = Worker("w0", engine.url)
        assert await learn(session, Fleet(), worker) is None
        assert (worker.kv_tokens, worker.kv_prompts) == told


async def test_a_worker_that_has_told_is_asked_no_more(session):
    async with Engine({"/v1/models": MODELS, "/server_info": SERVER_INFO, "/metrics": CACHE_CONFIG}) as engine:
        await learn(session, Fleet(), Worker("w0", engine.url))
        assert engine.asked[-1] == "GET /server_info"


@pytest.mark.parametrize("answer", [404, 401, 500, "<html>", {"max_total_num_tokens": None}])
async def test_a_worker_that_does_not_tell_what_its_kv_cache_holds_is_none_the_worse(session, answer):
    async with Engine({"/v1/models": MODELS, "/server_info": answer}) as engine:
        worker = Worker("w0", engine.url)
        assert await learn(session, Fleet(), worker) is None
        assert (worker.models, worker.kv_tokens) == (("m",), None)


async def test_a_worker_that_leaves_a_question_open_is_asked_for_its_kv_cache_no_more(session):
    class Abrupt(Engine):
        async def _answer(self, request: web.Request) -> web.Response:
            answer = await super()._answer(request)
            if request.path == "/server_info":
                request.transport.abort()
            return answer

    async with Abrupt({"/v1/models": MODELS, "/props": PROPS}) as engine:
        worker = Worker("w0", engine.url)
        assert await learn(session, Fleet(), worker) is None
        assert engine.asked[-1] == "GET /server_info"
        assert (worker.models, worker.kv_tokens) == (("m",), None)


async def test_an_error_page_tells_nothing_of_the_kv_cache(session):
    refusal = lambda: web.json_response(SERVER_INFO, status=500)  # noqa: E731
    async with Engine({"/v1/models": MODELS, "/server_info": refusal}) as engine:
        worker = Worker("w0", engine.url)
        await learn(session, Fleet(), worker)
    assert worker.kv_tokens is None


# -- thresholds


def changes(tally: Tally, results: str) -> str:
    return "".join(("U" if tally.up else "D") if tally.note(result == "+") else "." for result in results)


def test_it_takes_that_many_failures_in_a_row_to_go_down():
    assert changes(Tally(rise=1, fall=3, up=True), "--+--+---") == "........D"


def test_it_takes_that_many_successes_in_a_row_to_come_up():
    assert changes(Tally(rise=2, fall=3), "+-++--+---+") == "...U.....D."


# -- watching


async def test_a_worker_is_starting_until_its_first_good_probe(session):
    async with Engine({"/health": 503, "/v1/models": MODELS}) as engine, watched(session, engine.url) as (_, worker, _):
        await until(lambda: worker.last_error == "HTTP 503")
        assert worker.state is State.STARTING
        engine.answers["/health"] = 200
        await until(lambda: worker.state is State.READY)
        assert worker.last_error is None
        assert worker.models == ("m",)


async def test_a_worker_goes_unhealthy_and_comes_back_with_an_empty_cache(session):
    async with Engine() as engine, watched(session, engine.url) as (fleet, worker, _):
        forgotten: list[Worker] = []
        fleet.on_forget.append(forgotten.append)
        await until(lambda: worker.state is State.READY)
        assert forgotten == []
        engine.answers["/health"] = 500
        await until(lambda: worker.state is State.UNHEALTHY)
        assert worker.last_error == "HTTP 500"
        engine.answers["/health"] = 200
        engine.answers["/v1/models"] = {"data": [{"id": "other"}]}
        engine.answers["/server_info"] = {"max_total_num_tokens": 2048}
        await until(lambda: worker.state is State.READY)
        assert (worker.models, worker.kv_tokens) == (("other",), 2048)
        assert forgotten == [worker]


async def test_what_a_worker_told_of_its_kv_cache_does_not_outlive_it(session):
    answers = {"/health": 200, "/v1/models": MODELS, "/server_info": SERVER_INFO}
    async with Engine(answers) as engine, watched(session, engine.url) as (_, worker, _):
        await until(lambda: worker.state is State.READY)
        assert worker.kv_tokens == 4096
        engine.answers["/health"] = 500
        await until(lambda: worker.state is State.UNHEALTHY)
        engine.answers.update({"/health": 200, "/server_info": 404})
        await until(lambda: worker.state is State.READY)
        assert worker.kv_tokens is None


async def test_a_busy_worker_that_answers_requests_but_no_probe_stays(session):
    slow = RouterConfig(health_check_interval=0.01, health_check_timeout=0.03, health_failure_threshold=2)
    async with Engine() as engine, watched(session, engine.url, slow) as (fleet, worker, prober):
        await until(lambda: worker.state is State.READY)
        async with Silent() as deaf:
            worker.url = deaf
            seen: list[str] = []
            fleet.on_state.append(lambda *change: seen.append(change[3]))
            for now in range(1, 5):  # something comes from it between any two probes
                worker.heard = float(now)
                await until(lambda now=now: prober._watches[worker.id].heard == now)
            assert seen == []
            await until(lambda: worker.state is State.UNHEALTHY)  # nothing comes any more
            assert seen == ["no answer within 0.03 s"]


async def test_a_worker_without_health_is_asked_for_its_models_instead(session):
    async with Engine({"/v1/models": MODELS}) as engine, watched(session, engine.url) as (_, worker, _):
        await until(lambda: worker.state is State.READY)
        assert worker.ready_path == "/v1/models"


async def test_a_server_of_another_kind_never_becomes_ready(session):
    async with Engine({"/health": 200}) as engine, watched(session, engine.url) as (_, worker, prober):
        with pytest.raises(NotInference):
            await prober.up(worker)
        assert worker.state is State.STARTING
        assert worker.last_error is not None
        assert "not an inference server" in worker.last_error


async def test_whoever_waits_for_a_worker_hears_that_it_was_removed(session):
    url = f"http://127.0.0.1:{unused_port()}"
    async with watched(session, url) as (fleet, worker, prober):
        waiting = asyncio.ensure_future(prober.up(worker))
        await until(lambda: worker.last_error)
        fleet.remove(worker)
        with pytest.raises(NotFound, match="was removed"):
            await waiting


async def test_a_removed_worker_is_not_asked_any_more(session):
    async with Engine() as engine, watched(session, engine.url) as (fleet, worker, prober):
        await until(lambda: worker.state is State.READY)
        task = prober._watches[worker.id].task
        fleet.remove(worker)
        await until(task.done)
        assert prober._watches == {}


async def test_a_removed_worker_leaves_nothing_that_must_be_collected(session):
    async with Engine() as engine, watched(session, engine.url) as (fleet, _, prober):

        async def come_and_go(times: int) -> None:
            for _ in range(times):
                guest = Worker(fleet.next_id(), f"{engine.url}/{fleet.next_id()}")
                fleet.add(guest)
                await until(lambda guest=guest: prober._watches[guest.id].tally.up or guest.last_error)
                await asyncio.sleep(0)
                fleet.remove(guest)
            await asyncio.sleep(0.01)

        assert await left_to_collect(come_and_go) < 100  # 35 objects each, when nothing is done about it


async def test_a_worker_is_never_asked_twice_at_once(session):
    busy, most = 0, 0

    class Counting(Engine):
        async def _answer(self, request: web.Request) -> web.Response:
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            try:
                return await super()._answer(request)
            finally:
                busy -= 1

    async with Counting() as engine, watched(session, engine.url) as (fleet, worker, _):
        await until(lambda: worker.state is State.READY)
        for _ in range(4):
            fleet.failed(worker, "it broke")
        await until(lambda: len(engine.asked) > 20)
    assert most == 1


# -- workers launched here, and passive ejection


async def test_a_worker_launched_here_is_left_to_its_supervisor(session):
    async with Engine() as one, Engine() as two, watched(session, one.url, handle=Handle()) as (fleet, ours, _):
        theirs = Worker(fleet.next_id(), two.url)
        fleet.add(theirs)
        await until(lambda: theirs.state is State.READY)
        assert ours.state is State.STARTING
        assert one.asked == []


@pytest.mark.parametrize("handle", [None, Handle()])
async def test_an_unavailable_worker_gets_a_trial_after_a_good_probe(session, handle):
    told = {"handle": handle, "lifecycle": State.READY}
    async with Engine() as engine, watched(session, engine.url, **told) as (fleet, worker, _):
        await asyncio.sleep(0)  # the watch begins, and has nothing to do if the worker was launched here
        engine.answers["/health"] = 500
        for _ in range(4):
            fleet.failed(worker, "it broke")
        assert worker.breaker is Breaker.OPEN
        asked = len(engine.asked)
        await until(lambda: len(engine.asked) > asked + 4 or worker.lifecycle is State.UNHEALTHY)
        engine.answers["/health"] = 200
        await until(lambda: worker.breaker is not Breaker.OPEN)
        if handle is not None:  # its lifecycle is its supervisor's
            assert worker.lifecycle is State.READY
            assert worker.breaker is Breaker.HALF_OPEN
            fleet.failed(worker, "it broke again")
            assert worker.breaker is Breaker.OPEN
            await until(lambda: worker.breaker is Breaker.HALF_OPEN)


async def test_an_unavailable_worker_is_probed_less_and_less_often():
    worker = Worker("w0", "http://w", lifecycle=State.READY, handle=Handle())
    prober = Prober(RouterConfig(), Fleet(), None)
    worker.breaker = Breaker.OPEN
    prober._begin(worker)
    watch = prober._watches["w0"]
    assert [prober._delay(watch) for _ in range(6)] == [0.5, 1, 2, 4, 5, 5]
    worker.breaker = Breaker.CLOSED
    assert prober._delay(watch) is None
    worker.breaker = Breaker.OPEN
    assert prober._delay(watch) == 0.5
    watch.task.cancel()


@pytest.mark.parametrize("ticks", range(4))
async def test_a_watch_ends_even_when_its_worker_fails_as_it_leaves(ticks):
    """Before Python 3.12 a wake-up may swallow the cancellation that comes with it."""
    fleet = Fleet(max_worker_retries=0)
    prober = Prober(RouterConfig(), fleet, None)
    prober._first, prober._look = 0.001, lambda watch: asyncio.sleep(0)
    prober.start()
    worker = Worker("w0", "http://w", lifecycle=State.READY)
    fleet.add(worker)
    task = prober._watches["w0"].task
    for _ in range(5):  # until it rests
        await asyncio.sleep(0)
    fleet.failed(worker, "died")
    for _ in range(ticks):
        await asyncio.sleep(0)
    fleet.remove(worker)
    await asyncio.wait({task}, timeout=2)
    assert task.done()
    await prober.close()


class Silent:
    """Accepts connections and never answers."""

    async def __aenter__(self) -> str:
        self._writers: list[asyncio.StreamWriter] = []
        self._server = await asyncio.start_server(lambda _, writer: self._writers.append(writer), "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
