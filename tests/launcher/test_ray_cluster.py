"""What can be said of a Ray cluster without one; with one: tests/e2e/test_ray.py."""

from __future__ import annotations

import dataclasses
import socket

import pytest

from launcher.config import LaunchConfig
from launcher.errors import BadConfig

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
from launcher import ray_cluster  # noqa: E402

CONFIG = LaunchConfig("m", engine="sim", cluster="ray")


@pytest.mark.parametrize("address", ["head", "ray://head:10001", ":6379", "head:port", "head:99999"])
def test_an_address_that_is_none_is_told(address: str):
    with pytest.raises(BadConfig, match=f"--ray-address {address}"):
        ray_cluster.Cluster(dataclasses.replace(CONFIG, ray_address=address))


def test_without_a_cluster_it_is_told_how_to_begin_one(monkeypatch: pytest.MonkeyPatch):
    def init(address: str, **_: object) -> None:
        assert address == "auto"
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(BadConfig, match="ray start --head begins one"):
        ray_cluster.Cluster(CONFIG)


def test_a_cluster_that_cannot_be_joined_is_one_line(monkeypatch: pytest.MonkeyPatch):
    def init(*_: object, **__: object) -> None:
        there, here = "The cluster was started with:\n    Ray: 2.40", "This process:\n    Ray: 2.60"
        raise RuntimeError(f"Version mismatch: {there}\n{here}")

    monkeypatch.setattr(ray, "init", init)
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        with pytest.raises(BadConfig) as told:
            ray_cluster.Cluster(dataclasses.replace(CONFIG, ray_address=address))
    mismatch = "Version mismatch: The cluster was started with: Ray: 2.40 This process: Ray: 2.60"
    assert str(told.value) == f"the Ray cluster at {address} cannot be joined: {mismatch}"


def test_a_module_that_a_node_lacks_is_what_is_told():
    lacks = "ModuleNotFoundError: No module named 'launcher'"
    assert ray_cluster._told(RuntimeError(f"The actor died because of an error\n  File ...\n{lacks}")) == lacks
