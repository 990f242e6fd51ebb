"""Alerts and dashboard speak of what the service reports, in its own words."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import DEPLOY, ROOT
from tests.deploy.names import labels_of_series, values_of_labels

ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
GROUPS = yaml.safe_load(ALERTS.read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
DASHBOARD = json.loads((DEPLOY / "grafana" / "marmot.json").read_text())
OPERATING = ROOT / "docs" / "operating.md"

SERIES = re.compile(r"\b(marmot_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\bby\s*\(([^)]*)\)")
OF_THE_SCRAPE = {"job", "instance"}  # what Prometheus adds to every series


def _panels() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


EXPRESSIONS = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in RULES] + [*_panels()]


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool on PATH; Debian's package prometheus has it")
    return found


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS]
)
def test_no_drift(where: str, expression: str) -> None:
    """Every series, label and value in an expression is one that the service can report."""
    known, values = labels_of_series(), values_of_labels()
    labels = set(OF_THE_SCRAPE)
    for name, matchers in SERIES.findall(expression):
        assert name in known, f"{where}: {name}"
        labels |= known[name]
        for label, wanted in MATCHER.findall(matchers):
            assert label in known[name] | OF_THE_SCRAPE, f"{where}: {name} has no {label}"
            for word in wanted.split("|") if label in values else ():
                assert any(re.fullmatch(word, value) for value in values[label]), f"{where}: {word}"
    for grouping in GROUPING.findall(expression):
        assert set(re.findall(r"\w+", grouping)) <= labels, where


def test_the_whole_is_on_the_dashboard() -> None:
    """What the service reports, a person can see."""
    shown = " ".join(expression for _, expression in _panels())
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in labels_of_series()}
    assert not [name for name in families if name not in shown]


def test_panels_are_whole() -> None:
    """Each panel has a number of its own, and each query the source that is chosen on the page."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${source}"
    assert {each["name"] for each in DASHBOARD["templating"]["list"]} == {"source", "job"}


def test_alerts_are_explained() -> None:
    """Each alert has a severity, a summary, and a line in docs/operating.md; no other has."""
    alerts = {rule["alert"]: rule for rule in RULES if "alert" in rule}
    for rule in alerts.values():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]
    explained = re.findall(r"^\| `(Marmot\w+)`", OPERATING.read_text(), re.MULTILINE)
    assert sorted(explained) == sorted(alerts)


def test_the_operators_form() -> None:
    """The command in docs/operating.md makes the rules a PrometheusRule of the same groups."""
    command = re.search(r"^(sed .*?) >", OPERATING.read_text(), re.MULTILINE)
    assert command is not None
    done = subprocess.run(  # noqa: S602
        command[1], shell=True, cwd=ROOT, capture_output=True, text=True, check=True
    )
    made = yaml.safe_load(done.stdout)
    assert (made["apiVersion"], made["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert made["spec"] == {"groups": GROUPS}


def test_promtool_knows_the_rules(promtool: str) -> None:
    """The rules are PromQL."""
    _run(promtool, "check", "rules", ALERTS)


def test_alerts_fire(promtool: str) -> None:
    """Each alert fires on what it is for, and those for other things do not."""
    tests = ALERTS.with_name("alerts_test.yaml")
    _run(promtool, "test", "rules", tests)
    tried = set(re.findall(r"alertname: (\w+)\n", tests.read_text()))
    assert tried == {rule["alert"] for rule in RULES if "alert" in rule}


def test_promtool_knows_the_panels(promtool: str, tmp_path: Path) -> None:
    """The dashboard's queries are PromQL, once Grafana has put in what is chosen."""
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, (_, expression) in enumerate(_panels())
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    _run(promtool, "check", "rules", file)
