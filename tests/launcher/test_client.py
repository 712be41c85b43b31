"""Asking a running router."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from launcher.client import Client, Refused, Unreachable, admin_key
from launcher.errors import BadConfig

KEY = "k3y-of-the-admin"


@pytest.fixture
async def server() -> AsyncIterator[Callable[..., Awaitable[tuple[str, list[web.Request]]]]]:
    """`await server(answer)`: an address that gives this answer, and the requests that came."""
    opened: list[TestServer] = []

    async def make(answer: web.Response) -> tuple[str, list[web.Request]]:
        seen: list[web.Request] = []

        async def take(request: web.Request) -> web.Response:
            seen.append(request)
            return answer

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", take)
        opened.append(TestServer(app))
        await opened[-1].start_server()
        return str(opened[-1].make_url("")).rstrip("/"), seen

    yield make
    for each in opened:
        await each.close()


def call(client: Client, *args: Any, **kwargs: Any) -> Awaitable[Any]:
    return asyncio.to_thread(client.call, *args, **kwargs)


async def test_it_sends_the_key_and_the_query_and_reads_json(server):
    url, seen = await server(web.json_response({"a": 1}))
    client = Client(url, KEY)
    assert await call(client, "GET", "/workers", lines="5") == {"a": 1}
    assert seen[0].path_qs == "/workers?lines=5"
    assert seen[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(client)


async def test_without_a_key_none_is_sent(server):
    url, seen = await server(web.Response(text="fine"))
    assert await call(Client(url), "POST", "/x", {"b": 2}) == "fine"
    assert "Authorization" not in seen[0].headers


async def test_a_redirect_is_not_followed(server):
    elsewhere, seen = await server(web.Response())
    url, _ = await server(web.Response(status=307, headers={"Location": elsewhere}))
    with pytest.raises(Refused, match="answers HTTP 307"):
        await call(Client(url, KEY), "GET", "/workers")
    assert seen == []


async def test_a_refusal_is_the_routers_own_words(server):
    url, _ = await server(web.json_response({"error": {"message": "Worker w7 not found"}}, status=404))
    with pytest.raises(Refused, match="Worker w7 not found"):
        await call(Client(url), "GET", "/workers/w7")


@pytest.mark.parametrize(("key", "words"), [(None, "wants its admin key"), (KEY, "refuses this admin key")])
async def test_a_missing_or_wrong_key_says_where_it_comes_from(server, key: str | None, words: str):
    url, _ = await server(web.json_response({"error": {"message": "a valid key is needed"}}, status=401))
    with pytest.raises(Refused) as refusal:
        await call(Client(url, key), "GET", "/workers")
    assert words in str(refusal.value)
    assert "LAUNCH_ADMIN_API_KEY" in str(refusal.value)
    assert KEY not in str(refusal.value)


def test_where_nothing_listens_it_says_how_to_start_or_name_one():
    with pytest.raises(Unreachable, match="name a running one by --url"):
        Client(f"http://127.0.0.1:{unused_port()}").call("GET", "/workers")


@pytest.mark.parametrize("url", ["localhost:30000", "ftp://x", "http://", "http://u:p@x", "http://x?a", "http://x:y"])
def test_what_is_no_address_is_refused(url: str):
    with pytest.raises(BadConfig, match="--url must look like"):
        Client(url)


def test_the_key_comes_from_its_file_or_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAUNCH_ADMIN_API_KEY", "from-the-environment")
    (tmp_path / "key").write_text("from-the-file\n")
    assert admin_key(None) == "from-the-environment"
    assert admin_key(str(tmp_path / "key")) == "from-the-file"
    monkeypatch.delenv("LAUNCH_ADMIN_API_KEY")
    assert admin_key(None) is None
    with pytest.raises(BadConfig, match="cannot be read: No such file"):
        admin_key(str(tmp_path / "nowhere"))
    (tmp_path / "key").write_text("two\nlines")
    with pytest.raises(BadConfig) as refusal:
        admin_key(str(tmp_path / "key"))
    assert "two" not in str(refusal.value)
