"""Workers that Kubernetes brings: lists and watches pods, and tells the membership service. Needs kubernetes-asyncio.

List, then watch from the list's version on; a bookmark moves that version forward while nothing happens. When the
server has forgotten it (410), or the connection breaks, list again: Pods makes good what was missed.
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from router.config import ConfigError, RouterConfig
from router.errors import BadRequest, NotFound
from router.members import Members
from router.pods import Action, Do, Pods, read

log = logging.getLogger(__name__)

WATCH = 290  # seconds after which the server ends a watch; then a new one begins, which finds a connection that died
GRACE = 20  # seconds more, and it is ended here
MAX_LINE = 4 * 1024 * 1024  # bytes; etcd takes objects of 1.5 MiB
FIRST_DELAY, MAX_DELAY = 0.5, 30.0  # seconds between two tries; doubled, and half of it at random


class Expired(Exception):
    """The version to watch from is too old: list again."""


class Trouble(Exception):
    """The API server does not answer as it should; the text says how, in a few words."""


class Discovery:
    """Keeps the fleet in step with the pods that the selector names. close() leaves the fleet as it is."""

    def __init__(self, config: RouterConfig, members: Members, api: Any, rng: random.Random):
        self._config = config
        self._members = members
        self._api = api
        self._rng = rng
        self._pods = Pods()
        self._task = asyncio.get_running_loop().create_task(self._follow())

    @classmethod
    async def start(cls, config: RouterConfig, members: Members) -> Discovery:
        """Begin. Raises ConfigError when there is no cluster to ask, or the extra is not installed."""
        try:
            from kubernetes_asyncio import client  # an extra, and half a second of import
            from kubernetes_asyncio import config as cluster
        except ImportError:
            raise ConfigError("--service-discovery needs an extra: pip install 'llm-launch[kubernetes]'") from None
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ:  # in a pod
                cluster.load_incluster_config()
            else:
                await cluster.load_kube_config()
        except (cluster.ConfigException, OSError, ValueError) as error:
            raise ConfigError(
                f"--service-discovery finds no cluster ({error}): run it in a pod that has a service account, "
                "or set KUBECONFIG"
            ) from None
        return cls(config, members, client.CoreV1Api(), random.Random())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._api.api_client.close()

    async def _follow(self) -> None:
        delay = FIRST_DELAY
        while True:
            try:
                version = await self._list()
                delay = FIRST_DELAY
                while True:
                    version = await self._watch(version)
                    await asyncio.sleep(FIRST_DELAY)  # a server that ends every watch at once is not to be stormed
            except Expired:
                log.info("pods are listed again: the watch was too old")
            except Trouble as error:
                log.warning("cannot watch pods (%s): trying again; the workers stay as they are", error)
            await asyncio.sleep(delay * self._rng.uniform(0.5, 1.0))
            delay = min(MAX_DELAY, delay * 2)

    async def _list(self) -> str:
        """Bring the fleet in step with all pods; returns the version to watch from."""
        async with self._asked(timeout=GRACE) as answer:
            found = json.loads(await answer.read())
            pods = [read(pod, self._config.service_discovery_port) for pod in found["items"] or ()]
            version = str(found["metadata"]["resourceVersion"])
        self._act(self._pods.listed(pods))
        return version

    async def _watch(self, version: str) -> str:
        """Follow changes until the server ends the watch; returns the version to go on from."""
        options = {"watch": True, "resource_version": version, "allow_watch_bookmarks": True, "timeout_seconds": WATCH}
        async with self._asked(timeout=WATCH + GRACE, **options) as answer:
            async for line in _lines(answer):
                version = self._heard(json.loads(line))
        return version

    @contextlib.asynccontextmanager
    async def _asked(self, timeout: float, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request for pods; what goes wrong with it, or with reading its answer, is Trouble or Expired."""
        config = self._config
        common = {"label_selector": ",".join(config.selector), "_preload_content": False, "_request_timeout": timeout}
        try:
            if config.service_discovery_namespace:
                call = self._api.list_namespaced_pod(config.service_discovery_namespace, **common, **options)
            else:
                call = self._api.list_pod_for_all_namespaces(**common, **options)
            answer = await call
            try:
                yield await _checked(answer)
            finally:
                answer.close()
        except (Expired, Trouble):
            raise
        except Exception as error:  # whatever the library or an odd answer raises must not end the watch
            raise Trouble(f"{type(error).__name__} {str(error)[:200]}".strip()) from None

    def _heard(self, event: dict[str, Any]) -> str:
        """Act on a line of the watch; returns the version that it stands for."""
        kind, about = event["type"], event["object"]
        if kind == "ERROR":
            raise Expired if about.get("code") == 410 else Trouble(f"HTTP {about.get('code')}")
        if kind in ("ADDED", "MODIFIED"):
            self._act(self._pods.changed(read(about, self._config.service_discovery_port)))
        elif kind == "DELETED":
            self._act(self._pods.gone(about["metadata"]["uid"]))
        return str(about["metadata"]["resourceVersion"])

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            log.info("pod %s: %s", action.pod.name, action.do.value)
            assert action.pod.url is not None
            if action.do is Do.JOIN:
                self._join(action.pod.name, action.pod.url)
            else:
                self._leave(action.do, action.pod.url)

    def _join(self, name: str, url: str) -> None:
        try:
            self._members.admit(url)
        except BadRequest as error:
            log.warning("pod %s does not join: %s", name, error.message)

    def _leave(self, do: Do, url: str) -> None:
        try:
            worker = self._members.find(url)
        except NotFound:  # somebody else has removed it
            return
        if do is Do.DRAIN:
            self._members.drain(worker)
        else:
            self._members.drop(worker)


async def _checked(answer: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    if answer.status == 410:
        raise Expired
    if answer.status != 200:
        hint = {401: ": the token is not taken", 403: ": it needs list and watch of pods"}.get(answer.status, "")
        raise Trouble(f"HTTP {answer.status}{hint}")
    return answer


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Whole lines; what the end cuts off is dropped. Raises ValueError for one that does not end."""
    rest = b""
    async for data in answer.content.iter_any():
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
        if len(rest) > MAX_LINE:
            raise ValueError
