"""Every alert has a section that says what to do, and links to it."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import yaml

from tests.docs.generate import exposed
from tests.docs.pages import DOCS, ROOT, Page

RULES = ROOT / "configs/monitoring/prometheus-alerts.yaml"
RUNBOOKS = Page(DOCS / "how-to/alerts.md")


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    headings = re.findall(r"^## (\w+)$", RUNBOOKS.prose, re.MULTILINE)
    assert headings == [rule["alert"] for rule in rules()]


def test_every_alert_links_to_its_runbook() -> None:
    for rule in rules():
        url = rule["annotations"]["runbook_url"]
        assert url == f"how-to/alerts.html#{rule['alert'].lower()}"
        assert rule["alert"].lower() in RUNBOOKS.anchors


def test_the_command_that_the_page_shows_makes_links_of_them() -> None:
    page = Page(DOCS / "how-to/monitoring.md").text
    (expression, address) = re.findall(r"sed '(s.*(https://[^|]*)\|)'", page)[0]
    assert f"sed '{expression}'" in RULES.read_text(), "its head says the same"
    made = subprocess.run(
        ["sed", expression, str(RULES)], capture_output=True, text=True, check=True
    ).stdout
    (group,) = yaml.safe_load(made)["groups"]
    for before, after in zip(rules(), group["rules"], strict=True):
        url = before["annotations"]["runbook_url"]
        assert after["annotations"]["runbook_url"] == address + url


def test_a_runbook_begins_with_the_severity_of_its_alert() -> None:
    for rule in rules():
        severity = rule["labels"]["severity"]
        assert re.search(rf"^## {rule['alert']}\n\n\*{severity}\.\* ", RUNBOOKS.text, re.MULTILINE)


def test_alerts_use_metrics_that_exist() -> None:
    known = exposed().keys()
    for rule in rules():
        for name in re.findall(r"\b(?:tcpmux|istio)_\w+", rule["expr"]):
            assert name.removesuffix("_bucket") in known, f"{rule['alert']}: {name}"


def test_a_drain_of_an_endpoint_is_not_forgotten() -> None:
    """Its destination is healthy, so no state of a destination tells."""
    (rule,) = (rule for rule in rules() if rule["alert"] == "TcpmuxForgottenDrain")
    used = re.findall(r'(tcpmux_\w+)\{state=~"drained\|disabled"\}', rule["expr"])
    assert {"tcpmux_destination_state", "tcpmux_endpoint_state"} == set(used)
    assert "$labels.endpoint" in rule["annotations"]["summary"]
