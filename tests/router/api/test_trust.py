"""Who may use what. The rules are tested as a pure function, and that they are applied over HTTP."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
import yarl
from aiohttp import web

from router.api import board, models, nodes, pages, status, workers
from router.api.trust import LEVELS, Caller, Level, check
from router.config import RouterConfig
from router.errors import RouterError
from tests.router.api.conftest import message

PATH = "/workers"
ADMIN = [
    ("POST", "/add_worker?url=http://w"),
    ("POST", "/remove_worker?url=http://w"),
    ("GET", "/list_workers"),
    ("GET", "/workers"),
    ("POST", "/workers"),
    ("GET", "/workers/w0"),
    ("DELETE", "/workers/w0"),
    ("POST", "/workers/w0/drain"),
    ("POST", "/workers/w0/undrain"),
    ("POST", "/workers/w0/restart"),
    ("GET", "/workers/w0/logs"),
    ("POST", "/workers/restart"),
    ("POST", "/flush_cache"),
    ("GET", "/get_loads"),
    ("GET", "/events"),
    ("GET", "/metrics"),
    ("GET", "/engine_metrics"),
    ("GET", "/nodes/status"),
    ("POST", "/nodes/add"),
    ("POST", "/nodes/remove"),
    ("POST", "/nodes/terminate"),
    ("GET", "/nodes/terminate_all"),
]
OPEN = ["/health", "/liveness", "/readiness", "/", "/docs", "/openapi.json", "/static/index.js"]
INFERENCE = ["/health_generate", "/v1/models", "/v1/models/m", "/get_model_info", "/model_info", "/get_server_info"]


def verdict(level: Level = Level.ADMIN, *, config: dict[str, Any] | None = None, **caller: Any) -> int:
    """200, or the status of the refusal. The caller is a program on this machine unless `caller` says otherwise."""
    try:
        check(
            level,
            PATH,
            Caller(**{"peer": "127.0.0.1", "host": "localhost:30000", **caller}),
            RouterConfig(**(config or {})),
        )
    except RouterError as refusal:
        return refusal.status
    return 200


def basic(credentials: str) -> str:
    return f"Basic {base64.b64encode(credentials.encode('utf-8', 'surrogateescape')).decode()}"


# -- without an admin key: this machine only


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_without_a_key_this_machine_may_use_the_control_plane(peer):
    assert verdict(peer=peer) == 200


@pytest.mark.parametrize("peer", ["10.0.0.7", "::ffff:10.0.0.7", "2001:db8::1", "", None, "localhost", "0.0.0.0"])
def test_without_a_key_nobody_else_may(peer):
    assert verdict(peer=peer, config={"host": "0.0.0.0"}) == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (None, 200),
        ("localhost", 200),
        ("LocalHost:30000", 200),
        ("127.0.0.1:30000", 200),
        ("[::1]:30000", 200),
        ("10.0.0.7:30000", 200),
        ("box.example:30000", 200),
        ("evil.example:30000", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:30000", 403),
        ("evil.example/#@localhost", 403),
        ("", 200),
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(host, status):
    assert verdict(host=host, config={"host": "box.example"}) == status


# -- with one: whoever has it


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"authorization": "Bearer sesame"}, 200),
        ({"authorization": "bearer  sesame"}, 200),
        ({"x_api_key": "sesame"}, 200),
        ({"authorization": basic("node:sesame")}, 200),
        ({"authorization": basic(":sesame")}, 200),
        ({"authorization": basic("sesame:")}, 401),
        ({"authorization": basic("sesame")}, 401),
        ({"authorization": basic("node:sesame") + "?"}, 401),
        ({"authorization": basic("node:sesam\udce9")}, 401),
        ({"authorization": "Bearer other", "x_api_key": "sesame"}, 200),
        ({}, 401),
        ({"authorization": "sesame"}, 401),
        ({"authorization": "Basic sesame"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": "Bearer sesam"}, 401),
        ({"authorization": "Bearer sesame!"}, 401),
        ({"authorization": "Bearer s\u00e9same"}, 401),
        ({"authorization": "Bearer \udce9"}, 401),
        ({"x_api_key": "Bearer sesame"}, 401),
    ],
)
@pytest.mark.parametrize("peer", ["127.0.0.1", "10.0.0.7"])
def test_the_admin_key_opens_the_control_plane_from_anywhere(peer, sent, status):
    assert verdict(peer=peer, host="box.example", config={"admin_api_key": "sesame"}, **sent) == status


def test_a_key_beyond_ascii_works():
    assert verdict(config={"admin_api_key": "clé"}, authorization="Bearer clé") == 200


def test_the_inference_key_is_no_admin_key():
    keys = {"api_key": "user", "admin_api_key": "admin"}
    assert verdict(config=keys, authorization="Bearer user") == 401
    assert verdict(Level.INFERENCE, config=keys, authorization="Bearer user") == 200
    assert verdict(Level.INFERENCE, config=keys, authorization="Bearer admin") == 401


def test_an_inference_key_does_not_open_the_control_plane_to_the_network():
    assert verdict(peer="10.0.0.7", config={"api_key": "user"}, authorization="Bearer user") == 403


@pytest.mark.parametrize("level", [Level.OPEN, Level.INFERENCE])
def test_open_paths_and_keyless_inference_are_for_anyone(level):
    assert verdict(level, peer="10.0.0.7", host="evil.example", origin="http://evil.example") == 200


# -- browsers


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"origin": "http://localhost:30000"}, 200),
        ({"origin": "HTTP://LOCALHOST:30000"}, 200),
        ({"origin": "http://localhost:30000", "fetch_site": "same-origin"}, 200),
        ({"fetch_site": "same-origin"}, 200),
        ({"fetch_site": "none"}, 200),
        ({"fetch_site": "same-site"}, 403),
        ({"fetch_site": "cross-site"}, 403),
        ({"fetch_site": "anything else"}, 403),
        ({"origin": "http://localhost:30000", "fetch_site": "cross-site"}, 403),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "http://localhost"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://evil.example", "host": None}, 403),
        ({"origin": "https://good.example", "fetch_site": "cross-site"}, 200),
        ({"origin": "https://good.example.evil", "fetch_site": "cross-site"}, 403),
        ({"origin": "http://good.example", "fetch_site": "cross-site"}, 403),
    ],
)
def test_pages_of_other_origins_are_refused_unless_allowed(sent, status):
    assert verdict(config={"cors_allowed_origins": ("https://good.example",)}, **sent) == status


def test_a_page_of_another_origin_is_refused_even_with_the_key():
    key = {"config": {"admin_api_key": "k"}, "authorization": "Bearer k"}
    assert verdict(origin="http://evil.example", **key) == 403


def test_any_origin_never_means_the_control_plane():
    assert verdict(origin="http://evil.example", config={"cors_allowed_origins": ("*",)}) == 403


# -- over HTTP


@pytest.mark.parametrize(("method", "path"), ADMIN)
async def test_every_control_path_is_guarded(control, method, path):
    plane = await control(admin_api_key="sesame")
    worker = plane.lay("http://w")
    async with plane.client.request(method, path) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert "sesame" not in await response.text()
    assert (await plane.ask(method, path, headers={"Authorization": "Bearer wrong"}))[0] == 401
    assert (await plane.ask(method, path, headers={"x-api-key": "sesame", "Origin": "http://evil.example"}))[0] == 403
    assert (list(plane.fleet.workers.values()), worker.draining) == ([worker], False)


def test_every_control_path_is_on_the_list_above():
    routes = {
        re.sub(r"{(\w+):.*}", r"{\1}", route.path)
        for module in (board, models, nodes, pages, status, workers)
        for route in module.ROUTES
        if isinstance(route, web.RouteDef)
    }
    listed = {path.partition("?")[0].replace("/w0", "/{id}") for _, path in ADMIN}
    assert listed == {path for path in routes if LEVELS.get(path, Level.ADMIN) is Level.ADMIN}


async def test_the_right_key_is_let_in(control):
    plane = await control(admin_api_key="sesame")
    assert (await plane.get("/workers", headers={"Authorization": "Bearer sesame"}))[0] == 200
    assert (await plane.get("/workers", headers={"x-api-key": "sesame"}))[0] == 200


@pytest.mark.parametrize("path", OPEN)
async def test_probes_and_pages_need_no_key(control, path):
    plane = await control(admin_api_key="sesame", api_key="user")
    plane.lay()
    assert (await plane.get(path))[0] == 200


@pytest.mark.parametrize("path", INFERENCE)
async def test_reading_models_needs_the_inference_key(control, path):
    plane = await control(api_key="user")
    assert (await plane.get(path))[0] == 401
    assert (await plane.get(path, headers={"Authorization": "Bearer user"}))[0] != 401


@pytest.mark.parametrize("path", ["//workers", "/%77orkers", "/./workers", "/x/../workers", "/workers;x"])
async def test_other_spellings_of_a_path_do_not_get_past_the_guard(control, path):
    plane = await control(admin_api_key="sesame")
    url = yarl.URL(f"http://127.0.0.1:{plane.client.port}{path}", encoded=True)
    async with plane.client.session.get(url) as response:
        assert response.status in (401, 404)
        assert 'workers":' not in await response.text()


async def test_a_forwarded_address_is_nobodys_proof(control):
    plane = await control()
    headers = {"X-Forwarded-For": "127.0.0.1", "Host": "evil.example"}
    status, body = await plane.get("/workers", headers=headers)
    assert status == 403
    assert "Host header" in message(body)


async def test_another_site_in_a_browser_cannot_add_a_worker(control):
    plane = await control()
    form = {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example", "Content-Type": "text/plain"}
    status, body = await plane.post("/add_worker?url=http://evil.example", headers=form)
    assert status == 403
    assert "another origin" in message(body)
    assert plane.fleet.workers == {}


# -- preflights and CORS headers


async def test_a_preflight_of_an_allowed_origin_is_answered(control):
    plane = await control(cors_allowed_origins=("https://good.example",), api_key="user")
    asked = {
        "Origin": "https://good.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    async with plane.client.options("/v1/chat/completions", headers=asked) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == "https://good.example"
        assert response.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
        assert "POST" in response.headers["Access-Control-Allow-Methods"]


@pytest.mark.parametrize("allowed", [(), ("https://good.example",)])
async def test_a_preflight_of_any_other_origin_is_refused(control, allowed):
    plane = await control(cors_allowed_origins=allowed)
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    async with plane.client.options("/v1/chat/completions", headers=asked) as response:
        assert response.status == 403
        assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(("path", "status"), [("/v1/completions", 204), ("/generate", 204), ("/workers", 403)])
async def test_any_origin_may_be_allowed_for_inference_only(control, path, status):
    plane = await control(cors_allowed_origins=("*",))
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    async with plane.client.options(path, headers=asked) as response:
        assert response.status == status


async def test_an_allowed_page_may_read_answers_and_errors(control):
    plane = await control(cors_allowed_origins=("https://good.example",), api_key="user")
    for path, code in (("/v1/models", 401), ("/health", 200)):
        async with plane.client.get(path, headers={"Origin": "https://good.example"}) as response:
            assert response.status == code
            assert response.headers["Access-Control-Allow-Origin"] == "https://good.example"
            assert response.headers["Vary"] == "Origin"
        async with plane.client.get(path, headers={"Origin": "https://evil.example"}) as response:
            assert "Access-Control-Allow-Origin" not in response.headers
