"""The dashboard as a person sees and uses it: a real Chromium, the real commands, sim engines."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.e2e import browser
from tests.e2e.browser import Page
from tests.e2e.commands import Command, gone, state_folder
from tests.router.engines import Engine

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.asyncio(loop_scope="module"),  # of one launch, which most of the tests share
    pytest.mark.skipif(not browser.CHROMIUM, reason="there is no Chromium here: apt install chromium"),
]
KEY = "sesame-1"
Open = Callable[[str], Awaitable[Page]]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its DevTools address."""
    folder = tmp_path_factory.mktemp("chromium")
    process, address = browser.start(folder)
    yield address
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def launch(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Command]:
    """Three sim engines behind an admin key."""
    options = ("--port", "0", "--engine", "sim", "--model-path", "any", "--dp-size", "3", "--admin-api-key", KEY)
    folder = tmp_path_factory.mktemp("launch")
    command = await Command.start("launch", *options, "--", "--time-scale", "0", **state_folder(folder))
    yield command
    family = command.family()
    await command.stop()
    await gone(family)


@pytest_asyncio.fixture(loop_scope="module")
async def router() -> AsyncIterator[Callable[..., Awaitable[Command]]]:
    """`await router("--worker-urls", ...)`"""
    commands: list[Command] = []

    async def make(*options: str) -> Command:
        commands.append(await Command.start("router", *options))
        return commands[-1]

    yield make
    for command in commands:
        await command.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def show(chromium: str) -> AsyncIterator[Open]:
    """`await show(url)`: a new page in a profile of its own."""
    pages: list[Page] = []
    async with aiohttp.ClientSession() as session:

        async def make(url: str) -> Page:
            pages.append(await Page.open(await session.ws_connect(chromium, max_msg_size=0), url + "/"))
            return pages[-1]

        yield make
        for page in pages:
            await page.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(show: Open, launch: Command) -> Page:
    """The launch's, with its key entered and all workers ready."""
    page = await show(launch.url)
    await enter(page, KEY)
    await page.until(f"{text('#summary')} === '3 of 3 workers ready'")
    return page


async def enter(page: Page, key: str) -> None:
    await page.until("!document.getElementById('login').hidden && document.activeElement.id === 'key'")
    await page.type(key)
    await page.press("Enter")


def text(selector: str) -> str:
    return f"(document.querySelector({json.dumps(selector)})?.textContent ?? '')"


def cell(worker: str, label: str) -> str:
    return text(f'#worker-{worker} [data-label="{label}"]')


def button(worker: str, label: str) -> str:
    return f"document.querySelector('#worker-{worker} button[aria-label=\"{label} {worker}\"]')"


async def shown(page: Page, worker: str, state: str) -> None:
    await page.until(f"{cell(worker, 'State')} === '{state}'")


async def send(page: Page, prompt: str) -> str:
    """Ask by keyboard; returns what the page says of the answer."""
    await page.run("document.getElementById('prompt').focus()")
    await page.run("document.getElementById('prompt').select()")
    await page.type(prompt)
    await page.run("document.getElementById('send').focus()")
    await page.press("Enter")
    return await page.until(text("#answered"), lambda said: said.startswith("answered by"))


async def test_it_shows_the_workers_from_this_host_alone_and_streams_an_answer(launch, page):
    for worker in ("w0", "w1", "w2"):
        await shown(page, worker, "ready")
    first = await send(page, "Tell me again and again " * 20)
    again = await send(page, "Tell me again and again " * 20)
    assert len(await page.run(text("#answer"))) > 20
    assert again.split(" · ")[0] == first.split(" · ")[0]  # where it is cached
    assert " 0 % of " in first
    share = int(again.rpartition(" · ")[2].partition(" %")[0])
    assert 50 < share <= 100
    home = again.split(" · ")[0].removeprefix("answered by ")
    wanted = (f"{round(share / 2)} %", f"{round(share / 2 + 0.5)} %")  # the engine's word, over both prompts
    await page.until(cell(home, "Cache hits"), lambda hits: hits in wanted)
    await page.until("document.querySelector('#figures path.line').getAttribute('d').includes('L')")
    assert {url for url in page.requests if not url.startswith((launch.url, "data:"))} == set()
    assert [problem for problem in page.problems if "401" not in problem] == []  # before the key was given


