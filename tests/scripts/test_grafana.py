"""The dashboard and the alert rules ask for what /metrics exposes: its names, its labels, and states that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from router.exposition import scrape
from router.fleet import Fleet, State, Worker
from router.metrics import Metrics

GRAFANA = Path(__file__).parents[2] / "scripts" / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboard.json").read_text())
RULES = [rule for group in yaml.safe_load((GRAFANA / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
EXPRESSIONS = [*QUERIES, *(rule["expr"] for rule in RULES)]
TARGET = {"job", "instance"}  # labels that Prometheus gives what it scrapes


def exposed() -> dict[str, set[str]]:
    """Name -> labels, of a router that has seen some of everything."""
    fleet, metrics = Fleet(), Metrics()
    fleet.add(Worker("w0", "http://worker1"))
    metrics.finished("/generate", 200, 0.1, 0.1)
    metrics.retried("not_sent")
    parts = SimpleNamespace(fleet=fleet, metrics=metrics, policy=SimpleNamespace(index=None))
    families = text_string_to_metric_families(scrape(parts)[0].decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def names(expression: str) -> list[str]:
    return re.findall(r"\bllm_router_\w+", expression)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_name_is_exposed(expression):
    assert names(expression)
    assert [name for name in names(expression) if name not in exposed()] == []


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_label_is_one_that_the_metric_has(expression):
    known = exposed()
    selected = [
        (name, label)
        for name, inside in re.findall(r"\b(llm_router_\w+){([^}]*)}", expression)
        for label in re.findall(r"(\w+)\s*[=!]", inside)
    ]
    grouped = [
        (name, label)
        for inside in re.findall(r"by \(([^)]*)\)", expression)
        for label in re.split(r",\s*", inside)
        for name in names(expression)
    ]
    assert [(name, label) for name, label in selected + grouped if label not in known[name] | TARGET] == []


def test_every_metric_of_the_workers_and_the_cache_is_drawn():
    wanted = {name for name in exposed() if name.startswith(("llm_router_worker_", "llm_router_reported_"))}
    drawn = {name for query in QUERIES for name in names(query)}
    alerted = {name for rule in RULES for name in names(rule["expr"])}
    summed = {"llm_router_worker_reported_prompt_tokens_total", "llm_router_worker_reported_cached_tokens_total"}
    assert {name for name in wanted if not name.endswith("_created")} - drawn - alerted == summed


def test_states_that_alerts_wait_for_exist():
    states = {state.value for state in State}
    asked = [
        word for rule in RULES for found in re.findall(r'state=~?"([^"]+)"', rule["expr"]) for word in found.split("|")
    ]
    assert asked
    assert set(asked) <= states


def test_every_alert_says_how_urgent_it_is_and_what_it_means():
    assert len({rule["alert"] for rule in RULES}) == len(RULES) >= 8
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


def test_panels_have_places_of_their_own_and_name_no_data_source_of_somebodys():
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
    assert {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel["targets"]} == {
        "${datasource}"
    }


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: apt install prometheus")
def test_prometheus_takes_every_rule_and_every_query(tmp_path: Path):
    queries = [query.replace("$__rate_interval", "5m").replace("$job", ".*") for query in QUERIES]
    records = [{"record": f"drawn:{n}", "expr": query} for n, query in enumerate(queries)]
    drawn = tmp_path / "drawn.yaml"
    drawn.write_text(yaml.safe_dump({"groups": [{"name": "drawn", "rules": records}]}))
    told = subprocess.run(
        ["promtool", "check", "rules", str(GRAFANA / "alerts.yaml"), str(drawn)], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout + told.stderr
