"""A real Chromium, driven over its DevTools protocol: open a page, look, type, click, listen to what it asks for.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import asyncio
import base64
import ctypes
import itertools
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

PATIENCE = 20.0  # seconds until a page or the browser is given up, while there is still time to say why
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # which root may not have
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have little of it
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-port=0",
)


def start(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start Chromium with an empty profile in `folder`; returns the process and its DevTools address."""
    command = (CHROMIUM, *OPTIONS, f"--user-data-dir={folder}", "about:blank")
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_us
    )
    told = folder / "DevToolsActivePort"
    deadline = time.monotonic() + PATIENCE
    while not (told.exists() and "/devtools/browser/" in told.read_text()):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"{CHROMIUM} did not come up: exit code {process.poll()}")
        time.sleep(0.02)
    port, path = told.read_text().split("\n")[:2]
    return process, f"ws://127.0.0.1:{port}{path}"


def _die_with_us() -> None:
    """A test that takes too long ends the whole process, and no fixture is asked."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Page:
    """One tab of its own profile, gone with the connection. `requests`: every URL it asked for; `problems`: what it
    complained of.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self.requests: list[str] = []
        self.problems: list[str] = []
        self._socket = socket
        self._session: str | None = None
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(
        cls, socket: aiohttp.ClientWebSocketResponse, url: str, width: int = 1280, height: int = 900
    ) -> Page:
        page = cls(socket)
        context = (await page.tell("Target.createBrowserContext", disposeOnDetach=True))["browserContextId"]
        target = await page.tell("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await page.tell("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            await page.tell(f"{domain}.enable")
        await page.size(1280, 900)
        await page.go(url)
        return page

    async def go(self, url: str) -> None:
        await self.tell("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def size(self, width: int, height: int, mobile: bool = False) -> None:
        await self.tell(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
        )

    async def prefer(self, scheme: str) -> None:
        """Light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.tell("Emulation.setEmulatedMedia", features=features)

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        told = await self.tell("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise RuntimeError(told["exceptionDetails"].get("exception", {}).get("description", str(told)))
        return told["result"].get("value")

    async def until(self, condition: str, holds: Callable[[Any], bool] = bool) -> Any:
        """Wait until the value of an expression is as wanted; returns it. Else says what the page shows instead."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while not holds(value := await self.run(condition)):
            if loop.time() > deadline:
                shown = await self.run("document.body.innerText")
                raise AssertionError(f"{condition} is {value!r}; the page shows:\n{shown}\n{self.problems}")
            await asyncio.sleep(0.03)
        return value

    async def type(self, text: str) -> None:
        """Into whatever has the focus."""
        await self.tell("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        text = {"Enter": "\r", "Space": " "}.get(key)
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, "Space": 32}
        event = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": codes[key]}
        await self.tell("Input.dispatchKeyEvent", type="keyDown", **event, **({"text": text} if text else {}))
        await self.tell("Input.dispatchKeyEvent", type="keyUp", **event)

    async def shot(self, path: Path | str, whole: bool = True) -> None:
        """A picture of the page, as PNG."""
        told = await self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(told["data"]))

    async def tell(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        await self._socket.send_json(message)
        try:
            return await asyncio.wait_for(self._answers[number], PATIENCE)
        except asyncio.TimeoutError:
            raise AssertionError(f"no answer to {method} {params}") from None

    async def close(self) -> None:
        self._reader.cancel()
        await self._socket.close()

    async def _read(self) -> None:
        async for message in self._socket:
            self._heard(json.loads(message.data))

    def _heard(self, message: dict[str, Any]) -> None:
        if (answer := self._answers.pop(message.get("id", 0), None)) is not None:
            if "error" in message:
                answer.set_exception(RuntimeError(str(message["error"])))
            else:
                answer.set_result(message["result"])
        params = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.problems.append(str(params["exceptionDetails"]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.problems.append(params["entry"]["text"])