async def test_an_engine_that_is_killed_shows_with_its_error_its_restart_and_its_log(launch, page):
    restarts = int(await page.run(cell("w1", "Restarts")))
    launched = json.loads((await launch.ask("GET", "/workers/w1", headers={"x-api-key": KEY}))[1])
    os.kill(launched["pid"], signal.SIGKILL)
    await page.until(f"{cell('w1', 'State')} !== 'ready'")
    assert "killed" in await page.until(text("#worker-w1 .error td"))
    assert await page.run(cell("w0", "State")) == "ready"
    await shown(page, "w1", "ready")
    assert int(await page.run(cell("w1", "Restarts"))) == restarts + 1
    await page.run(f"{button('w1', 'Log')}.click()")
    assert "sim: ready" in await page.until(text("#worker-w1 pre"), lambda log: "ready" in log)


async def test_it_asks_for_the_admin_key_and_keeps_it_nowhere(launch, show):
    page = await show(launch.url)
    await page.until("!document.getElementById('login').hidden")
    assert await page.run("document.querySelectorAll('#workers tbody').length") == 0
    assert await page.run("fetch('/workers/w0/drain', { method: 'POST' }).then((answer) => answer.status)") == 401
    await enter(page, "wrong")
    await page.until(f"{text('#said')} === 'this admin key was refused'")
    await enter(page, KEY)
    await shown(page, "w0", "ready")
    assert await page.run("document.getElementById('login').hidden")
    await page.run(f"{button('w0', 'Drain')}.focus()")
    await page.press("Space")
    await shown(page, "w0", "draining")
    await page.until(f"document.activeElement === {button('w0', 'Undrain')}")
    await page.press("Space")
    await shown(page, "w0", "ready")
    stored = (
        "[localStorage, sessionStorage].flatMap((s) => [...Array(s.length).keys()].map((i) => s.getItem(s.key(i))))"
    )
    assert await page.run(stored) == []
    assert KEY not in await page.run("document.cookie + document.body.innerHTML")
    assert KEY not in "\n".join(launch.lines)


async def test_workers_are_added_and_after_a_question_removed_and_restarted(launch, page):
    before = json.loads((await launch.ask("GET", "/workers/w2", headers={"x-api-key": KEY}))[1])["pid"]
    async with Engine() as engine:
        await page.run("document.getElementById('url').focus()")
        await page.type(engine.url)
        await page.press("Enter")
        await shown(page, "w3", "ready")
        assert await page.run(f"{button('w3', 'Restart')}.hidden")  # it was started elsewhere
        await page.run(f"{button('w3', 'Remove')}.click()")
        await page.until("document.getElementById('sure').open")
        await page.press("Escape")
        await page.until("!document.getElementById('sure').open")
        await shown(page, "w3", "ready")
        await page.run(f"{button('w3', 'Remove')}.click()")
        await page.run("document.getElementById('yes').click()")
        await page.until("!document.getElementById('worker-w3')")
    await page.run(f"{button('w2', 'Restart')}.click()")
    await page.run("document.getElementById('yes').click()")
    await page.until(text("#said"), lambda said: said == "w2: restart ready")
    after = json.loads((await launch.ask("GET", "/workers/w2", headers={"x-api-key": KEY}))[1])["pid"]
    assert after != before


async def test_it_fits_a_phone_follows_the_colour_scheme_and_names_every_control(page):
    tree = (await page.tell("Accessibility.getFullAXTree"))["nodes"]
    roles = {"button", "textbox", "combobox", "spinbutton", "image", "img", "link", "table", "term", "region"}
    controls = [node for node in tree if not node["ignored"] and node["role"]["value"] in roles]
    assert len([node for node in controls if node["role"]["value"] in ("image", "img")]) == 6 + 2 * 3
    assert len([node for node in controls if node["role"]["value"] == "button"]) == 2 + 4 * 3
    assert [node["role"] for node in controls if not node["name"]["value"]] == []
    await page.size(390, 844, mobile=True)
    await page.until("innerWidth === 390 && document.documentElement.scrollWidth <= 390")
    colour = "getComputedStyle(document.body).backgroundColor"
    await page.prefer("light")
    light = await page.run(colour)
    await page.prefer("dark")
    await page.until(f"{colour} !== '{light}'")


