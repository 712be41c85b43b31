"""The manifests fit each other and the program: labels, ports, accounts, options and the time that a drain takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import yaml

from router.cli import command, router_config
from router.config import RouterConfig

FOLDER = Path(__file__).parents[2] / "scripts" / "deploy" / "kubernetes"


def kinds(name: str) -> dict[str, Any]:
    return {part["kind"]: part for part in yaml.safe_load_all((FOLDER / name).read_text())}


ACCOUNT, ROUTER, WORKER = kinds("rbac.yaml"), kinds("router.yaml"), kinds("workers.yaml")["Deployment"]
POD = ROUTER["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
WORKER_POD = WORKER["spec"]["template"]


def config(tmp_path: Path) -> RouterConfig:
    """What the router reads from the arguments of its pod."""
    (tmp_path / "key").write_text("sesame")
    args = [arg.replace("$(NAMESPACE)", "serving") for arg in CONTAINER["args"]]
    args = [f"{arg.partition('=')[0]}={tmp_path / 'key'}" if "-key-file=" in arg else arg for arg in args]
    with click.Context(command) as parent:
        context = command.make_context("router", args, parent)
    return router_config(context.params)


def test_the_router_takes_the_options_and_finds_the_workers(tmp_path: Path):
    given = config(tmp_path)
    labels = dict(label.split("=") for label in given.selector)
    assert labels.items() <= WORKER_POD["metadata"]["labels"].items()
    assert WORKER_POD["spec"]["containers"][0]["ports"][0]["containerPort"] == given.service_discovery_port
    assert given.service_discovery
    assert given.service_discovery_namespace == "serving"
    assert given.api_key == given.admin_api_key == "sesame"
    assert (given.host, given.port) == ("0.0.0.0", CONTAINER["ports"][0]["containerPort"])


def test_the_routers_account_may_see_pods_and_no_more():
    assert ACCOUNT["Role"]["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
    name = ACCOUNT["ServiceAccount"]["metadata"]["name"]
    assert POD["serviceAccountName"] == ACCOUNT["RoleBinding"]["subjects"][0]["name"] == name
    assert ACCOUNT["RoleBinding"]["roleRef"]["name"] == ACCOUNT["Role"]["metadata"]["name"]


def test_kubernetes_waits_for_a_drain_and_asks_paths_that_need_no_key(tmp_path: Path):
    assert POD["terminationGracePeriodSeconds"] > config(tmp_path).drain_timeout
    probes = (CONTAINER["livenessProbe"], CONTAINER["readinessProbe"])
    assert [probe["httpGet"]["path"] for probe in probes] == ["/liveness", "/readiness"]
    assert ROUTER["Service"]["spec"]["selector"] == ROUTER["Deployment"]["spec"]["template"]["metadata"]["labels"]
