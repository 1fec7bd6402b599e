#!/usr/bin/env python3
"""Checks rules and dashboard against the documents, without Prometheus: monitoring_files_test.py ROOT

Every metric that they name is in the table of docs/operations.md, which another test compares with a running
server, and every alert has its entry in docs/deployment.md.
"""

import json
import pathlib
import re
import sys
import unittest

import yaml

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()


def documented_metrics():
    """name → type"""
    table = (ROOT / "docs/operations.md").read_text()
    return dict(re.findall(r"^\| `(kascade_[a-z0-9_]+)` \| (\w+) \|", table, re.MULTILINE))


def named_metrics(text):
    """Our metrics that expressions name; recording rules have colons."""
    return set(re.findall(r"\bkascade_[a-z0-9_]+\b", text))


def samples_of(metrics):
    """The names under which a scrape shows them."""
    suffixes = ("_bucket", "_sum", "_count")
    return {name + suffix for name, kind in metrics.items() for suffix in (suffixes if kind == "histogram" else ("",))}


class MonitoringFiles(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.rules = yaml.safe_load((ROOT / "deploy/prometheus-rules.yaml").read_text())
        cls.dashboard = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text())
        cls.samples = samples_of(documented_metrics())
        cls.all_rules = [rule for group in cls.rules["groups"] for rule in group["rules"]]
        cls.alerts = [rule for rule in cls.all_rules if "alert" in rule]
        cls.targets = [target["expr"] for panel in cls.dashboard["panels"] for target in panel.get("targets", [])]

    def test_there_is_something_to_check(self):
        self.assertGreater(len(self.samples), 40)
        self.assertGreaterEqual(len(self.alerts), 8)
        self.assertGreater(len(self.targets), 25)

    def test_rules_name_metrics_that_exist(self):
        for rule in self.all_rules:
            unknown = named_metrics(rule["expr"]) - self.samples
            self.assertFalse(unknown, f"{rule.get('alert') or rule.get('record')}: not in docs/operations.md")

    def test_dashboard_names_metrics_that_exist(self):
        variables = [variable["definition"] for variable in self.dashboard["templating"]["list"]
                     if variable["type"] == "query"]
        for expression in self.targets + variables:
            self.assertTrue(named_metrics(expression), expression)
            self.assertFalse(named_metrics(expression) - self.samples, expression)

    def test_chart_scales_by_metrics_that_exist(self):
        text = (ROOT / "helm/kascade-serve/templates/availability.yaml").read_text()
        self.assertTrue(named_metrics(text))
        self.assertFalse(named_metrics(text) - self.samples)

    def test_endpoint_picker_reads_metrics_that_exist(self):
        picker = yaml.safe_load((ROOT / "deploy/endpoint-picker.yaml").read_text())
        plugins = {plugin["name"]: plugin for plugin in picker["plugins"]}
        engine, = plugins["metrics"]["parameters"]["engineConfigs"]
        for key in ("queuedRequestsSpec", "runningRequestsSpec", "kvUsageSpec"):
            name = engine[key].split("{")[0]
            self.assertEqual(documented_metrics().get(name), "gauge", f"{key}: {name}")
        profile, = picker["schedulingProfiles"]
        source, = picker["dataLayer"]["sources"]
        used = [picker["parser"], source, *source["extractors"], *profile["plugins"]]
        self.assertEqual(sorted(entry["pluginRef"] for entry in used), sorted(plugins))

    def test_rules_name_recorded_series_that_exist(self):
        recorded = {rule["record"] for rule in self.all_rules if "record" in rule}
        named = {name for rule in self.all_rules for name in re.findall(r"\bkascade:[a-z0-9_:]+", rule["expr"])}
        self.assertTrue(named)
        self.assertFalse(named - recorded)

    def test_alerts_are_described(self):
        page = (ROOT / "docs/deployment.md").read_text()
        tests = (ROOT / "tests/deploy/prometheus-rules.test.yaml").read_text()
        for alert in self.alerts:
            name = alert["alert"]
            self.assertIn(alert["labels"]["severity"], ("critical", "warning", "info"), name)
            self.assertEqual(alert["annotations"].get("runbook"), f"docs/deployment.md#{name.lower()}")
            self.assertRegex(page, rf"(?m)^#+ {name}$", "docs/deployment.md says what to do")
            self.assertGreaterEqual(tests.count(f"alertname: {name}\n"), 2, f"{name}: fires, and stays silent")

    def test_panels_have_places_of_their_own(self):
        seen = set()
        for panel in self.dashboard["panels"]:
            place = panel["gridPos"]
            self.assertLessEqual(place["x"] + place["w"], 24, panel["title"])
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                     for y in range(place["y"], place["y"] + place["h"])}
            self.assertFalse(cells & seen, panel["title"])
            seen |= cells


if __name__ == "__main__":
    unittest.main()
