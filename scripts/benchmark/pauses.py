"""How long the router's event loop can be held up: the real data plane over transports that only remember.

Run as a process of its own, which stands for the router's: it prints one JSON object. Each call that the event loop
would make - data from a client, data from a worker, the tick - is timed by the CPU time of this thread, so that what
else the machine does is not counted; a collection of garbage within it is, and is shown by itself, too. Two routers are
driven, one whose index is filled with long prompts, one with short ones.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import json
import random
import sys
from collections.abc import Callable, Iterator
from time import perf_counter, thread_time
from typing import Any

import router.cli  # noqa: F401  # the whole command: what it imports is what the collector walks
from router import exposition, loop, policies
from router.config import RouterConfig
from router.exchange import Plane
from router.fleet import Fleet, State, Worker
from router.front import Gate
from router.metrics import Metrics
from router.parts import Parts

WORKERS = 4
CLIENTS = 64
TICK_EVERY = 500  # requests: a tenth of a second at 5,000 requests/s
READ = 256 * 1024  # bytes that uvloop reads at most in one go
WORST = 8  # calls that are told
MIB = 1024 * 1024

ANSWER = b'{"text":" Paris.","meta_info":{"prompt_tokens":8,"completion_tokens":2}}'
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)


class Stopwatch:
    """CPU times of the calls, in milliseconds, and of the garbage collections by generation."""

    def __init__(self) -> None:
        self.times: list[tuple[float, str]] = []
        self.wall = 0.0  # longest call, milliseconds by the clock: others' turns on this CPU included
        self.collections: dict[int, list[float]] = {0: [], 1: [], 2: []}
        self._collecting = 0.0
        gc.callbacks.append(self._collected)

    def __call__(self, what: str, call: Callable[..., object], *args: object) -> None:
        wall, cpu = perf_counter(), thread_time()
        call(*args)
        self.times.append(((thread_time() - cpu) * 1e3, what))
        self.wall = max(self.wall, (perf_counter() - wall) * 1e3)

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = thread_time()
        else:
            self.collections[info["generation"]].append((thread_time() - self._collecting) * 1e3)

    def close(self) -> None:
        gc.callbacks.remove(self._collected)

    def report(self) -> dict[str, Any]:
        times = sorted(time for time, _ in self.times)
        by_call: dict[str, float] = {}
        for time, what in self.times:
            by_call[what] = max(by_call.get(what, 0.0), time)
        collected = [time for times in self.collections.values() for time in times]
        return {
            "calls": len(times),
            "p50": times[len(times) // 2],
            "p999": times[int(len(times) * 0.999)],
            "worst": max(times[-1], max(collected, default=0.0)),
            "worst_by_clock": self.wall,
            "worst_collection": max(collected, default=0.0),
            "longest": heapq.nlargest(WORST, self.times),
            "by_call": by_call,
            "collections": {str(generation): len(times) for generation, times in self.collections.items()},
        }


class Transport:
    """Takes what is written, and nothing else happens."""

    def __init__(self, written: Callable[[], None]):
        self._written = written
        self._closing = False

    def write(self, data: bytes) -> None:
        self._written()

    def writelines(self, data: object) -> None:
        self._written()

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self._closing = True

    abort = close

    def __getattr__(self, name: str) -> Callable[..., None]:  # pause_reading() and the like
        return lambda *args, **named: None


class Loop:
    """The running loop, but for connections to workers: those are made at once, to nobody."""

    def __init__(self, asked: set[asyncio.Protocol]):
        self._loop = asyncio.get_running_loop()
        self._asked = asked  # worker connections that a request was written to

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(
        self, make: Callable[[], asyncio.Protocol], *args: object, **named: object
    ) -> tuple[Transport, asyncio.Protocol]:
        protocol = make()
        transport = Transport(lambda: self._asked.add(protocol))
        protocol.connection_made(transport)  # type: ignore[arg-type]
        return transport, protocol


class World:
    """A router's data plane with WORKERS workers, CLIENTS client connections, and no network."""

    def __init__(self, watch: Stopwatch):
        config = RouterConfig(api_key="secret", eviction_interval=0.01)  # upkeep on each tick: as often as there is one
        self.watch = watch
        self.fleet = Fleet(config.max_worker_retries)
        self.policy = policies.make(config)
        self.metrics = Metrics()
        self._asked: set[asyncio.Protocol] = set()
        nowhere: Any = Loop(self._asked)
        self.plane = Plane(config, self.fleet, self.policy, self.metrics, nowhere, random.Random(1))
        for port in range(WORKERS):
            worker = Worker(self.fleet.next_id(), f"http://127.0.0.1:{40000 + port}", native_generate=True)
            self.fleet.add(worker)
            self.fleet.set_lifecycle(worker, State.READY)
        gate = Gate(self.plane)
        self._clients = [gate() for _ in range(CLIENTS)]
        for client in self._clients:
            client.connection_made(Transport(lambda: None))  # type: ignore[arg-type]
        self._count = 0
        self.parts: Any = Parts(config, self.fleet, self.policy, self.metrics, None)  # type: ignore[arg-type]

    async def ask(self, what: str, request: bytes) -> None:
        """One request through the router and its answer back; each of the router's calls is timed as `what`."""
        client = self._clients[self._count % CLIENTS]
        for start in range(0, len(request), READ):
            self.watch(what, client.data_received, request[start : start + READ])
        while not self._asked:  # noqa: ASYNC110  # a connection is being made
            await asyncio.sleep(0)
        self.watch(f"answer to {what}", self._asked.pop().data_received, RESPONSE)
        self._count += 1
        if self._count % TICK_EVERY == 0:
            self.tick()
            await asyncio.sleep(0)

    def tick(self) -> None:
        """As the router's own, which has the garbage swept in a call of its own."""
        self.watch("tick", self.plane.tick, self.plane.clock())
        self.watch("sweep", loop.sweep)


