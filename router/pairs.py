"""One request on two workers: one computes the prompt, the other makes the answer (prefill / decode disaggregation).

Both get the request at once, with what they need to find each other (router/bootstrap.py). The decode worker's answer
is the client's. The prefill worker's is read and dropped, but for an error, and what it says of the prompt's tokens.

    pair chosen -> both tried -> the decode worker answers -> committed -> ended
         ^             |
         +-------------+  a fault of either one: the other is called off, too, and a pair is chosen anew

A decode worker that has begun to answer has all that it needs of the other: from there on a prefill worker that fails
costs the client nothing.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from router import bootstrap
from router.errors import NotFound, NoWorker, RouterError
from router.exchange import Client, Exchange, Lost, Plane, post, reach
from router.fleet import Lease, Role, Worker
from router.http1 import ResponseHead, without
from router.relay import Whole
from router.request import RouteRequest
from router.retry import Fault, classify
from router.upstream import Connection
from router.usage import NEAR_THE_END, Usage, read

# How long a prefill worker's answer may take once the decode worker's is complete, seconds. It is a few bytes that are
# on their way, or never come.
GRACE = 5.0


class Prefill:
    """The prefill worker's part of one attempt. Listens to its connection; may outlive the exchange by GRACE."""

    __slots__ = (
        "_before", "_computed", "_connection", "_latest", "_lease", "_pair", "_parts", "_plane", "_request", "_task",
        "_timer", "ended", "passed_on", "worker",
    )  # fmt: skip

    def __init__(self, pair: PairExchange, plane: Plane, request: RouteRequest, worker: Worker):
        self.worker = worker
        self.ended = False  # nothing more comes of it
        self.passed_on = False  # its answer, an error, is the client's
        self._pair = pair
        self._plane = plane
        self._request = request
        self._computed = False
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None  # a connection is being made
        self._timer: asyncio.TimerHandle | None = None
        self._parts: list[bytes] = []  # of an answer that is needed whole
        self._before = self._latest = b""  # the ends of its answer's last two pieces
        self._lease: Lease = plane.fleet.lease(
            worker, request.uncached_tokens, plane.clock(), request.prompt_tokens, request.computed_by
        )

    def start(self, fresh: bool) -> None:
        connection = None if fresh else self._plane.pool.take(self.worker)
        if connection is None:
            self._task = self._plane.loop.create_task(self._connect())
        else:
            self._send(connection)

    async def _connect(self) -> None:
        try:
            connection = await reach(self._plane, self.worker)
        except Lost as error:
            self._task = None
            if not self.ended:
                self.on_lost(error.fault, error.reason)
            return
        self._task = None
        if self.ended:
            connection.abort()
        else:
            self._send(connection)

    def _send(self, connection: Connection) -> None:
        self._connection = connection
        head, body = self._pair.request_to(self.worker)
        connection.send(self, head, body)

    # -- its answer

    def on_head(self, head: ResponseHead) -> bool:
        if head.status >= 400:
            return self._pair.prefill_refused(self, head)
        return self._pair.logprobs

    def on_body(self, data: bytes, last: bool) -> None:
        if self.passed_on:
            if last:
                self.drop()
            self._pair.on_body(data, last)
            return
        if data:
            self.computed()
            self._before, self._latest = self._latest, data if len(data) <= NEAR_THE_END else data[-NEAR_THE_END:]
            if self._pair.logprobs:
                self._parts.append(data)
        if last:
            self._complete()

    def on_lost(self, fault: Fault, reason: str) -> None:
        self._connection = None
        if self.passed_on:
            self.drop()
            self._pair.on_lost(fault, reason)
        else:
            self._pair.prefill_lost(self, fault, reason)

    def computed(self) -> None:
        """It has computed the prompt."""
        if not self._computed and not self.ended:
            self._computed = True
            self._lease.first_byte()
            self._plane.policy.answered(self._request, self.worker, self._plane.clock())

    def _complete(self) -> None:
        self._connection = None
        self._plane.fleet.succeeded(self.worker)
        usage = read(self._latest) or read(self._before)
        if usage is not None:
            self._request.usage = usage
            self._plane.metrics.told(usage)
            self._lease.told(usage)
        self._end(latency=True)
        self._pair.prefilled()

    # -- the end

    @property
    def late(self) -> bool:
        """Whether nothing shows that it has computed the prompt."""
        return not self._computed and not self.ended

    def answer(self) -> bytes:
        """All of it."""
        return b"".join(self._parts)

    def hand_over(self) -> Connection | None:
        """Its answer goes to the client; returns what it comes by."""
        self.passed_on = True
        return self._connection

    def settle(self) -> None:
        """The client's answer has begun: what has not been sent need not be."""
        if self._task is not None:
            self.drop()

    def linger(self) -> None:
        """The client has its answer: what is still to come is not waited for much longer."""
        if not self.ended:
            self._timer = self._plane.loop.call_later(GRACE, self.drop)

    def drop(self) -> None:
        """Call it off, if it is not over; more calls do nothing."""
        if self._connection is not None and not self.passed_on:
            self._connection.abort()
        self._connection = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._end()

    def _end(self, latency: bool = False) -> None:
        if self.ended:
            return
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._lease.release(self._plane.clock(), latency=latency)
        self._plane.policy.done(self._request, self.worker)


