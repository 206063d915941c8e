"""Alert rules and dashboards: what they ask for exists, and promtool reads the rules."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from audit.kinds import registered_kinds
from edge_client.metrics import DeviceCollector
from qflare_site.metrics import endpoint, processes

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES_TEST = DEPLOY / "prometheus" / "alerts_test.yml"
ALERTS, DASHBOARD = DEPLOY / "prometheus" / "alerts.yml", DEPLOY / "grafana" / "qflare.json"


def alerts():
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return group["rules"]


def expressions():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [rule["expr"] for rule in alerts()] + asked


def sample_names():
    """Every name under which the site gives a sample."""
    text = generate_latest(endpoint._SITE).decode()
    names = {family.name for family in text_string_to_metric_families(text)}
    names |= {metric._name for metric in (processes.REQUESTS, processes.REQUEST_SECONDS)}
    names |= {metric._name for metric in (processes.TASKS, processes.TASK_SECONDS)}
    names |= {family.name for family in DeviceCollector().collect()}
    return {f"{name}{suffix}" for name in names for suffix in ("", "_total", "_bucket")}


@pytest.mark.django_db
@pytest.mark.parametrize("expression", expressions())
def test_an_expression_asks_for_metrics_that_there_are(expression):
    asked = set(re.findall(r"qflare_\w+", expression.replace('job="qflare"', "")))
    assert asked <= sample_names()
    assert asked or expression.startswith("up")


@pytest.mark.parametrize("expression", [one for one in expressions() if "kind=" in one])
def test_an_expression_asks_for_kinds_of_events_that_there_are(expression):
    named = [kind for text in re.findall(r'kind=~?"([^"]+)"', expression) for kind in text.split("|")]
    assert named
    assert set(named) <= set(registered_kinds())


def test_every_alert_says_how_bad_it_is_and_what_happened():
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".")


def test_every_alert_has_its_paragraph_in_the_operations_page():
    page = (DEPLOY.parent / "docs" / "operations.md").read_text()
    assert [rule["alert"] for rule in alerts() if f"`{rule['alert']}`" not in page] == []


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Debian's package prometheus, is not here")
def test_promtool_reads_the_rules():
    done = subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Debian's package prometheus, is not here")
def test_promtool_reads_the_scrape_configuration():
    command = ["promtool", "check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Debian's package prometheus, is not here")
def test_the_rules_fire_when_they_should_and_only_then():
    done = subprocess.run(["promtool", "test", "rules", str(RULES_TEST)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


def test_a_queue_is_as_long_for_the_cluster_as_for_one_web_host():
    (rule,) = yaml.safe_load((DEPLOY / "prometheus" / "adapter-rules.yml").read_text())["rules"]["external"]
    assert rule["metricsQuery"].startswith("max by (queue)")