async def figure(page: Page, call: str) -> Any:
    return await page.run(f"import('/static/figures.js').then((f) => f.{call})")


async def test_the_figures_are_rates_shares_and_quantiles_of_what_was_summed_up(page):
    samples = [
        {"time": 10, "workers": {}},
        {"time": 12, "workers": {"w0": [0, 0, 100, 40, 0, 0, 50]}},
        {"time": 14, "workers": {"w0": [0, 0, 200, 90, 100, 80, 90]}},
        {"time": 15, "workers": {}},
    ]
    given = json.dumps(samples)
    assert await figure(page, f"rates({given}, f.number('w0', f.ANSWER), 1)") == [0, 25, 20, 0]
    shares = await figure(page, f"shares({given}, ['w0'], 1)")
    assert shares == [None, {"share": 0.6, "predicted": True}, {"share": 0.8, "predicted": False}, None]
    assert await figure(page, "quantile([0, 0, 0], [0, 4, 0], [1, 3], 0.5)") == 2
    assert await figure(page, "quantile([0, 0, 0], [0, 0, 4], [1, 3], 0.5)") == 3
    assert await figure(page, "quantile([7, 0, 0], [7, 0, 0], [1, 3], 0.5)") is None


async def test_what_gpus_do_is_shown_where_there_are_some(page):
    worker = {
        "id": "g0", "url": "http://gpu", "state": "ready", "models": [], "devices": ["0", "GPU-abcdef012345"],
        "device_use": {"0": [60 << 30, 80 << 30, 0.97], "GPU-abcdef012345": [None, None, None]},
        "prefill_outstanding": 0, "inflight": 0, "restarts": 0, "last_error": None, "launched": True,
    }  # fmt: skip
    script = f"""import('/static/workers.js').then(({{ Workers }}) => {{
        const table = document.body.appendChild(document.createElement('table'));
        new Workers(table).show([{json.dumps(worker)}], [], 240);
        return [table.querySelector('.gpu').innerText, table.querySelector('meter').getAttribute('aria-label')];
    }})"""
    shown, label = await page.run(script)
    assert shown.split() == ["0", "60", "of", "80", "GiB", "97", "%", "busy", "GPU-abcdef01", "..."]
    assert label == "memory of GPU 0: 60 of 80 GiB"


async def test_what_comes_from_outside_is_text_and_the_api_key_is_asked_for(router, show):
    hostile = "<img src=x onerror=alert(1)>"
    models = {"object": "list", "data": [{"id": hostile, "object": "model"}]}
    answer = f'data: {{"choices":[{{"delta":{{"content":"{hostile}"}}}}]}}\n\ndata: [DONE]\n\n'
    async with Engine({"/health": 200, "/v1/models": models, "/v1/chat/completions": answer}) as engine:
        page = await show((await router("--port", "0", "--worker-urls", engine.url, "--api-key", KEY)).url)
        await shown(page, "w0", "ready")
        assert hostile in await page.run(text("#worker-w0 th"))
        await page.run("document.getElementById('prompt').focus()")
        await page.type("hello")
        await page.run("document.getElementById('send').click()")
        await page.until("document.activeElement.id === 'api-key'")
        await page.type(KEY)
        await page.press("Enter")
        said = await page.until(text("#answered"), lambda said: said.startswith("answered by"))
        assert said.endswith("the engine does not tell what was cached")
        assert await page.run(text("#answer")) == hostile
        assert await page.run("document.querySelectorAll('img').length") == 0
        assert not [url for url in page.requests if url.endswith("/x")]


async def test_a_page_that_lost_the_router_says_so_and_comes_back(router, show):
    first = await router("--port", "0")
    page = await show(first.url)
    await page.until(f"{text('#summary')} === '0 of 0 workers ready'")
    first.process.kill()
    await first.end()
    await page.until(f"{text('#summary')} === 'the router does not answer'")
    assert await page.run("document.body.classList.contains('stale')")
    await router("--port", first.url.rpartition(":")[2])
    await page.until(f"{text('#summary')} === '0 of 0 workers ready'")
