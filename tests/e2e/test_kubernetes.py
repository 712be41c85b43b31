"""Workers that a Kubernetes cluster brings: they join, are drained, leave, and outlive the API server's troubles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.e2e.commands import Command, Load
from tests.e2e.fault_worker import JSON, Answer, Connection, FaultWorker, Request, Status, wants_stream
from tests.e2e.kubernetes_api import NAMESPACE, Cluster

pytestmark = pytest.mark.e2e

ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


@pytest.fixture
async def engines() -> AsyncIterator[list[FaultWorker]]:
    """Three, on addresses of their own and one port, as pods are."""
    first = await FaultWorker.start(host=ADDRESSES[0])
    made = [first, *[await FaultWorker.start(first.port, host) for host in ADDRESSES[1:]]]
    yield made
    for engine in made:
        await engine.stop()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = await Cluster.start()
    yield made
    await made.stop()


@pytest.fixture
async def router(start, cluster, engines, tmp_path: Path) -> Command:
    place = ("--service-discovery-port", str(engines[0].port), "--service-discovery-namespace", NAMESPACE)
    options = ("--service-discovery", "--selector", "app=worker", *place, "--policy", "round_robin")
    return await start("router", *options, KUBECONFIG=cluster.kubeconfig(tmp_path / "kubeconfig"))


async def states(router: Command) -> dict[str, str]:
    """Last number of the address -> state."""
    return {w["url"].split(":")[1].rpartition(".")[2]: w["state"] for w in await router.workers()}


async def until(router: Command, **wanted: str) -> None:
    """Wait until these are the workers: until(router, _2="ready")."""
    while await states(router) != {name[1:]: state for name, state in wanted.items()}:
        await asyncio.sleep(0.02)


async def holds(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.02)


async def test_pods_that_are_there_join_and_others_when_they_are_ready(router, cluster):
    await cluster.put("a", ADDRESSES[0])
    await cluster.put("b", ADDRESSES[1], ready=False)
    await cluster.put("c", ADDRESSES[2], app="database")
    await until(router, _2="ready")
    await cluster.put("b", ADDRESSES[1])
    await until(router, _2="ready", _3="ready")
    assert (await router.ask("POST", "/v1/completions", json={"model": "m", "prompt": "hi"}))[0] == 200


class Generates:
    """Answers /generate as an engine that has it does."""

    async def answer(self, connection: Connection, request: Request) -> None:
        whole = Status(200, JSON, b'{"text": "ok", "meta_info": {}}')
        await (Answer() if wants_stream(request) else whole).answer(connection, request)


async def test_a_pod_that_ends_is_drained_and_no_request_is_lost(router, cluster, engines):
    for name, address in zip("abc", ADDRESSES, strict=True):
        await cluster.put(name, address)
    await until(router, _2="ready", _3="ready", _4="ready")
    for engine in engines:
        engine.default = Generates()
    load = Load(router.url)
    await load.more(50)
    await cluster.put("a", ADDRESSES[0], ready=False, ending=True)
    await until(router, _2="draining", _3="ready", _4="ready")
    while (await router.workers())[0]["inflight"]:
        await asyncio.sleep(0.01)
    served = len(engines[0].requests)
    await load.more(50)
    assert len(engines[0].requests) == served
    await cluster.delete("a")
    await until(router, _3="ready", _4="ready")
    await load.more(50)
    await load.end()
    assert load.bad == []


async def test_events_that_come_twice_change_nothing(router, cluster):
    await cluster.put("a", ADDRESSES[0])
    await until(router, _2="ready")
    for _ in range(3):
        await cluster.put("a", ADDRESSES[0])
    await cluster.put("b", ADDRESSES[1])
    await until(router, _2="ready", _3="ready")
    assert [worker["id"] for worker in await router.workers()] == ["w0", "w1"]


async def test_a_watch_that_ends_in_good_order_goes_on_from_the_last_bookmark(router, cluster):
    await cluster.put("a", ADDRESSES[0])
    await until(router, _2="ready")
    await holds(lambda: cluster.watches != [])
    await cluster.bookmark()
    cluster.forgotten = cluster.version  # from before the bookmark nobody can watch any more
    watches, lists = len(cluster.watches), cluster.lists
    await cluster.end_watches()
    await holds(lambda: len(cluster.watches) > watches)
    await cluster.put("b", ADDRESSES[1])
    await until(router, _2="ready", _3="ready")
    assert (len(cluster.watches), cluster.lists) == (watches + 1, lists)


async def test_a_connection_that_breaks_costs_no_worker(router, cluster):
    await cluster.put("a", ADDRESSES[0])
    await until(router, _2="ready")
    lists = cluster.lists
    await cluster.cut()
    await holds(lambda: cluster.lists > lists)
    await cluster.put("b", ADDRESSES[1])
    await until(router, _2="ready", _3="ready")
    assert [worker["id"] for worker in await router.workers()] == ["w0", "w1"]


async def test_a_watch_that_is_too_old_lists_again_and_makes_good_what_was_missed(router, cluster):
    await cluster.put("a", ADDRESSES[0])
    await cluster.put("b", ADDRESSES[1])
    await until(router, _2="ready", _3="ready")
    cluster.failing = 503
    await cluster.cut()
    await router.said("cannot watch pods (HTTP 503)")
    cluster.events.clear()
    await cluster.delete("a")
    await cluster.put("c", ADDRESSES[2])
    await cluster.forget()
    assert set(await states(router)) == {"2", "3"}  # an API server that is away takes nobody's workers
    cluster.failing = 0
    await until(router, _3="ready", _4="ready")


@pytest.mark.parametrize("odd", ["<html>", "[]", '{"items": [{"metadata": {}}]}'])
async def test_an_answer_that_is_no_list_of_pods_ends_nothing(router, cluster, odd):
    await cluster.put("a", ADDRESSES[0])
    await until(router, _2="ready")
    cluster.odd = odd
    await cluster.cut()
    await holds(lambda: cluster.odd_answers == 2)  # it asks again after the first
    cluster.odd = ""
    await cluster.put("b", ADDRESSES[1])
    await until(router, _2="ready", _3="ready")


async def test_an_api_server_that_is_started_again_is_found_again(router, cluster):
    await cluster.put("a", ADDRESSES[0])
    await until(router, _2="ready")
    port = cluster.port
    await cluster.stop()
    await router.said("cannot watch pods")
    await cluster.put("b", ADDRESSES[1])
    await cluster.listen(port)
    await until(router, _2="ready", _3="ready")


async def test_a_pod_with_an_old_ones_address_is_a_new_worker(router, cluster):
    await cluster.put("a", ADDRESSES[0])
    await until(router, _2="ready")
    del cluster.pods["a"]
    await cluster.put("heir", ADDRESSES[0])
    while [worker["id"] for worker in await router.workers()] != ["w1"]:
        await asyncio.sleep(0.02)
    await until(router, _2="ready")


async def test_a_token_that_is_not_taken_is_said(start, cluster, engines, tmp_path):
    file = tmp_path / "kubeconfig"
    cluster.kubeconfig(file)
    file.write_text(file.read_text().replace("pods-reader", "wrong"))
    router = await start("router", "--service-discovery", "--selector", "app=worker", KUBECONFIG=str(file))
    await router.said("cannot watch pods (HTTP 401: the token is not taken)")
    assert await router.workers() == []
    assert not any("wrong" in line for line in router.lines)


async def test_no_cluster_is_one_clear_line(start, tmp_path):
    router = await start("router", "--service-discovery", "--selector", "app=w", KUBECONFIG=str(tmp_path / "none"))
    assert await router.end() == 2
    assert "finds no cluster" in router.lines[-1]
    assert "Traceback" not in "\n".join(router.lines)
