"""Asks a running router over HTTP. No proxies, no redirects: the key goes to that address and nowhere else."""

from __future__ import annotations

import http.client
import json
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from launcher.errors import BadConfig, LaunchError

DEFAULT_URL = "http://127.0.0.1:30000"
KEY_VARIABLE = "LAUNCH_ADMIN_API_KEY"
QUICK = 10.0  # seconds for what the router answers at once
MAX_ANSWER = 64 << 20  # bytes


class Unreachable(LaunchError):
    """No HTTP answer came."""


class Refused(LaunchError):
    """The router said no; `status` is HTTP's."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Client:
    """A router's address and the key for its control plane. Raises BadConfig for what is no address."""

    url: str = DEFAULT_URL
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
        except ValueError:
            usable = None
        if not usable or parts.username is not None or parts.query or parts.fragment or not self.url.isprintable():
            raise BadConfig(f"--url must look like {DEFAULT_URL}")

    def ask(
        self, method: str, path: str, body: object = None, timeout: float | None = QUICK, **query: str
    ) -> tuple[int, Any]:
        """Status, and the JSON of the answer or its text. `timeout` None waits for ever. Raises Unreachable."""
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        assert parts.hostname is not None
        connection = kind(parts.hostname, parts.port, timeout=timeout)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        target = parts.path.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
        try:
            connection.request(method, target, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, _content(answer.read(MAX_ANSWER))
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(_why(self.url, error)) from None
        finally:
            connection.close()

    def call(self, method: str, path: str, body: object = None, timeout: float | None = QUICK, **query: str) -> Any:
        """As ask(), but an answer that is no success raises Refused."""
        status, content = self.ask(method, path, body, timeout, **query)
        if 200 <= status < 300:
            return content
        raise Refused(status, _refusal(self.url, status, content, self.key is not None))


def admin_key(file: str | None) -> str | None:
    """The key from its file, else from the environment; it is never shown. Raises BadConfig."""
    key = os.environ.get(KEY_VARIABLE, "")
    if file is not None:
        try:
            key = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise BadConfig(f"--admin-api-key-file {file} cannot be read: {reason}") from None
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise BadConfig("the admin key must be one line of printable ASCII")
    return key or None


def _content(body: bytes) -> Any:
    text = body.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except ValueError:
        return text


def _why(url: str, error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {url} is not trusted: name a file with its authority's in SSL_CERT_FILE"
    if isinstance(error, TimeoutError):
        return f"{url} does not answer in time"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens at {url}: start a node with launch --model-path, or name a running one by --url"
    return f"{url} cannot be asked: {reason}"


def _refusal(url: str, status: int, content: Any, with_key: bool) -> str:
    """The router's own words, or what the status means when there are none."""
    if status == 401:
        what = "refuses this admin key" if with_key else "wants its admin key"
        return f"{url} {what}: give it in {KEY_VARIABLE} or by --admin-api-key-file"
    error = content.get("error") if isinstance(content, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return str(message) if message else f"{url} answers HTTP {status}: it is no router of this program"
