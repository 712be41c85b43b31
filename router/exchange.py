"""One request's life: admit, pick a worker, send, commit at the first body byte, stream back - or retry.

    queued -> trying -> committed -> ended
                ^  |
                +--+  a fault before the first body byte: router/retry.py decides

The response head is held until the first body byte, so that a worker that dies during prefill costs the client nothing.
All of it runs in the event loop's callbacks: no task, but one while a connection is being made.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

import msgspec

from router import sockets, trace
from router.admission import Admission
from router.config import RouterConfig
from router.errors import ModelNotFound, NoWorker, QueueFull, QueueTimeout, RouterError, WorkersFailed, WorkerTimeout
from router.fleet import Fleet, Lease, Role, Worker
from router.generate import Translation
from router.http1 import ResponseHead, keyed, without
from router.metrics import Metrics
from router.policies import Policy
from router.relay import Relay, choose
from router.request import RouteRequest
from router.retry import RULES, Attempts, Fault, Retry, Where, budget_left, classify, decide, refine
from router.suspects import Suspects
from router.upstream import Connection, Pool, authority
from router.usage import NEAR_THE_END, read

log = logging.getLogger("router")

TICK = 0.1  # seconds between looks at the clock: request and queue timeouts are this coarse


class Client(Protocol):
    """The client's side, as an exchange needs it."""

    http10: bool  # no chunked bodies
    close: bool  # the connection ends with this response
    cors: bytes  # header lines that let a browser page of an allowed origin read it

    def write(self, data: bytes) -> None: ...

    def done(self, close: bool) -> None:
        """The response is complete."""

    def cut(self) -> None:
        """Close the connection without a proper end of the response, after what was written."""

    def refuse(self, error: RouterError) -> None:
        """Answer with an error of the router's own."""


class Plane:
    """What all exchanges share. Sole writer: the exchanges, through its methods."""

    def __init__(
        self,
        config: RouterConfig,
        fleet: Fleet,
        policy: Policy,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        rng: random.Random,
        decode_policy: Policy | None = None,
    ):
        self.config = config
        self.fleet = fleet
        self.policy = policy
        self.decode_policy = decode_policy  # not None: requests go to pairs, and `policy` is for their prefill workers
        self.metrics = metrics
        self.loop = loop
        self.clock = time.monotonic  # the loop's own has milliseconds
        self.rng = rng
        self.pool = Pool(loop)
        self.connect = self.pool.connect
        self.admission: Admission[Exchange] = Admission(
            config.max_concurrent_requests, config.queue_size, config.queue_timeout
        )
        self.waiting: dict[Exchange, float] = {}  # no body byte yet -> deadline; one timeout keeps it in order
        self.suspects: Suspects[Exchange] = Suspects()
        self.retrying = 0  # budgeted retries under way
        self.refusing: str | None = None  # a reason: new requests are turned away
        self.trace: Callable[[trace.Span], None] | None = None  # takes each request's span; None: nobody wants them
        self._next_upkeep = self.clock() + config.eviction_interval
        fleet.on_forget.append(policy.forget)
        if decode_policy is not None:
            fleet.on_forget.append(decode_policy.forget)
        fleet.on_remove.append(self.pool.drop)

    def tick(self, now: float) -> None:
        """Called every TICK seconds: what has waited too long is ended, idle connections are closed."""
        while self.waiting and next(iter(self.waiting.values())) <= now:
            next(iter(self.waiting)).timed_out()
        for exchange in self.admission.expired(now):
            exchange.queued_too_long()
        self.metrics.queue_depth = len(self.admission)
        self.next_suspects()
        self.pool.reap()
        if now >= self._next_upkeep:
            self._next_upkeep = now + self.config.eviction_interval
            self.policy.upkeep(now)
            if self.decode_policy is not None:
                self.decode_policy.upkeep(now)

    def next_suspects(self) -> None:
        """Those who waited for a worker without a suspect look again."""
        for exchange in self.suspects.waiting():
            exchange.dispatch()

    def leave(self) -> None:
        """A request ended: whoever is next in line goes on."""
        following = self.admission.leave()
        self.metrics.queue_depth = len(self.admission)
        if following is not None:
            self.loop.call_soon(following.admitted)


