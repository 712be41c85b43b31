"""Membership: who comes, who goes, and that nothing in flight is lost on the way."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp.test_utils import unused_port

from router.config import RouterConfig
from router.errors import BadRequest, NotFound, WorkersFailed, WorkerTimeout
from router.fleet import Fleet, Role, State, Worker
from router.health import NotInference
from router.members import Members, own_addresses
from tests.router.engines import Engine, Handle, until


@pytest.fixture
async def make() -> AsyncIterator[object]:
    """`await make(...)`: a started membership service with these settings, over an empty fleet."""
    made: list[Members] = []
    async with aiohttp.ClientSession() as session:

        async def make(**settings: object) -> Members:
            defaults = {"health_check_interval": 0.01, "health_check_timeout": 1.0, "worker_startup_timeout": 10.0}
            config = RouterConfig(**{**defaults, **settings})
            made.append(Members(config, Fleet(), session))
            await made[-1].start()
            return made[-1]

        yield make
        for members in made:
            await members.close()


def nowhere() -> str:
    return f"http://127.0.0.1:{unused_port()}"


def launched(members: Members, fails: bool = False) -> Worker:
    """A ready worker that the launcher has put there."""
    fleet = members._fleet
    handle = Handle(fails)
    name = fleet.next_id()
    worker = handle.worker = Worker(name, f"http://{name}", handle=handle, lifecycle=State.READY)
    fleet.add(worker)
    return worker


# -- coming


async def test_configured_workers_that_are_not_up_are_kept_and_watched(make):
    async with Engine({"/health": 503}) as engine:
        members = await make(worker_urls=(engine.url + "/", nowhere(), engine.url))
        workers = list(members._fleet.workers.values())
        assert [worker.id for worker in workers] == ["w0", "w1"]
        await until(lambda: all(worker.last_error for worker in workers))
        assert [worker.state for worker in workers] == [State.STARTING, State.STARTING]
        engine.answers.update({"/health": 200, "/v1/models": {"data": [{"id": "m"}]}})
        await until(lambda: workers[0].state is State.READY)


async def test_a_configured_url_that_is_none_is_refused_at_once(make):
    with pytest.raises(BadRequest, match="must begin with http"):
        await make(worker_urls=("worker1:30001",))


async def test_add_returns_once_the_worker_is_healthy(make):
    members = await make()
    async with Engine({"/health": 503, "/v1/models": {"data": [{"id": "m"}]}}) as engine:
        adding = asyncio.ensure_future(members.add(engine.url))
        await until(lambda: len(engine.asked) > 2)
        assert not adding.done()
        engine.answers["/health"] = 200
        worker = await adding
        assert worker.state is State.READY
        assert worker.models == ("m",)


async def test_a_worker_that_never_becomes_healthy_is_not_kept(make):
    members = await make()
    url = nowhere()
    with pytest.raises(WorkerTimeout, match=r"did not become healthy within 0.1 s: connection refused"):
        await members.add(url, timeout=0.1)
    assert members._fleet.workers == {}


async def test_a_server_of_another_kind_is_refused_and_not_kept(make):
    members = await make()
    async with Engine({"/health": 200}) as engine:
        with pytest.raises(NotInference, match="not an inference server"):
            await members.add(engine.url)
    assert members._fleet.workers == {}


async def test_nobody_stays_behind_when_the_one_who_added_it_leaves(make):
    members = await make()
    adding = asyncio.ensure_future(members.add(nowhere()))
    await until(lambda: members._fleet.workers)
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert members._fleet.workers == {}


async def test_add_without_waiting_returns_at_once_and_keeps_watching(make):
    members = await make()
    worker = await members.add(nowhere(), wait=False, models=["m"], speed=2.5)
    assert (worker.state, worker.models, worker.speed) == (State.STARTING, ("m",), 2.5)
    await until(lambda: worker.last_error == "connection refused")


async def test_the_same_worker_is_not_added_twice(make):
    members = await make()
    await members.add("http://worker1:30001", wait=False)
    with pytest.raises(BadRequest, match=r"^Worker http://worker1:30001 already exists$"):
        await members.add("HTTP://Worker1:30001/", wait=False)


async def test_the_router_does_not_route_to_itself(make):
    members = await make(port=30123)
    with pytest.raises(BadRequest, match="this router itself"):
        await members.add("http://localhost:30123", wait=False)


def test_a_router_on_the_wildcard_address_knows_its_machines_names():
    names = ("Box", "10.0.0.7", "fd00::7")
    assert own_addresses("0.0.0.0", 1, names) == {"0.0.0.0:1", "box:1", "10.0.0.7:1", "[fd00::7]:1"}
    assert own_addresses("10.0.0.7", 1, names) == {"10.0.0.7:1"}
    assert own_addresses("::", 1, ("box",)) == {"[::]:1", "0.0.0.0:1", "box:1"}


async def test_an_open_router_does_not_route_to_itself_by_the_address_of_an_interface(make, monkeypatch):
    interface = [SimpleNamespace(family=socket.AF_INET, address="10.0.0.7")]
    monkeypatch.setattr("psutil.net_if_addrs", lambda: {"eth0": interface})
    members = await make(host="0.0.0.0", port=30123)
    with pytest.raises(BadRequest, match="this router itself"):
        await members.add("http://10.0.0.7:30123", wait=False)
    await members.add("http://10.0.0.8:30123", wait=False)


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
async def test_a_speed_that_nothing_can_be_divided_by_is_refused(make, speed):
    members = await make()
    with pytest.raises(BadRequest, match="speed is"):
        await members.add("http://worker1", wait=False, speed=speed)


async def test_half_a_worker_is_refused_where_requests_go_to_whole_ones(make):
    members = await make()
    for role in (Role.PREFILL, Role.DECODE):
        with pytest.raises(BadRequest, match=f"is a {role.value} worker: those need a router with --pd-disaggregation"):
            await members.add("http://worker1", wait=False, role=role)
    assert members._fleet.workers == {}


async def test_a_whole_worker_is_refused_where_requests_go_to_pairs(make):
    members = await make(pd_disaggregation=True)
    with pytest.raises(BadRequest, match="needs a worker_type here, prefill or decode"):
        await members.add("http://worker1", wait=False)
    assert members._fleet.workers == {}


async def test_the_workers_of_a_pair_are_added_each_with_its_role_and_port(make):
    members = await make(
        pd_disaggregation=True, prefill=(("http://p1", 9000), ("http://p2", None)), decode=("http://d1",)
    )
    told = [(worker.url, worker.role, worker.bootstrap_port) for worker in members._fleet.workers.values()]
    assert told == [
        ("http://p1", Role.PREFILL, 9000), ("http://p2", Role.PREFILL, None), ("http://d1", Role.DECODE, None)
    ]  # fmt: skip


@pytest.mark.parametrize(("role", "port"), [(Role.DECODE, 9000), (Role.PREFILL, 0), (Role.PREFILL, 65_536)])
async def test_a_bootstrap_port_is_a_port_and_a_prefill_workers(make, role, port):
    members = await make(pd_disaggregation=True)
    with pytest.raises(BadRequest, match="bootstrap_port"):
        await members.add("http://worker1", wait=False, role=role, bootstrap_port=port)
    assert members._fleet.workers == {}


async def test_a_worker_that_registers_again_starts_with_an_empty_cache(make):
    members = await make()
    worker = await members.add("http://worker1", wait=False, models=["old"])
    forgotten: list[Worker] = []
    members._fleet.on_forget.append(forgotten.append)
    members.update(worker, ["new"], 3.0)
    assert (worker.models, worker.speed, forgotten) == (("new",), 3.0, [worker])


async def test_a_worker_is_found_by_id_and_by_any_spelling_of_its_url(make):
    members = await make()
    worker = await members.add("http://worker1:80", wait=False)
    assert [members.find(name) for name in ("w0", "http://worker1", "HTTP://worker1/")] == [worker] * 3
    for name in ("w1", "http://worker2", "ftp://worker1", ""):
        with pytest.raises(NotFound, match="not found"):
            members.find(name)


# -- going


async def test_remove_waits_for_the_requests_in_flight(make):
    members = await make()
    worker = launched(members)
    lease = members._fleet.lease(worker, 10, 0.0)
    removing = asyncio.ensure_future(members.remove(worker))
    await until(lambda: worker.draining)
    assert members._fleet.candidates(None) == ()
    assert worker.handle.calls == []
    lease.release(1.0)
    await removing
    assert worker.handle.calls == ["stop"]
    assert members._fleet.workers == {}


async def test_forced_removal_does_not_wait(make):
    members = await make()
    worker = launched(members)
    members._fleet.lease(worker, 10, 0.0)
    await members.remove(worker, force=True)
    assert members._fleet.workers == {}


async def test_a_drain_ends_after_the_drain_timeout(make):
    members = await make(drain_timeout=0.06)
    worker = launched(members)
    members._fleet.lease(worker, 10, 0.0)
    await members.remove(worker)
    assert members._fleet.workers == {}


async def test_a_removal_goes_on_when_the_one_who_asked_leaves(make):
    members = await make()
    worker = launched(members)
    lease = members._fleet.lease(worker, 10, 0.0)
    removing = asyncio.ensure_future(members.remove(worker))
    await until(lambda: worker.draining)
    removing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await removing
    lease.release(1.0)
    await until(lambda: not members._fleet.workers)


async def test_drain_and_undrain_only_change_who_may_be_picked(make):
    members = await make()
    worker = launched(members)
    members.drain(worker)
    assert (worker.state, members._fleet.candidates(None)) == (State.DRAINING, ())
    members.undrain(worker)
    assert (worker.state, members._fleet.candidates(None)) == (State.READY, (worker,))


async def test_terminate_stops_a_process_launched_here(make):
    members = await make()
    worker = launched(members)
    members._fleet.lease(worker, 10, 0.0)
    await members.terminate(worker)
    assert worker.handle.calls == ["stop"]
    assert members._fleet.workers == {}


async def test_terminate_asks_other_engines_to_stop(make):
    members = await make()
    async with Engine() as engine:
        engine.answers["GET /terminate"] = 200
        await members.terminate(await members.add(engine.url))
        assert "GET /terminate" in engine.asked
    assert members._fleet.workers == {}


async def test_an_engine_that_cannot_be_told_to_stop_is_removed_and_reported(make):
    members = await make()
    async with Engine() as engine:
        with pytest.raises(WorkersFailed, match=r"Failed to terminate node .*: HTTP 404; it was removed"):
            await members.terminate(await members.add(engine.url))
    assert members._fleet.workers == {}


async def test_an_engine_that_dies_without_an_answer_has_stopped(make):
    members = await make()
    await members.terminate(await members.add(nowhere(), wait=False))
    assert members._fleet.workers == {}


async def test_a_worker_that_is_leaving_gets_no_request_whoever_asks_for_it(make):
    members = await make()
    worker = launched(members)
    lease = members._fleet.lease(worker, 10, 0.0)
    removing = asyncio.ensure_future(members.remove(worker))
    await until(lambda: worker.draining)
    members.undrain(worker)
    assert members._fleet.candidates(None) == ()
    lease.release(1.0)
    await removing


# -- restarting


async def test_restart_drains_first_and_serves_again(make):
    members = await make()
    worker = launched(members)
    lease = members._fleet.lease(worker, 10, 0.0)
    restarting = asyncio.ensure_future(members.restart(worker))
    await until(lambda: worker.draining)
    lease.release(1.0)
    await restarting
    assert worker.handle.seen == [(True, 0)]
    assert worker.state is State.READY


async def test_a_drained_worker_stays_drained_over_a_restart(make):
    members = await make()
    worker = launched(members)
    members.drain(worker)
    await members.restart(worker)
    assert worker.state is State.DRAINING


async def test_a_worker_drained_during_its_restart_stays_drained(make):
    members = await make()
    worker = launched(members)
    lease = members._fleet.lease(worker, 10, 0.0)
    restarting = asyncio.ensure_future(members.restart(worker))
    await until(lambda: worker.draining)
    members.drain(worker)
    lease.release(1.0)
    await restarting
    assert worker.state is State.DRAINING


async def test_a_worker_removed_during_a_rolling_restart_does_not_end_it(make):
    members = await make()
    leaving, other = launched(members), launched(members)
    lease = members._fleet.lease(leaving, 10, 0.0)
    restarting = asyncio.ensure_future(members.restart_all())
    await until(lambda: leaving.draining)
    await members.remove(leaving, force=True)
    leaving.handle.fails = True  # what is stopped cannot be restarted
    lease.release(1.0)
    assert await restarting == [other]


async def test_a_worker_started_elsewhere_cannot_be_restarted_from_here(make):
    members = await make()
    worker = await members.add("http://worker1", wait=False)
    with pytest.raises(BadRequest, match=r"^worker http://worker1 was not launched here"):
        await members.restart(worker)


async def test_a_rolling_restart_has_all_but_one_worker_serving(make):
    members = await make()
    workers = [launched(members) for _ in range(3)]
    elsewhere = await members.add("http://worker1", wait=False)
    serving: list[int] = []
    for worker in workers:
        worker.handle._note = lambda call: serving.append(len(members._fleet.candidates(None)))
    assert await members.restart_all() == workers
    assert serving == [2, 2, 2]
    assert elsewhere.restarted == {}
    assert not any(worker.draining for worker in workers)


async def test_two_rolling_restarts_do_not_overlap(make):
    members = await make()
    workers = [launched(members) for _ in range(2)]
    serving: list[int] = []
    for worker in workers:
        worker.handle._note = lambda call: serving.append(len(members._fleet.candidates(None)))
    await asyncio.gather(members.restart_all(), members.restart_all())
    assert serving == [1, 1, 1, 1]


async def test_a_rolling_restart_stops_at_a_worker_that_does_not_come_back(make):
    members = await make()
    bad, good = launched(members, fails=True), launched(members)
    with pytest.raises(WorkersFailed, match="worker http://w0 did not come back: it exited with code 1"):
        await members.restart_all()
    assert good.handle.calls == []
    assert not bad.draining


# -- flushing


async def test_flush_reaches_every_worker_and_empties_the_index(make):
    members = await make()
    forgotten: list[str] = []
    members._fleet.on_forget.append(lambda worker: forgotten.append(worker.id))
    async with Engine() as posts, Engine() as gets, Engine() as cannot:
        posts.answers["POST /flush_cache"] = 200
        gets.answers.update({"POST /flush_cache": 405, "GET /flush_cache": 200})
        for engine in (posts, gets, cannot):
            await members.add(engine.url)
        gone = nowhere()
        await members.add(gone, wait=False)
        assert await members.flush() == {
            posts.url: None,
            gets.url: None,
            cannot.url: "HTTP 404",
            gone: "connection refused",
        }
        assert "GET /flush_cache" not in posts.asked
    assert forgotten == ["w0", "w1", "w2", "w3"]
