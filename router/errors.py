"""What can go wrong for a request, as types: HTTP status, machine-readable code and the body that says so. Pure."""

from __future__ import annotations

import msgspec


class RouterError(Exception):
    """An error that the router itself answers. Subclasses fix `status`, `type` and `code`; the message is for people.

    `retry_after` (seconds) becomes a Retry-After header when it is not None.
    """

    status = 500
    type = "server_error"
    code = "internal_error"
    retry_after: int | None = None

    def __init__(self, message: str, *, param: str | None = None, retry_after: int | None = None):
        super().__init__(message)
        self.message = message
        self.param = param
        if retry_after is not None:
            self.retry_after = retry_after

    def body(self) -> bytes:
        """The OpenAI-shaped error object, as JSON."""
        # The message may quote a client's text, and that may hold half a surrogate pair, which is no UTF-8.
        message = self.message.encode(errors="backslashreplace").decode()
        return msgspec.json.encode(
            {"error": {"message": message, "type": self.type, "code": self.code, "param": self.param}}
        )


class BadRequest(RouterError):
    status, type, code = 400, "invalid_request_error", "bad_request"


class Unauthorized(RouterError):
    status, type, code = 401, "authentication_error", "invalid_api_key"


class Forbidden(RouterError):
    status, type, code = 403, "permission_error", "forbidden"


class NotFound(RouterError):
    status, type, code = 404, "invalid_request_error", "not_found"


class ModelNotFound(RouterError):
    status, type, code = 404, "invalid_request_error", "model_not_found"


class PayloadTooLarge(RouterError):
    status, type, code = 413, "invalid_request_error", "payload_too_large"


class HeadersTooLarge(RouterError):
    status, type, code = 431, "invalid_request_error", "headers_too_large"


class RequestTimeout(RouterError):
    """The client did not send its request in time."""

    status, type, code = 408, "invalid_request_error", "request_timeout"


class QueueFull(RouterError):
    status, type, code, retry_after = 429, "rate_limit_error", "queue_full", 2


class WorkersFailed(RouterError):
    status, type, code = 502, "upstream_error", "workers_failed"


class NoWorker(RouterError):
    status, type, code, retry_after = 503, "server_error", "no_worker", 2


class NoSocket(RouterError):
    """File descriptors or local ports have run out here."""

    status, type, code, retry_after = 503, "server_error", "no_socket", 2


class QueueTimeout(RouterError):
    status, type, code, retry_after = 503, "server_error", "queue_timeout", 2


class WorkerTimeout(RouterError):
    status, type, code = 504, "timeout_error", "worker_timeout"
