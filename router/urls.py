"""What a worker URL may look like, and its one spelling: http[s]://host[:port], lower case, nothing after. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from router.errors import BadRequest

MAX_LENGTH = 2048  # characters; longer ones are never addresses, and error texts repeat what they refuse
_DEFAULT_PORT = {"http": 80, "https": 443}
_PRINTABLE = re.compile(r"[!-~]+")
_PARTS = re.compile(r"(?P<scheme>[^:/?#]*)://(?P<host>\[[^\]]*\]|[^:/?#]*)(?::(?P<port>[^/?#]*))?(?P<rest>.*)")
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
# Resolvers read "127.1", "0x7f.1" and "2130706433" as addresses too: a last label like a number is never a name.
_NUMERIC = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def normalise(url: str, own: Collection[str] = ()) -> str:
    """Return the one spelling of a worker's URL; a port that is the scheme's default is left out.

    `own` holds this router's listeners as "host:port". Raises BadRequest with one line that says what is wrong.
    """
    _check_text(url)
    parts = _PARTS.fullmatch(url)
    if parts is None or parts["scheme"].lower() not in _DEFAULT_PORT:
        raise _bad(f"worker URL {url} must begin with http:// or https://")
    if parts["rest"] not in ("", "/"):
        raise _bad(f"worker URL {url} has more than scheme, host and port: leave out {parts['rest']}")
    scheme, host, port = parts["scheme"].lower(), _host(parts["host"], url), _port(parts["port"], url)
    if _name_of(host, port or _DEFAULT_PORT[scheme]) in {_name_of(*_split(entry)) for entry in own}:
        raise _bad(f"worker URL {url} is this router itself")
    return f"{scheme}://{host}" if port in (None, _DEFAULT_PORT[scheme]) else f"{scheme}://{host}:{port}"


def registered(url: str, peer: str | None) -> str:
    """Where a server is that registers itself: one that names the wildcard address is taken as the peer's.

    `lmdeploy serve api_server --proxy-url` sends the address that it listens on, by default 0.0.0.0. What is no URL is
    returned as it is.
    """
    parts, at = _PARTS.fullmatch(url), address(peer or "")
    host = address(parts["host"]) if parts else None
    if parts is None or host is None or at is None or not host.is_unspecified:
        return url
    found = f"[{at}]" if at.version == 6 else str(at)
    return f"{parts['scheme']}://{found}" + (f":{parts['port']}" if parts["port"] else "") + parts["rest"]


def address(host: str) -> Address | None:
    """The IP address that `host` spells, with or without brackets; None for a name. IPv4-mapped IPv6 becomes IPv4."""
    try:
        found = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def host_of(netloc: str) -> str:
    """The host of "host", "host:port", "[v6]" or "[v6]:port", in lower case, brackets kept."""
    return _split(netloc)[0].lower()


def _check_text(url: str) -> None:
    if not url:
        raise _bad("the worker URL is empty: give http://host:port")
    if len(url) > MAX_LENGTH:
        raise _bad(f"the worker URL is {len(url)} characters long: at most {MAX_LENGTH} are allowed")
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise _bad("the worker URL holds a character that no URL may hold: give http://host:port")
    if "@" in url:  # what stands before it may be a password: it is not repeated
        raise _bad("the worker URL carries credentials: give http://host:port without a user name")


def _host(host: str, url: str) -> str:
    host = host.lower()
    literal = (host.startswith("[") and "%" not in host) or _NUMERIC.fullmatch(host)  # no IPv6 zones
    found = address(host) if literal else None
    if found is None:
        if not _NAME.fullmatch(host) or _NUMERIC.fullmatch(host) or len(host) > 253:
            raise _bad(f"worker URL {url} has no valid host: give http://host:port")
        return host
    if found.is_link_local or found.is_multicast:  # 169.254.169.254 is where clouds keep a machine's credentials
        raise _bad(f"worker URL {url} names a link-local or multicast address, where no worker can be")
    return f"[{found}]" if found.version == 6 else str(found)


def _port(port: str | None, url: str) -> int | None:
    if port is None:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65_535:
        raise _bad(f"worker URL {url} has no valid port: it must lie between 1 and 65535")
    return int(port)


def _name_of(host: str, port: int) -> str:
    """One name for all spellings of this machine: loopback, localhost, the wildcard (connects to loopback)."""
    found = address(host)
    local = found.is_loopback or found.is_unspecified if found else host == "localhost" or host.endswith(".localhost")
    return f"localhost:{port}" if local else f"{host}:{port}"


def _split(netloc: str) -> tuple[str, int]:
    host, colon, port = netloc.rpartition(":")
    if not colon or not port.isdecimal():
        return netloc, 0
    return host, int(port)


def _bad(message: str) -> BadRequest:
    return BadRequest(message, param="url")
