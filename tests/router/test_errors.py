"""What each error tells a client: the status, and an object that OpenAI's clients understand."""

from __future__ import annotations

import json

import pytest

from router import errors
from router.errors import NoWorker, RouterError

# status, type, code, Retry-After in seconds
TABLE: dict[str, tuple[int, str, str, int | None]] = {
    "BadRequest": (400, "invalid_request_error", "bad_request", None),
    "Unauthorized": (401, "authentication_error", "invalid_api_key", None),
    "Forbidden": (403, "permission_error", "forbidden", None),
    "NotFound": (404, "invalid_request_error", "not_found", None),
    "ModelNotFound": (404, "invalid_request_error", "model_not_found", None),
    "RequestTimeout": (408, "invalid_request_error", "request_timeout", None),
    "PayloadTooLarge": (413, "invalid_request_error", "payload_too_large", None),
    "QueueFull": (429, "rate_limit_error", "queue_full", 2),
    "HeadersTooLarge": (431, "invalid_request_error", "headers_too_large", None),
    "RouterError": (500, "server_error", "internal_error", None),
    "WorkersFailed": (502, "upstream_error", "workers_failed", None),
    "NoWorker": (503, "server_error", "no_worker", 2),
    "NoSocket": (503, "server_error", "no_socket", 2),
    "QueueTimeout": (503, "server_error", "queue_timeout", 2),
    "WorkerTimeout": (504, "timeout_error", "worker_timeout", None),
}


def told(error: RouterError) -> dict[str, object]:
    found: dict[str, object] = json.loads(error.body())["error"]
    return found


def test_the_table_names_every_error() -> None:
    assert {name for name, value in vars(errors).items() if isinstance(value, type)} == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_an_error_has_its_status_and_code(name: str) -> None:
    error = getattr(errors, name)("what is wrong")
    status, type, code, retry_after = TABLE[name]
    assert (error.status, error.retry_after, str(error)) == (status, retry_after, "what is wrong")
    assert told(error) == {"message": "what is wrong", "type": type, "code": code, "param": None}


def test_an_error_can_name_the_parameter_and_when_to_come_back() -> None:
    error = NoWorker("none", param="model", retry_after=0)
    assert told(error)["param"] == "model"
    assert error.retry_after == 0
    assert NoWorker.retry_after == 2


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ('a "quote"\n', 'a "quote"\n'),
        ("größer 😀", "größer 😀"),
        ("half a pair \ud83d", "half a pair \\ud83d"),
        ("raw byte \udcff", "raw byte \\udcff"),
    ],
)
def test_any_text_can_be_told(message: str, shown: str) -> None:
    assert told(RouterError(message))["message"] == shown
