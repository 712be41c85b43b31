"""A data plane over fault workers on loopback, and a client that reads what comes back byte for byte."""

from __future__ import annotations

import asyncio
import gc
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from router.config import RouterConfig
from router.exchange import Plane
from router.fleet import Fleet, State, Worker
from router.front import Gate
from router.metrics import Metrics
from tests.e2e.fault_worker import FaultWorker


class InOrder:
    """The first candidate, so that a test knows who is tried first."""

    index = None

    def __init__(self) -> None:
        self.under_way: dict[Any, Worker] = {}  # picked for, and not done
        self.answers = 0
        self.usages: list[Any] = []

    def pick(self, request: Any, candidates: Any, now: float, rng: random.Random) -> Worker:
        assert request not in self.under_way, "the pick before was not done"
        self.under_way[request] = candidates[0]
        return candidates[0]

    def answered(self, request: Any, worker: Worker, now: float) -> None:
        assert len(request.key) >= request.matched, "the prompt was forgotten"
        self.answers += 1

    def done(self, request: Any, worker: Worker) -> None:
        if self.under_way.pop(request, None) and request.usage is not None:
            self.usages.append(request.usage)

    def forget(self, worker: Worker) -> None: ...

    def upkeep(self, now: float) -> None: ...


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False  # ended as its own framing says

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection to the router."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = "".join(f"{k}: {v}\r\n" for k, v in (headers or {}).items())
        head = f"POST {path} HTTP/1.1\r\nHost: router\r\n{lines}Content-Length: {len(data)}\r\n\r\n"
        self.send(head.encode("latin-1") + data)

    async def head(self) -> Answer:
        """Read a response's head."""
        raw = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = raw[:-4].split("\r\n")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers or name.lower() == "set-cookie", f"two {name} headers"
            headers[name.lower()] = value
        return Answer(int(first.split(" ")[1]), headers)

    async def answer(self) -> Answer:
        """Read a whole response, or as much of it as comes."""
        answer = await self.head()
        if "content-length" in answer.headers:
            answer.body = await self._up_to(int(answer.headers["content-length"]))
            answer.complete = len(answer.body) == int(answer.headers["content-length"])
        elif "transfer-encoding" in answer.headers:
            await self._chunks(answer)
        else:
            answer.body, answer.complete = await self._rest()
        return answer

    async def _up_to(self, size: int) -> bytes:
        try:
            return await self.reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            return error.partial

    async def _chunks(self, answer: Answer) -> None:
        try:
            while size := int((await self.reader.readuntil(b"\r\n")).strip(), 16):
                answer.body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n"
            answer.complete = True
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    async def _rest(self) -> tuple[bytes, bool]:
        data = b""
        try:
            while more := await self.reader.read(65536):
                data += more
        except ConnectionError:
            return data, False
        return data, True

    async def closed(self) -> bool:
        """Whether the router ends the connection without another byte."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.writer.close()


class World:
    """Workers w0, w1, ... behind a router's data plane."""

    def __init__(self, config: RouterConfig):
        self.config = config
        self.fleet = Fleet(config.max_worker_retries)
        self.metrics = Metrics()
        self.workers: list[FaultWorker] = []
        self.handed_over: list[asyncio.Protocol] = []
        self._clients: list[Client] = []

    async def start(self, workers: int) -> World:
        loop = asyncio.get_running_loop()
        decode_policy = InOrder() if self.config.pd_disaggregation else None
        self.plane = Plane(self.config, self.fleet, InOrder(), self.metrics, loop, random.Random(1), decode_policy)
        self.gate = Gate(self.plane)
        self.gate.elsewhere = self._elsewhere
        self._server = await loop.create_server(self.gate, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        for _ in range(workers):
            await self.add()
        return self

    def _elsewhere(self) -> asyncio.Protocol:
        self.handed_over.append(Recorder())
        return self.handed_over[-1]

    async def add(self, **known: Any) -> Worker:
        """One more worker, ready."""
        process = await FaultWorker.start()
        self.workers.append(process)
        known = {"models": ("m",), "native_generate": True, "lifecycle": State.READY, **known}
        worker = Worker(self.fleet.next_id(), process.url, **known)
        self.fleet.add(worker)
        return worker

    def dead(self) -> Worker:
        """One more worker, that nothing listens for."""
        worker = Worker(self.fleet.next_id(), "http://127.0.0.1:1", lifecycle=State.READY, native_generate=True)
        self.fleet.add(worker)
        return worker

    def worker(self, number: int) -> Worker:
        return self.fleet.workers[f"w{number}"]

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self._clients.append(client)
        return client

    async def post(self, body: Any = None, path: str = "/generate", **headers: str) -> Answer:
        """One request on a connection of its own."""
        client = await self.connect()
        client.post(path, {"text": "hi"} if body is None else body, headers)
        answer = await client.answer()
        client.close()
        return answer

    def tried(self) -> list[int]:
        """How many requests each worker has seen."""
        return [len(worker.requests) for worker in self.workers]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that a socket brings about."""
        while not holds():
            await asyncio.sleep(0.002)

    async def quiet_workers(self) -> None:
        """Nothing is in flight on any worker."""
        await self.until(lambda: all(worker.inflight == 0 for worker in self.fleet.workers.values()))

    async def quiet(self) -> None:
        """Everything taken has been given back."""
        await self.until(lambda: self.metrics.inflight == 0)
        if self.config.pd_disaggregation:  # a prefill worker's answer may end after the client's
            await self.quiet_workers()
        for worker in self.fleet.workers.values():
            assert (worker.inflight, worker.prefills, worker.trial) == (0, 0, None)
            assert (worker.prefill_outstanding, worker.context) == (0, 0)
        for policy in (self.plane.policy, self.plane.decode_policy):
            assert not getattr(policy, "under_way", None)
        assert not self.plane.waiting
        assert self.plane.retrying == 0
        assert self.plane.admission.taken == 0
        assert len(self.plane.admission) == 0

    async def stop(self) -> None:
        for client in self._clients:
            client.close()
        self.gate.close()
        self._server.close()
        self.plane.pool.close()
        await self.quiet()
        for worker in self.workers:
            await worker.stop()


class Recorder(asyncio.Protocol):
    """Stands where aiohttp would."""

    def __init__(self) -> None:
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data


async def left_to_collect(repeat: Callable[[int], Awaitable[None]]) -> int:
    """How many objects only the collector can free after this was done ten times, once all is warm."""
    await repeat(2)
    gc.collect()
    gc.disable()
    try:
        await repeat(10)
        return gc.collect()
    finally:
        gc.enable()