class Prompts:
    """Requests with prompts that no other begins like, unless it goes on where that one ended."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)
        self._filler = bytes(self._random.choices(b"abcdefghijklmnopqrstuvwxyz     ", k=2 * MIB))

    def text(self, size: int) -> bytes:
        start = self._random.randrange(MIB)
        return b"%016x%b" % (self._random.getrandbits(64), self._filler[start : start + size - 16])

    def fresh(self, size: int) -> bytes:
        return generate(self.text(size))

    def conversation(self, turns: int, size: int) -> Iterator[bytes]:
        """The same conversation, a turn of `size` bytes longer each time."""
        said = self.text(size)
        for _ in range(turns):
            said += self.text(size)
            yield generate(said)


def generate(prompt: bytes) -> bytes:
    body = b'{"text":"%b","sampling_params":{"max_new_tokens":8}}' % prompt
    head = b"POST /generate HTTP/1.1\r\nhost: router\r\nauthorization: Bearer secret\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


async def full_of_long_prompts(world: World, prompts: Prompts, share: float) -> None:
    """The index full of 16 KB prompts; then more of them, conversations, and prompts of 1 MB."""
    for _ in range(1500):
        await world.ask("16 KB prompt", prompts.fresh(16 * 1024))
    for number in range(round(2000 * share)):
        await world.ask("16 KB prompt, index full", prompts.fresh(16 * 1024))
        if number % 50 == 0:
            await world.ask("1 MB prompt, index full of long ones", prompts.fresh(MIB))
    for _ in range(round(50 * share)):
        for request in prompts.conversation(turns=20, size=2000):
            await world.ask("turn of a conversation", request)


async def full_of_short_prompts(world: World, prompts: Prompts, share: float) -> None:
    """The index full of 80-byte prompts, 65,536 entries; then more, prompts of 1 MB, a restart and a scrape."""
    for _ in range(70_000):
        await world.ask("80 B prompt", prompts.fresh(80))
    for _ in range(round(20_000 * share)):
        await world.ask("80 B prompt, index full", prompts.fresh(80))
    for _ in range(round(30 * share)):
        await world.ask("1 MB prompt, index full of short ones", prompts.fresh(MIB))
    for _ in range(20_000):
        await world.ask("80 B prompt", prompts.fresh(80))
    scrape(world)
    worker = next(iter(world.fleet.workers.values()))
    world.watch("a worker that restarts", world.fleet.forget, worker)
    for _ in range(round(20_000 * share)):
        await world.ask("80 B prompt after a restart", prompts.fresh(80))
    world.watch("a worker that leaves", world.fleet.remove, worker)
    for _ in range(100):
        world.tick()


def scrape(world: World) -> None:
    world.watch("scrape of the metrics", exposition.scrape, world.parts)


async def main(share: float) -> dict[str, Any]:
    """Figures in milliseconds by scenario; `share` scales what is done once the index is full."""
    found = {}
    for scenario in (full_of_long_prompts, full_of_short_prompts):
        watch = Stopwatch()
        world = World(watch)
        await scenario(world, Prompts(seed=1), share)
        watch.close()
        assert {code for _, code in world.metrics.requests} == {200}
        found[scenario.__name__] = {
            **watch.report(),
            "index_bytes": world.policy.index.size,  # type: ignore[attr-defined]
            "evictions": world.policy.index.evictions,  # type: ignore[attr-defined]
        }
    return found


if __name__ == "__main__":
    loop.hold_collector()
    print(json.dumps(asyncio.run(main(float(sys.argv[1])))))