class PairExchange(Exchange):
    """An exchange whose worker is the decode worker; the other one's part is a Prefill."""

    __slots__ = ("_ask", "_held", "_prefill", "_share", "logprobs")

    def __init__(
        self, plane: Plane, client: Client, request: RouteRequest, target: bytes, lines: bytes, body: bytes, id: bytes
    ):
        super().__init__(plane, client, request, target, lines, body, id)
        self.logprobs = False  # the prefill worker's answer is part of the client's
        self._ask: bootstrap.Ask | None = None
        self._prefill: Prefill | None = None  # of the attempt under way
        self._held: list[bytes] = []  # the decode worker's answer, until the other one's has come
        # What is left of the request for a decode worker: no prompt to compute.
        self._share = RouteRequest(request.path, b"", request.model, request.stream, request.session)

    def start(self) -> None:
        path = self._request.path
        try:
            if path not in bootstrap.PATHS:
                raise NotFound(f"{path} is not served by pairs of workers: there are {', '.join(bootstrap.PATHS)}")
            self._ask = bootstrap.ask(path, self._body)
        except RouterError as error:
            self._plane.metrics.inflight += 1
            self._refuse(error)
            return
        self.logprobs = self._ask.logprobs and not self._request.stream
        if self.logprobs:  # compressed answers cannot be put together
            self._lines = without(self._lines, b"accept-encoding")
        super().start()

    # -- trying

    def dispatch(self) -> None:
        """Pick a pair and try it."""
        plane, request = self._plane, self._request
        prefills, decodes = self._left(Role.PREFILL), self._left(Role.DECODE)
        if not prefills or not decodes:
            self._refuse(self._nobody())
            return
        if self._attempts is not None and self._attempts.suspect:
            now = plane.clock()
            prefills, decodes = plane.suspects.free(prefills, now), plane.suspects.free(decodes, now)
            if not prefills or not decodes:
                plane.suspects.wait(self)
                return
        plane.fleet.presume(self._started)
        began = perf_counter()
        prefill = plane.policy.pick(request, prefills, self._started, plane.rng)
        decode = plane.decode_policy.pick(self._share, decodes, self._started, plane.rng)
        plane.metrics.picked(perf_counter() - began, request.matched, len(request.key))
        self._begin(prefill, decode, False)

    def _nobody(self) -> RouterError:
        error = super()._nobody()
        if not isinstance(error, NoWorker):
            return error
        fleet = self._plane.fleet
        role = Role.DECODE if fleet.candidates(self._request.model, Role.PREFILL) else Role.PREFILL
        if any(worker.role is role for worker in fleet.workers.values()):
            return NoWorker(f"no {role.value} worker is ready")
        return NoWorker(f"there is no {role.value} worker: add one with POST /workers")

    def _begin(self, prefill: Worker, decode: Worker, fresh: bool) -> None:
        plane = self._plane
        now = plane.clock()
        self._worker = decode
        if self._span is not None:
            self._span.attempts += 1
        if self._attempts is not None and self._attempts.suspect:
            plane.suspects.take(self, prefill, now)
            plane.suspects.take(self, decode, now)
        self._held.clear()
        self._body = bootstrap.introduce(self._ask, prefill.url, prefill.bootstrap_port, plane.rng)
        # It sets memory aside for the prompt at once, and computes none of it.
        self._lease = plane.fleet.lease(decode, 0, now, self._request.prompt_tokens)
        self._lease.first_byte()
        self._prefill = Prefill(self, plane, self._request, prefill)
        self._prefill.start(fresh)
        self._reach(decode, fresh)

    def _try(self, worker: Worker, fresh: bool = False) -> None:
        """The same pair once more, in other rooms."""
        self._begin(self._prefill.worker, worker, fresh)

    def request_to(self, worker: Worker) -> tuple[bytes, bytes]:
        """Head and body of the request to one of the pair."""
        return post(self.target, worker, self._lines, len(self._body)), self._body

    # -- the prefill worker's answer

    def prefill_refused(self, prefill: Prefill, head: ResponseHead) -> bool:
        """It answers with an error. Returns whether the body is wanted without chunk framing."""
        reason = f"the worker answered {head.status}"
        fault = classify(head.status, head.retry_after)
        if fault is not None:
            self._count(fault, reason, prefill.worker)
        if not self._needs(prefill):
            prefill.drop()
            return False
        retry = self._retry(fault, prefill.worker) if fault is not None else None
        if retry is not None:
            self._give_back(self._plane.clock())
            self._again(fault, retry)
            return False
        return self._pass_on(prefill, head)

    def _pass_on(self, prefill: Prefill, head: ResponseHead) -> bool:
        """Its answer is the client's; the decode worker is called off."""
        self._call_off(self._plane.clock())
        self._connection = prefill.hand_over()
        self._worker = prefill.worker
        self.logprobs = False
        return self._answer(head)

    def prefill_lost(self, prefill: Prefill, fault: Fault, reason: str) -> None:
        """Its connection is gone before its answer was complete."""
        if self._needs(prefill):
            self._failed(fault, reason, prefill.worker)
        else:
            self._count(fault, reason, prefill.worker)
            prefill.drop()

    def prefilled(self) -> None:
        """Its answer is complete."""
        if self._open and self._held and self._connection is None:
            self._join()

    def _needs(self, prefill: Prefill) -> bool:
        """Whether the client's answer still depends on it."""
        return self._open and prefill is self._prefill and self._ttfb is None

    # -- the decode worker's answer

    def on_head(self, head: ResponseHead) -> bool:
        decoded = super().on_head(head)
        if self._connection is None:  # another pair is tried
            return decoded
        if head.status >= 400:
            self._prefill.drop()
            self.logprobs = False
        if self.logprobs:
            self._relay = Whole(self._merged)
        return self._relay.decoded

    def _merged(self, body: bytes) -> bytes:
        return bootstrap.merge(body, self._prefill.answer())

    def on_body(self, data: bytes, last: bool) -> None:
        if not self.logprobs:
            super().on_body(data, last)
            return
        self._held.append(data)
        if last:
            self._connection = None
            if self._prefill.ended:
                self._join()

    def _join(self) -> None:
        """Both answers are complete."""
        whole = b"".join(self._held)
        self._held.clear()
        super().on_body(whole, True)

    def _first_byte(self) -> None:
        """Which shows that the prompt is computed, and handed over."""
        plane = self._plane
        self._ttfb = plane.clock() - self._started
        self._cleared()
        self._prefill.computed()
        plane.waiting.pop(self, None)

    def _let_go(self) -> None:
        super()._let_go()
        self._ask.body = b""
        self._prefill.settle()

    def _read_usage(self) -> None:
        """What was cached was so on the prefill worker, which tells itself."""
        usage = read(self._latest) or read(self._before)
        if usage is not None:
            self._lease.told(Usage(usage.prompt, None, usage.answer))
            self._request.usage = self._request.usage or usage

    # -- the end

    def _late(self) -> Worker | None:
        """Until the prompt is computed, it is not the decode worker that is waited for."""
        return self._prefill.worker if self._prefill.late else self._worker

    def _complete(self) -> None:
        prefill, self._prefill = self._prefill, None
        prefill.linger()
        super()._complete()

    def _give_back(self, now: float, latency: bool = False) -> None:
        self._cleared()
        self._call_off(now, latency)
        if self._prefill is not None:
            self._prefill.drop()

    def _call_off(self, now: float, latency: bool = False) -> None:
        """The decode worker's part is over."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._lease is not None:
            self._lease.release(now, latency=latency)
        if self._worker is not None:
            self._plane.decode_policy.done(self._share, self._worker)

    def _end(self, code: int, latency: bool = False) -> None:
        super()._end(code, latency)
        self._prefill = self._relay = None  # which lead back here: nobody would let go
