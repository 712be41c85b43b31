"""Worker URLs: one spelling each, and clear refusals."""

from __future__ import annotations

import pytest

from router.errors import BadRequest
from router.urls import address, host_of, normalise, registered


@pytest.mark.parametrize(
    ("given", "spelt"),
    [
        ("http://worker1:30001", "http://worker1:30001"),
        ("http://worker1:30001/", "http://worker1:30001"),
        ("HTTP://Worker1.Example.COM:30001", "http://worker1.example.com:30001"),
        ("https://10.0.0.7:8443", "https://10.0.0.7:8443"),
        ("http://worker_1", "http://worker_1"),
        ("http://worker1:80", "http://worker1"),
        ("https://worker1:443", "https://worker1"),
        ("https://worker1:80", "https://worker1:80"),
        ("http://[2001:DB8:0:0::1]:30001", "http://[2001:db8::1]:30001"),
        ("http://[::ffff:10.0.0.7]:30001", "http://10.0.0.7:30001"),
    ],
)
def test_every_spelling_of_a_url_becomes_one(given: str, spelt: str):
    assert normalise(given) == spelt


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "empty"),
        ("worker1:30001", "must begin with http:// or https://"),
        ("localhost", "must begin with http:// or https://"),
        ("file:///etc/passwd", "must begin with http:// or https://"),
        ("gopher://worker1:70", "must begin with http:// or https://"),
        ("http:/worker1", "must begin with http:// or https://"),
        ("http://", "no valid host"),
        ("http://:30001", "no valid host"),
        ("http://-worker:30001", "no valid host"),
        ("http://worker..1:30001", "no valid host"),
        ("http://work%65r:30001", "no valid host"),
        ("http://[::1:30001", "no valid"),
        ("http://[fe80::1%25eth0]:30001", "no valid host"),
        ("http://127.1:30001", "no valid host"),
        ("http://2130706433:30001", "no valid host"),
        ("http://0x7f.0.0.1:30001", "no valid host"),
        ("http://0x7f000001:30001", "no valid host"),
        ("http://999.0.0.1:30001", "no valid host"),
        ("http://worker1:", "no valid port"),
        ("http://worker1:0", "no valid port"),
        ("http://worker1:030001", "no valid port"),
        ("http://worker1:65536", "no valid port"),
        ("http://worker1:+80", "no valid port"),
        ("http://worker1:8_0", "no valid port"),
        ("http://worker1:٣٠", "no URL may hold"),
        ("http://worker1:30001/v1", "leave out /v1"),
        ("http://worker1:30001//", "leave out //"),
        ("http://worker1:30001?x=1", r"leave out \?x=1"),
        ("http://worker1:30001/#top", "leave out /#top"),
        ("http://worker1:80\\@evil", "no URL may hold"),
        ("http://worker1:30001\r\nHost: evil", "no URL may hold"),
        ("http://wor ker1:30001", "no URL may hold"),
        ("http://w\x00rker1:30001", "no URL may hold"),
        ("http://wörker:30001", "no URL may hold"),
        ("http://169.254.169.254", "link-local"),
        ("http://[fe80::1]:30001", "link-local"),
        ("http://224.0.0.1:30001", "link-local or multicast"),
        ("http://" + "a" * 3000, "3007 characters long"),
    ],
)
def test_what_is_no_worker_url_is_refused_with_the_reason(url: str, why: str):
    with pytest.raises(BadRequest, match=why) as refused:
        normalise(url)
    assert "\n" not in refused.value.message


def test_a_password_is_refused_and_not_repeated():
    with pytest.raises(BadRequest, match="credentials") as refused:
        normalise("http://user:hunter2@worker1:30001")
    assert "hunter2" not in refused.value.message


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST", "a.localhost", "[::1]", "0.0.0.0", "[::]", "127.0.0.2"]
)
@pytest.mark.parametrize("own", ["127.0.0.1:30000", "localhost:30000", "0.0.0.0:30000", "[::]:30000"])
def test_the_router_is_not_its_own_worker_under_any_name(host: str, own: str):
    with pytest.raises(BadRequest, match="this router itself"):
        normalise(f"http://{host}:30000", {own})
    assert normalise(f"http://{host}:30001", {own})


def test_the_default_port_counts_when_the_router_looks_for_itself():
    with pytest.raises(BadRequest, match="this router itself"):
        normalise("http://localhost", {"127.0.0.1:80"})


def test_a_router_on_one_address_may_have_a_worker_on_the_same_port_of_another():
    assert normalise("http://127.0.0.1:30000", {"10.0.0.7:30000"}) == "http://127.0.0.1:30000"
    with pytest.raises(BadRequest, match="this router itself"):
        normalise("http://10.0.0.7:30000", {"10.0.0.7:30000"})


@pytest.mark.parametrize(
    ("netloc", "host"),
    [("a", "a"), ("A:80", "a"), ("[::1]", "[::1]"), ("[::1]:80", "[::1]"), ("127.0.0.1:30000", "127.0.0.1")],
)
def test_the_host_of_a_host_header_is_found(netloc: str, host: str):
    assert host_of(netloc) == host


def test_an_ipv4_peer_on_an_ipv6_socket_is_an_ipv4_address():
    found = address("::ffff:127.0.0.1")
    assert found is not None
    assert found.is_loopback
    assert address("worker1") is None


@pytest.mark.parametrize(
    ("url", "peer", "taken"),
    [
        ("http://0.0.0.0:23333", "10.0.0.7", "http://10.0.0.7:23333"),
        ("https://0.0.0.0/", "10.0.0.7", "https://10.0.0.7/"),
        ("http://me:secret@0.0.0.0:1", "10.0.0.7", "http://me:secret@0.0.0.0:1"),
        ("w0", "10.0.0.7", "w0"),
        ("", "10.0.0.7", ""),
        ("http://0.0.0.0:23333", "127.0.0.1", "http://127.0.0.1:23333"),
        ("http://[::]:23333", "fd00::7", "http://[fd00::7]:23333"),
        ("http://0.0.0.0:23333", "::ffff:10.0.0.7", "http://10.0.0.7:23333"),
        ("http://worker1:23333", "10.0.0.7", "http://worker1:23333"),
        ("http://10.0.0.9:23333", "10.0.0.7", "http://10.0.0.9:23333"),
        ("http://0.0.0.0:23333", None, "http://0.0.0.0:23333"),
    ],
)
def test_a_server_that_registers_the_wildcard_address_is_where_its_request_came_from(url, peer, taken):
    assert registered(url, peer) == taken
