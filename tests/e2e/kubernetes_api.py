"""The part of a Kubernetes API server that tells of pods: list, watch, resource versions, bookmarks, 410."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

TOKEN = "pods-reader"
NAMESPACE = "serving"


class Cluster:
    """Pods by name, and everything that ever happened to them. Made by `await Cluster.start()`."""

    def __init__(self) -> None:
        self.version = 1000
        self.pods: dict[str, dict[str, Any]] = {}
        self.events: list[tuple[int, dict[str, Any]]] = []  # version, event
        self.forgotten = 0  # watches from before this version are told 410
        self.lists = 0
        self.watches: list[str] = []  # the versions from which it was watched
        self.failing = 0  # status of every answer, if not 0
        self.odd = ""  # what every answer says instead, if anything
        self.odd_answers = 0
        self._ended = 0  # how often all watches were ended in good order
        self._open: set[web.StreamResponse] = set()
        self._changed = asyncio.Condition()
        self._runner: web.AppRunner

    @classmethod
    async def start(cls, port: int = 0) -> Cluster:
        cluster = cls()
        await cluster.listen(port)
        return cluster

    async def listen(self, port: int) -> None:
        app = web.Application()
        app.add_routes(
            [web.get(f"/api/v1/namespaces/{NAMESPACE}/pods", self._answer), web.get("/api/v1/pods", self._answer)]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self.cut()
        await self._runner.cleanup()

    def kubeconfig(self, file: Path) -> str:
        """Write what a client needs to come here."""
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "router", "user": {"token": TOKEN}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "router", "namespace": NAMESPACE}}],
        }  # fmt: skip
        file.write_text(yaml.safe_dump(config))
        return str(file)

    # -- what happens to pods

    async def put(
        self, name: str, address: str, *, ready: bool = True, ending: bool = False, app: str = "worker"
    ) -> None:
        """Create the pod, or change it."""
        known = name in self.pods
        uid = self.pods[name]["metadata"]["uid"] if known else f"uid-{self.version}"
        metadata: dict[str, Any] = {"name": name, "namespace": NAMESPACE, "uid": uid, "labels": {"app": app}}
        if ending:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        conditions = [{"type": "Ready", "status": str(ready)}]
        status = {"phase": "Running", "podIP": address, "conditions": conditions}
        await self._happens("MODIFIED" if known else "ADDED", {"kind": "Pod", "metadata": metadata, "status": status})

    async def delete(self, name: str) -> None:
        await self._happens("DELETED", self.pods[name])

    async def bookmark(self) -> None:
        """Time passes, and things happen that are not about these pods."""
        self.version += 100
        await self._tell(
            {"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": str(self.version)}}}
        )

    async def forget(self) -> None:
        """Compact: nobody can watch from an earlier version any more."""
        self.version += 1
        self.forgotten = self.version

    async def end_watches(self) -> None:
        """As the server does when the time is over that a client asked for."""
        async with self._changed:
            self._ended += 1
            self._changed.notify_all()

    async def cut(self) -> None:
        """End all watches as a lost connection does."""
        for response in list(self._open):
            transport = response._req.transport if response._req else None  # type: ignore[attr-defined]
            if transport is not None:
                transport.abort()

    async def _happens(self, kind: str, pod: dict[str, Any]) -> None:
        self.version += 1
        pod = {**pod, "metadata": {**pod["metadata"], "resourceVersion": str(self.version)}}
        if kind == "DELETED":
            self.pods.pop(pod["metadata"]["name"], None)
        else:
            self.pods[pod["metadata"]["name"]] = pod
        await self._tell({"type": kind, "object": pod})

    async def _tell(self, event: dict[str, Any]) -> None:
        async with self._changed:
            self.events.append((self.version, event))
            self._changed.notify_all()

    # -- what clients ask

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.failing:
            return web.json_response({"kind": "Status", "code": self.failing}, status=self.failing)
        if self.odd:
            self.odd_answers += 1
            return web.Response(text=self.odd, content_type="application/json")
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"kind": "Status", "code": 401}, status=401)
        label = request.query.get("labelSelector", "")
        if request.query.get("watch", "").lower() in ("true", "1"):
            return await self._watch(request, label)
        self.lists += 1
        items = [pod for pod in self.pods.values() if matches(pod, label)]
        return web.json_response(
            {"kind": "PodList", "metadata": {"resourceVersion": str(self.version)}, "items": items}
        )

    async def _watch(self, request: web.Request, label: str) -> web.StreamResponse:
        since = request.query["resourceVersion"]
        self.watches.append(since)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        self._open.add(response)
        try:
            await self._tell_since(response, int(since), label)
        except ConnectionError:
            pass
        finally:
            self._open.discard(response)
        return response

    async def _tell_since(self, response: web.StreamResponse, since: int, label: str) -> None:
        if since < self.forgotten:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            return
        told, ended = 0, self._ended
        while True:
            for version, event in self.events[told:]:
                if version > since and (event["type"] == "BOOKMARK" or matches(event["object"], label)):
                    await response.write(json.dumps(event).encode() + b"\n")
            told = len(self.events)
            if self._ended > ended:
                return
            async with self._changed:
                await self._changed.wait_for(lambda told=told: len(self.events) > told or self._ended > ended)


def matches(pod: dict[str, Any], selector: str) -> bool:
    labels = pod["metadata"].get("labels", {})
    return all(
        labels.get(key) == value for key, _, value in (part.partition("=") for part in selector.split(",") if part)
    )
