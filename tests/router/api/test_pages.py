"""The pages, their files, and the API's description."""

from __future__ import annotations

import asyncio
import io
import re
from typing import Any

import pytest
from aiohttp import web

from router.api import board, models, nodes, openapi, pages, status, workers
from router.request import INFERENCE_PATHS
from tests.router.api.conftest import message


@pytest.mark.parametrize(("path", "title"), [("/", "<title>llm-launch</title>"), ("/docs", "llm-launch API")])
async def test_a_page_may_load_from_this_router_only(control, path, title):
    plane = await control()
    async with plane.client.get(path) as response:
        assert (response.status, response.content_type) == (200, "text/html")
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy
        assert "frame-ancestors 'none'" in policy
        assert title in await response.text()


async def test_the_dashboard_may_have_no_inline_styles_or_scripts(control):
    plane = await control()
    async with plane.client.get("/") as response:
        assert "unsafe" not in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_every_file_a_page_names_is_served(control, path):
    plane = await control()
    _, page = await plane.get(path)
    links = [link for link in re.findall(r'(?:src|href)="([^"]+)"', page) if not link.startswith("data:")]
    assert len(links) >= 3
    for link in links:
        assert link.startswith("/")
        assert (await plane.get(link))[0] == 200


async def test_only_the_packages_own_files_are_served(control):
    plane = await control()
    for path in ("/static/", "/static/nothing", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
        assert (await plane.get(path))[0] in (403, 404)


async def test_each_connection_serves_one_request(control):
    plane = await control()
    for path in ("/health", "/workers", "/docs", "/nothing", "/static/docs.js"):
        async with plane.client.get(path) as response:
            assert response.headers["Connection"] == "close"


async def test_a_second_request_on_a_connection_is_not_read(control):
    plane = await control()
    reader, writer = await asyncio.open_connection("127.0.0.1", plane.client.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
    assert (await reader.read()).count(b"HTTP/1.1 200") == 1
    writer.close()


async def test_an_unknown_path_is_not_found_in_openais_shape(control):
    plane = await control()
    status, body = await plane.post("/update_weights")
    assert status == 404
    assert message(body) == "no such path: /update_weights; GET /docs lists what there is"
    assert body["error"]["code"] == "not_found"


async def test_the_wrong_method_is_told_the_right_one(control):
    plane = await control()
    async with plane.client.get("/add_worker") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
        assert message(await response.json()) == "GET is not allowed on /add_worker"


async def test_inference_is_asked_for_with_post(control):
    plane = await control()
    async with plane.client.get("/v1/chat/completions") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
        assert message(await response.json()) == "GET is not allowed on /v1/chat/completions"


async def test_answers_do_not_tell_what_runs_here(control):
    plane = await control()
    async with plane.client.get("/health") as response:
        assert "Server" not in response.headers


async def test_a_huge_control_request_is_refused(control):
    plane = await control()
    status, body = await plane.post("/workers", data=io.BytesIO(b" " * (1024 * 1024 + 1)))
    assert (status, body["error"]["code"]) == (413, "payload_too_large")


# -- the description


def test_every_route_is_described_and_every_description_has_a_route():
    routes = {
        (route.method.lower(), re.sub(r"{(\w+):.*}", r"{\1}", route.path))
        for module in (workers, nodes, status, models, board, pages)
        for route in module.ROUTES
        if isinstance(route, web.RouteDef)
    }
    routes |= {("post", path) for path in INFERENCE_PATHS}
    described = {(method, path) for path, item in openapi.document()["paths"].items() for method in item}
    assert described == routes


async def test_the_description_is_served(control):
    plane = await control()
    assert await plane.get("/openapi.json") == (200, openapi.document())


def test_every_reference_in_the_description_leads_somewhere():
    document = openapi.document()
    names = set(re.findall(r"'\$ref': '#/components/schemas/(\w+)'", str(document)))
    assert names == set(document["components"]["schemas"])


def test_every_body_and_every_good_answer_has_an_example():
    bare = []
    for path, item in openapi.document()["paths"].items():
        for operation in item.values():
            told = [operation.get("requestBody", {"content": {}})]
            told += [answer for status, answer in operation["responses"].items() if status < "300"]
            bare += [path for each in told for content in each["content"].values() if "example" not in content]
    assert bare == []


def test_every_example_is_what_its_schema_says():
    document = openapi.document()
    schemas = document["components"]["schemas"]
    for path, item in document["paths"].items():
        for operation in item.values():
            for told in [operation.get("requestBody", {"content": {}}), *operation["responses"].values()]:
                for content in told["content"].values():
                    if "example" in content:
                        assert fits(content["example"], content["schema"], schemas), (path, content["example"])


KINDS = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list}


def fits(value: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> bool:
    """As much of JSON Schema as the description uses."""
    if "$ref" in schema:
        return fits(value, schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if value is None:
        return bool(schema.get("nullable")) or not schema
    if "oneOf" in schema:
        return sum(fits(value, one, schemas) for one in schema["oneOf"]) == 1
    if "enum" in schema and value not in schema["enum"]:
        return False
    if not isinstance(value, KINDS[schema["type"]] if "type" in schema else object):
        return False
    if isinstance(value, list):
        return all(fits(item, schema.get("items", {}), schemas) for item in value)
    if not isinstance(value, dict):
        return True
    more, named = schema.get("additionalProperties", {}), schema.get("properties", {})
    known = all(
        fits(each, named.get(name, more if isinstance(more, dict) else {}), schemas) for name, each in value.items()
    )
    return known and set(schema.get("required", ())) <= set(value)


def test_every_parameter_in_a_path_is_described():
    for path, item in openapi.document()["paths"].items():
        for operation in item.values():
            named = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path)), path


def test_operation_names_are_unique():
    names = [op["operationId"] for item in openapi.document()["paths"].values() for op in item.values()]
    assert len(names) == len(set(names))


def test_guarded_paths_say_that_they_take_a_key():
    paths = openapi.document()["paths"]
    assert "security" in paths["/workers"]["get"]
    assert "security" in paths["/v1/models"]["get"]
    assert "security" in paths["/v1/completions"]["post"]
    assert "security" not in paths["/health"]["get"]
