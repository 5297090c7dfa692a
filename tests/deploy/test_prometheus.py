"""The alert rules and the dashboard: taken by Prometheus, tried on series, and in step with /metrics of a server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from kit.callbacks import T0, body_of
from kit.deploy import (
    ADMIN_TOKEN,
    DEPLOY,
    TOKENS,
    bearer,
    deploy_file,
    free_port,
    output_of,
    running,
    signed_query,
    tool,
    write_tokens,
)
from kit.program import Server
from kit.wait import wait_until
from prometheus_client.parser import text_string_to_metric_families

ALERTS = "prometheus-alerts.yml"
CASES = Path(__file__).with_name("prometheus-alerts.test.yml")
DASHBOARD = "grafana-dashboard.json"
NOT_OURS = {"node_filesystem_avail_bytes"}  # of node_exporter: the server does not say how full its disk is
NAME = r"\b(?:roomlapse|node)_\w+"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has taken a few callbacks, refused one, and projected them."""
    with Server(tmp_path_factory.mktemp("server") / "data", env=TOKENS) as it:
        it.client.headers.update(bearer(ADMIN_TOKEN))
        for number in range(12):
            assert it.client.post("/callbacks", params=signed_query(), content=body_of("r", T0 + number)).is_success
        assert it.client.post("/callbacks", params=signed_query(), content=b"{}").status_code == 400
        assert it.get("/rooms/r")["events"] == 12
        wait_until(lambda: 'roomlapse_projection_stopped{projection="' in it.client.get("/metrics").text, "projected")
        yield it


@pytest.fixture(scope="module")
def samples(server: Server) -> dict[str, list[dict[str, str]]]:
    """The series of /metrics: the labels of each, by name."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(server.client.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(deploy_file(ALERTS, {}))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(deploy_file(DASHBOARD, {}))["panels"]
    return found


def expressions() -> list[str]:
    return [rule["expr"] for rule in rules()] + [target["expr"] for panel in panels() for target in panel["targets"]]


def test_prometheus_takes_the_rules() -> None:
    assert f"{len(rules())} rules found" in output_of(tool("promtool"), "check", "rules", str(DEPLOY / ALERTS))


def test_each_alert_fires_when_it_should_and_not_when_not() -> None:
    assert "SUCCESS" in output_of(tool("promtool"), "test", "rules", str(CASES))


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    tried = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in tried if case["exp_alerts"]}
    silent = {case["alertname"] for case in tried if not case["exp_alerts"]}
    assert fires == silent == {rule["alert"] for rule in rules()}


def test_each_name_and_label_in_an_expression_is_one_of_the_servers(samples: dict[str, list[dict[str, str]]]) -> None:
    used = {name for expression in expressions() for name in re.findall(NAME, expression)}
    assert len(used) > 10
    assert used - NOT_OURS <= set(samples)
    for expression in expressions():
        for name, labels in re.findall(rf"({NAME})\{{([^}}]*)\}}", expression):
            for label, operator, value in re.findall(r'(\w+)(=~|=)"([^"]*)"', labels):
                if name in NOT_OURS or label == "instance":
                    continue
                there = {series[label] for series in samples[name]}
                assert set(value.split("|") if operator == "=~" else [value]) <= there, expression


def test_each_metric_of_the_server_is_on_the_dashboard(samples: dict[str, list[dict[str, str]]]) -> None:
    used = {name for panel in panels() for target in panel["targets"] for name in re.findall(NAME, target["expr"])}
    there = {re.sub(r"_(bucket|sum|count)$", "", name) for name in samples if name.startswith("roomlapse_")}
    assert there == {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}


def test_each_outcome_but_the_three_that_lose_nothing_alerts(samples: dict[str, list[dict[str, str]]]) -> None:
    outcomes = {series["outcome"] for series in samples["roomlapse_callbacks_total"]}
    alerting = {
        outcome
        for rule in rules()
        for value in re.findall(r'outcome=~?"([^"]*)"', rule["expr"])
        for outcome in value.split("|")
    }
    assert outcomes - alerting == {"accepted", "duplicate", "blocking"}


def test_the_dashboards_ids_are_unique_and_its_panels_do_not_overlap() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    cells: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        cells |= own
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters))


@pytest.mark.slow
def test_prometheus_scrapes_the_server_as_the_file_says_and_can_answer_every_panel(
    server: Server, tmp_path: Path
) -> None:
    program, port = tool("prometheus"), free_port()
    write_tokens(tmp_path / "tokens")
    head = deploy_file(ALERTS, {}).split("rule_files:", 1)[1].split("groups:")[0]
    given = ("rule_files:" + head).replace("#   ", "").replace("/etc/prometheus/roomlapse_", f"{tmp_path}/tokens/")
    config = yaml.safe_load(given.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}"))
    assert config["rule_files"] == [ALERTS]
    config |= {"rule_files": [str(DEPLOY / ALERTS)], "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}}
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    command = [program, f"--config.file={path}", f"--web.listen-address=127.0.0.1:{port}"]
    command.append(f"--storage.tsdb.path={tmp_path}/series")
    with (
        running(command, tmp_path / "prometheus.log"),
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=20) as client,
    ):

        def ask(expression: str) -> list[Any]:
            response = client.get("/query", params={"query": expression})
            assert response.status_code == 200, f"{expression}: {response.text}"
            found: list[Any] = response.json()["data"]["result"]
            return found

        def scraped() -> bool:
            try:
                return len(ask("count_over_time(roomlapse_log_head[1m]) >= 3")) == 1
            except (httpx.TransportError, AssertionError):
                return False

        wait_until(scraped, "Prometheus has scraped the server three times")
        assert ask('up{job="roomlapse"}')[0]["value"][1] == "1"
        for panel in panels():
            for target in panel["targets"]:
                expression = target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m")
                assert ask(expression), f"{panel['title']}: {expression}"

        def evaluated() -> list[Any]:
            found = client.get("/rules").json()["data"]["groups"][0]["rules"]
            return found if all(rule["health"] != "unknown" for rule in found) else []

        states = {
            rule["name"]: (rule["health"], rule["state"]) for rule in wait_until(evaluated, "rules are evaluated")
        }
        assert states == dict.fromkeys((rule["alert"] for rule in rules()), ("ok", "inactive"))
        refused = signed_query() | {"Sign": "f" * 64}
        assert server.client.post("/callbacks", params=refused, content=b"{}").status_code == 401

        def firing() -> bool:
            found = client.get("/alerts").json()["data"]["alerts"]
            return [alert["labels"]["outcome"] for alert in found if alert["state"] == "firing"] == ["unsigned"]

        wait_until(firing, "callbacks that are not signed raise the alert")
