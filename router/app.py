"""Builds the router from its parts and opens the listening socket; no module globals."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import logging
import random
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from router import api, journal, policies, sockets
from router.config import ConfigError, RouterConfig
from router.errors import RouterError
from router.exchange import TICK, Plane
from router.fleet import Fleet, Role
from router.front import Gate
from router.kubernetes import Discovery
from router.loop import sweep
from router.members import Members
from router.metrics import Metrics
from router.neighbours import Neighbours
from router.parts import Parts

if TYPE_CHECKING:
    from router.otel import Exporter

BACKLOG = 4096  # connections that the kernel may hold for us; it takes the smaller of this and net.core.somaxconn
# While draining, new requests are still taken for this long: load balancers need a moment to see the 503 of /readiness.
SETTLE = 5.0  # seconds
CLIENT_GONE = 120  # seconds of silence after which a client has vanished: it would hold its descriptor for ever
HANDSHAKE_TIMEOUT = 10.0  # seconds a client has for TLS
LAST_WORDS = 1.0  # seconds for a control-plane answer that is being written when everything ends


class Router:
    """The router as one object: start(), then drain() and close(). `parts` exists from start() on."""

    parts: Parts

    def __init__(self, config: RouterConfig):
        self.config = config
        self.fleet = Fleet(config.max_worker_retries)
        self.policy = policies.make(config, Role.PREFILL if config.pd_disaggregation else Role.REGULAR)
        self.decode_policy = policies.make(config, Role.DECODE) if config.pd_disaggregation else None
        self.metrics = Metrics()
        self.port = config.port  # the port that was bound, where 0 was asked for
        self._ticker: asyncio.TimerHandle | None = None
        self._discovery: Discovery | None = None
        self._neighbours: Neighbours | None = None

    async def start(self) -> None:
        """Listen.

        Raises ConfigError when the address cannot be had or a certificate cannot be read, BadRequest for a worker URL
        that cannot be one.
        """
        loop = self._loop = asyncio.get_running_loop()
        limit = sockets.raise_limit()
        self._traces = _traces(self.config)
        self.plane = Plane(
            self.config, self.fleet, self.policy, self.metrics, loop, random.Random(), self.decode_policy
        )
        self.plane.trace = self._traces
        self._gate = Gate(self.plane)
        self._gate.most = sockets.most_clients(limit)
        await self._listen()
        config = dataclasses.replace(self.config, port=self.port)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3),
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(self._show_key,),
        )
        members = Members(config, self.fleet, self._session)
        self.parts = Parts(config, self.fleet, self.policy, self.metrics, members)
        self._runner = web.AppRunner(
            api.build(self.parts),
            handler_cancellation=True,
            access_log=None,
            logger=_log(),
            shutdown_timeout=LAST_WORDS,
        )
        await self._runner.setup()
        self._gate.elsewhere = server = self._runner.server
        self._gate.others = lambda: len(server.connections)
        await self._server.start_serving()
        self._tick(self.plane.clock())
        try:
            await members.start()
            if config.router_replicas > 1:
                self._neighbours = Neighbours(self.fleet, self._session)
            if config.service_discovery:
                self._discovery = await Discovery.start(config, members)
        except (RouterError, ConfigError):
            await self.close()
            raise
        journal.keep(self.fleet)

    async def _show_key(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """A worker that wants a key is sent it with whatever it is asked."""
        worker = self.fleet.by_url(str(request.url.origin()))
        if worker is not None and worker.key is not None:
            request.headers["Authorization"] = f"Bearer {worker.key}"
        return await send(request)

    async def _listen(self) -> None:
        """Bind. Connections are taken from start_serving() on: what serves them must know the port first."""
        config, tls = self.config, _tls(self.config)
        try:
            self._server = await self._loop.create_server(
                self._gate,
                config.host,
                config.port,
                ssl=tls,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT if tls else None,
                backlog=BACKLOG,
                start_serving=False,
            )
        except OSError as error:
            raise ConfigError(_cannot_listen(config, error)) from None
        for listener in self._server.sockets:
            sockets.keep_watch(listener, CLIENT_GONE)
        self.port = self._server.sockets[0].getsockname()[1]

    def _tick(self, due: float) -> None:
        now = self.plane.clock()
        self._ticker = self._loop.call_later(TICK, self._tick, now + TICK)  # first: one error must not end all upkeep
        self.metrics.lagged(max(0.0, now - due))
        self.plane.tick(now)
        self._loop.call_soon(sweep)  # on its own: upkeep may have taken some ms

    async def drain(self, timeout: float) -> None:
        """Readiness turns 503; returns when nothing is in flight, or after `timeout` seconds.

        New requests are taken for SETTLE more seconds while others are under way, then refused.
        """
        self.parts.draining = True
        began = self._loop.time()
        while self.metrics.inflight and (passed := self._loop.time() - began) < timeout:
            if passed >= SETTLE:
                self.plane.refusing = "the server is shutting down"
            await asyncio.sleep(0.05)
        self.plane.refusing = "the server is shutting down"

    async def close(self) -> None:
        """Stop listening and cut what is still open."""
        if self._ticker is not None:
            self._ticker.cancel()
        self._server.close()
        for helper in (self._discovery, self._neighbours):
            if helper is not None:
                await helper.close()
        await self.parts.members.close()
        self._gate.close()
        self.plane.pool.close()
        await self._runner.cleanup()
        await self._session.close()
        if self._traces is not None:
            await self._traces.close()


def _traces(config: RouterConfig) -> Exporter | None:
    """What takes each request's span, where there is a collector. Raises ConfigError."""
    if config.otlp_endpoint is None:
        return None
    try:
        from router.otel import Exporter
    except ModuleNotFoundError:
        raise ConfigError("--otlp-endpoint needs OpenTelemetry's SDK: pip install 'llm-launch[otel]'") from None
    return Exporter(config.otlp_endpoint)


def _log() -> logging.Logger:
    """Where aiohttp reports what breaks, but for requests that are no HTTP: it would quote them, keys included."""
    log = logging.getLogger("router.control")
    log.addFilter(_not_the_clients)
    return log


def _not_the_clients(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _tls(config: RouterConfig) -> ssl.SSLContext | None:
    if config.ssl_certfile is None:
        return None
    _check_readable("--ssl-certfile", config.ssl_certfile)
    _check_readable("--ssl-keyfile", config.ssl_keyfile or "")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # Without a password of ours OpenSSL would ask the terminal for that of an encrypted key, and wait.
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ConfigError(
            f"--ssl-certfile {config.ssl_certfile} and --ssl-keyfile {config.ssl_keyfile} cannot be used ({reason}): "
            "give a certificate and its own key, in PEM, without a password"
        ) from None
    return context


def _check_readable(option: str, file: str) -> None:
    """OpenSSL does not say which of the two files it cannot read."""
    try:
        Path(file).open("rb").close()
    except OSError as error:
        raise ConfigError(f"{option} {file} cannot be read: {error.strerror}") from None


def _cannot_listen(config: RouterConfig, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {config.port} on {config.host} is in use: choose another with --port"
    return f"cannot listen on {config.host} port {config.port}: {error.strerror or error}"