class Lost(Exception):
    """No connection to a worker is to be had."""

    def __init__(self, fault: Fault, reason: str):
        super().__init__(reason)
        self.fault = fault
        self.reason = reason


async def reach(plane: Plane, worker: Worker) -> Connection:
    """A fresh connection. Raises Lost."""
    try:
        connection = await plane.connect(worker)
    except OSError as error:
        fault = Fault.NO_SOCKET if sockets.exhausted(error) else Fault.NOT_SENT
        if fault is Fault.NO_SOCKET:
            plane.pool.close()  # the only ones that can be spared
        raise Lost(fault, f"no connection to the worker: {error.strerror or error}") from None
    if connection.transport.is_closing():  # a proxy in front of nothing does that, and who talks first
        raise Lost(Fault.NOT_SENT, "the worker closed the connection at once")
    return connection


def post(target: bytes, worker: Worker, lines: bytes, length: int) -> bytes:
    """The head of a request to a worker, with the worker's key, if it has one, in place of the client's."""
    if worker.key is not None:
        lines = keyed(lines, worker.key)
    host = authority(worker.url)
    return b"POST %b HTTP/1.1\r\nhost: %b\r\n%bcontent-length: %d\r\n\r\n" % (target, host, lines, length)


class Exchange:
    """One request, from its last body byte in to its last body byte out. Nothing is left behind, however it ends.

    router/pairs.py has the one whose request goes to two workers.
    """

    __slots__ = (
        "_attempts", "_before", "_body", "_budgeted", "_client", "_committed", "_connection", "_head", "_in", "_latest",
        "_lease", "_lines", "_open", "_plane", "_reason", "_relay", "_request", "_span", "_started", "_task", "_timer",
        "_translation", "_ttfb", "_worker", "id", "target",
    )  # fmt: skip

    def __init__(
        self, plane: Plane, client: Client, request: RouteRequest, target: bytes, lines: bytes, body: bytes, id: bytes
    ):
        self.id = id  # the request id
        self.target = target  # path and query
        self._plane = plane
        self._client = client
        self._request = request
        self._lines = lines  # end-to-end request headers, each with its CRLF
        self._body = body
        self._open = True
        self._in = False  # admitted
        self._started = plane.clock()
        self._ttfb: float | None = None  # seconds to the worker's first body byte
        self._committed = False  # the response head is out
        self._worker: Worker | None = None
        self._lease: Lease | None = None
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None  # a connection is being made
        self._timer: asyncio.TimerHandle | None = None  # a retry is due
        self._translation: Translation | None = None
        self._head: ResponseHead | None = None
        self._relay: Relay | None = None
        self._before = self._latest = b""  # the ends of the answer's last two pieces
        self._attempts: Attempts | None = None
        self._budgeted = False
        self._reason = ""
        self._span: trace.Span | None = None
        if plane.trace is not None:
            self._span, self._lines = trace.begin(lines, plane.rng)

    # -- admission

    def start(self) -> None:
        plane = self._plane
        plane.metrics.inflight += 1
        if plane.refusing:
            self._refuse(NoWorker(plane.refusing))
            return
        plane.waiting[self] = self._started + plane.config.request_timeout
        try:
            if plane.admission.enter(self, self._started):
                self._in = True
                self.dispatch()
            else:
                plane.metrics.queue_depth = len(plane.admission)
        except QueueFull as error:
            self._refuse(error)

    def admitted(self) -> None:
        """A place was handed over while this one waited."""
        self._in = True
        if self._open:
            self.dispatch()
        else:
            self._plane.leave()

    def queued_too_long(self) -> None:
        self._refuse(QueueTimeout(f"no place became free within {self._plane.config.queue_timeout:g} s"))

    # -- trying

    def dispatch(self) -> None:
        """Pick a worker and try it."""
        plane, request = self._plane, self._request
        workers = self._left(None)
        if not workers:
            self._refuse(self._nobody())
            return
        if self._attempts is not None and self._attempts.suspect:
            workers = plane.suspects.free(workers, plane.clock())
            if not workers:
                plane.suspects.wait(self)
                return
        plane.fleet.presume(self._started)
        began = perf_counter()
        worker = plane.policy.pick(request, workers, self._started, plane.rng)
        plane.metrics.picked(perf_counter() - began, request.matched, len(request.key))
        self._try(worker)

    def _left(self, role: Role | None) -> tuple[Worker, ...]:
        """Who may get it: those that it has not met, as long as there are some."""
        fleet, model = self._plane.fleet, self._request.model
        if self._attempts is not None and (untried := fleet.untried(model, self._attempts.tried, role)):
            return untried
        return fleet.candidates(model, role)

    def _nobody(self) -> RouterError:
        fleet, model = self._plane.fleet, self._request.model
        if self._reason:
            return WorkersFailed(f"no worker is left to try; the last one failed: {self._reason}")
        if model is not None and not fleet.serves(model):
            return ModelNotFound(
                f"the model {model[:200]!r} is not served here: the models are {', '.join(fleet.models())}",
                param="model",
            )
        return NoWorker("no worker is ready" if fleet.workers else "there are no workers: add one with /add_worker")

    def _try(self, worker: Worker, fresh: bool = False) -> None:
        plane = self._plane
        self._worker = worker
        if self._span is not None:
            self._span.attempts += 1
        if worker.native_generate is False and self._request.path == "/generate":
            try:
                self._translation = Translation(self._body, worker.models[0] if worker.models else None)
            except RouterError as error:
                self._refuse(error)
                return
        else:
            self._translation = None
        request = self._request
        self._lease = plane.fleet.lease(
            worker, request.uncached_tokens, plane.clock(), request.prompt_tokens, request.computed_by
        )
        if self._attempts is not None and self._attempts.suspect:
            plane.suspects.take(self, worker, plane.clock())
        self._reach(worker, fresh)

    def _reach(self, worker: Worker, fresh: bool) -> None:
        plane = self._plane
        connection = None if fresh else plane.pool.take(worker)
        if connection is None:
            self._task = plane.loop.create_task(self._connect(worker))
        else:
            self._send(connection)

    async def _connect(self, worker: Worker) -> None:
        lease, connection, lost = self._lease, None, None
        try:
            connection = await reach(self._plane, worker)
        except Lost as error:
            lost = error
        if not self._open or self._task is None or self._lease is not lease:  # called off
            if connection is not None:  # before Python 3.12 wait_for() drops a cancellation that meets its result
                connection.abort()
            return
        self._task = None
        if lost is not None:
            self.on_lost(lost.fault, lost.reason)
        else:
            self._send(connection)

    def _send(self, connection: Connection) -> None:
        self._connection = connection
        translation = self._translation
        target, body, lines = self.target, self._body, self._lines
        if translation is not None:
            target, body = translation.path.encode(), translation.body
            lines = without(without(lines, b"accept-encoding"), b"content-type") + b"content-type: application/json\r\n"
        connection.send(self, post(target, connection.worker, lines, len(body)), body)

    # -- the worker's answer

    def on_head(self, head: ResponseHead) -> bool:
        fault = classify(head.status, head.retry_after)
        if fault is not None:
            self._count(fault, f"the worker answered {head.status}", self._worker)
            retry = self._retry(fault, self._worker)
            if retry is not None:
                self._connection.abort()
                self._connection = None
                self._give_back(self._plane.clock())
                self._again(fault, retry)
                return False
        return self._answer(head)

    def _answer(self, head: ResponseHead) -> bool:
        """This is what the client gets; returns whether its body is wanted without chunk framing."""
        self._head = head
        self._relay = choose(
            chunked=head.chunked,
            sized=head.length is not None,
            events=head.events,
            http10=self._client.http10,
            ok=head.status == 200,
            translation=self._translation,
        )
        return self._relay.decoded

    def on_body(self, data: bytes, last: bool) -> None:
        if last:
            self._connection = None
        if self._ttfb is None and data:
            self._first_byte()
        if data:
            self._before, self._latest = self._latest, data if len(data) <= NEAR_THE_END else data[-NEAR_THE_END:]
        if self._head.events:
            self._lease.decoded(data.count(b"\n\n"))  # an event is a token, near enough
        try:
            data = self._relay.feed(data) + self._relay.finish() if last else self._relay.feed(data)
        except ValueError as error:
            if self._connection is not None:  # more of this answer may follow, and none of it is wanted
                self._connection.abort()
            self.on_lost(Fault.GATEWAY, f"the worker's answer cannot be read: {error}")
            return
        if not self._committed and (data or last):
            self._committed = True
            self._let_go()
            data = self._response_head() + data
        if data:
            self._client.write(data)
        if last and self._open:
            self._complete()

    def on_lost(self, fault: Fault, reason: str) -> None:
        self._connection = None
        if self._committed:
            self._count(Fault.BROKEN, reason, self._worker)
            self._break(reason)
        else:
            self._failed(fault, reason, self._worker)

    def _failed(self, fault: Fault, reason: str, worker: Worker) -> None:
        """Nothing has gone to the client: try again, or give up."""
        if self._attempts is not None:
            fault = refine(fault, self._attempts)
        self._count(fault, reason, worker)
        self._head = self._relay = None
        if self._ttfb is not None:  # bytes came, none that could be passed on
            self._ttfb = None
            self._plane.waiting[self] = self._started + self._plane.config.request_timeout
        self._give_back(self._plane.clock())
        retry = self._retry(fault, worker)
        if retry is not None:
            self._again(fault, retry)
        else:
            self._refuse((RULES[fault].error or WorkersFailed)(f"the request failed: {reason}"))

    def _first_byte(self) -> None:
        now = self._plane.clock()
        self._ttfb = now - self._started
        self._cleared()
        self._lease.first_byte()
        self._plane.policy.answered(self._request, self._worker, now)
        self._plane.waiting.pop(self, None)

    def _cleared(self) -> None:
        """It has not killed its worker, or is not on one any more: another suspect may come there."""
        plane = self._plane
        if self._attempts is not None and plane.suspects.leave(self):
            plane.loop.call_soon(plane.next_suspects)

    def _let_go(self) -> None:
        """Forget the prompt: nothing is sent again from here on, and a stream may last for minutes."""
        self._body = self._request.key = b""
        if self._translation is not None:
            self._translation.body = b""

    def _response_head(self) -> bytes:
        head, relay, client = self._head, self._relay, self._client
        lines = head.lines
        if relay.decoded:  # the worker's own length is that of another body
            lines = without(lines, b"content-length")
        if client.cors:
            lines = without(lines, b"access-control-allow-origin")
        sized = bool(relay.framing) or (head.length is not None and not relay.decoded)
        client.close = client.close or not sized or self._plane.refusing is not None
        return b"HTTP/1.1 %d %b\r\n%b%b%bx-request-id: %b\r\nx-worker-id: %b\r\n%b\r\n" % (
            head.status,
            head.reason,
            lines,
            relay.framing,
            client.cors,
            self.id,
            self._worker.id.encode(),
            b"connection: close\r\n" if client.close else b"",
        )

    # -- faults

    def _count(self, fault: Fault, reason: str, worker: Worker) -> None:
        self._reason = reason
        log.info("request %s: %s on %s: %s", self.id.decode("latin-1"), fault.value, worker.id, reason)
        if RULES[fault].counts_worker:
            self._plane.fleet.failed(worker, reason)

    def _retry(self, fault: Fault, worker: Worker) -> Retry | None:
        plane = self._plane
        attempts = self._attempts = self._attempts or Attempts()
        attempts.tried.add(worker.id)
        return decide(
            fault,
            attempts,
            untried=bool(plane.fleet.untried(self._request.model, attempts.tried, worker.role)),
            max_retries=plane.config.max_total_retries,
            budget=self._budgeted or budget_left(plane.retrying, plane.metrics.inflight),
            rng=plane.rng,
        )

    def _again(self, fault: Fault, retry: Retry) -> None:
        plane, rule = self._plane, RULES[fault]
        self._attempts.note(fault, rule)
        plane.metrics.retried(fault.value)
        if rule.budgeted and not self._budgeted:
            self._budgeted = True
            plane.retrying += 1
        if retry.where is Where.SAME:
            self._try(self._worker, fresh=True)
        else:
            self._timer = plane.loop.call_later(retry.delay, self.dispatch)

    def timed_out(self) -> None:
        """No body byte within the request timeout."""
        timeout = self._plane.config.request_timeout
        reason = f"no answer within {timeout:g} s"
        if self._connection is not None:
            self._count(Fault.TIMEOUT, reason, self._late())
        self._refuse(WorkerTimeout(reason))

    def _late(self) -> Worker | None:
        """Whose answer has not come."""
        return self._worker

    # -- the end

    def client_gone(self) -> None:
        """The client closed its connection: nobody is to blame."""
        self._end(499)

    def pause(self) -> None:
        """The client reads slower than the worker writes."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    def _complete(self) -> None:
        code = self._head.status
        if code < 500 and code != 429:
            self._plane.fleet.succeeded(self._worker)
        if code == 200:
            self._read_usage()
        self._end(code, latency=code < 400)
        self._client.done(self._client.close)

    def _read_usage(self) -> None:
        """It ends an answer; in a stream `[DONE]` follows, maybe by itself. Usage that came in two pieces is missed."""
        usage = read(self._latest) or read(self._before)
        if usage is not None:
            self._request.usage = usage
            self._plane.metrics.told(usage)
            self._lease.told(usage)

    def _break(self, reason: str) -> None:
        self._client.write(self._relay.cut(error_event(self._request.path, reason)))
        self._end(502)
        self._client.cut()

    def _refuse(self, error: RouterError) -> None:
        if self._committed:
            self._break(error.message)
            return
        self._end(error.status)
        self._client.refuse(error)

    def _give_back(self, now: float, latency: bool = False) -> None:
        """The request is over on its worker, if it was on one; more calls do nothing."""
        self._cleared()
        if self._lease is not None:
            self._lease.release(now, latency=latency)
        if self._worker is not None:
            self._plane.policy.done(self._request, self._worker)

    def _end(self, code: int, latency: bool = False) -> None:
        """Give everything back, once."""
        if not self._open:
            return
        self._open = False
        plane = self._plane
        now = plane.clock()
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
        if self._task is not None:
            self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._give_back(now, latency)
        plane.waiting.pop(self, None)
        plane.retrying -= self._budgeted
        plane.metrics.inflight -= 1
        plane.metrics.finished(self._request.path, code, now - self._started, self._ttfb)
        if log.isEnabledFor(logging.DEBUG):
            where = self._worker.id if self._worker is not None else "no worker"
            log.debug("request %s: %d, %s, %.3f s", self.id.decode("latin-1"), code, where, now - self._started)
        if self._span is not None and plane.trace is not None:
            self._told(self._span, code, now - self._started)
            plane.trace(self._span)
        if self._in:
            plane.leave()
        elif plane.admission.give_up(self):
            plane.metrics.queue_depth = len(plane.admission)

    def _told(self, span: trace.Span, code: int, seconds: float) -> None:
        """Write down what became of this request."""
        request, usage = self._request, self._request.usage
        span.path, span.model, span.code = request.path, request.model, code
        span.seconds, span.first_byte = seconds, self._ttfb
        if self._worker is not None:
            span.worker = self._worker.id
            span.predicted = self._predicted()
        if usage is not None:
            span.cached = usage.cached

    def _predicted(self) -> int | None:
        """Prompt tokens that the policy took to be cached: the same share of its tokens as of its bytes."""
        request, usage = self._request, self._request.usage
        if self._plane.policy.index is None:
            return None
        tokens = usage.prompt if usage is not None else request.prompt_tokens
        return request.matched * tokens // request.size if request.size else 0


def error_event(path: str, reason: str) -> bytes:
    """The server-sent event that ends a stream whose worker broke off, in the dialect of the path.

    The OpenAI client raises on a data object that holds `error`; the named event is what /v1/responses and Anthropic's
    /v1/messages use.
    """
    error = {"message": f"the worker broke off: {reason}", "type": "upstream_error", "code": "worker_broke_off"}
    if path in ("/v1/messages", "/v1/responses"):
        return b"event: error\ndata: " + msgspec.json.encode({"type": "error", "error": error}) + b"\n\n"
    return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"
