#!/usr/bin/env python3
"""Every query of the dashboard and every rule under a real Prometheus that scrapes a real server.

Usage: live_queries.py ROOT KASCADE_SERVER KASCADE; prometheus is found by PATH.
"""

import json
import pathlib
import subprocess
import sys
import time
import unittest
import urllib.parse

from live_server import Daemon, Server, text_of, wait

ROOT, SERVER, KASCADE = map(pathlib.Path, sys.argv[1:4])
CONFIGURATION = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: kascade-serve
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
PORT = 19090


def ask(path, **parameters):
    query = urllib.parse.urlencode(parameters)
    return json.loads(text_of(f"http://127.0.0.1:{PORT}/api/v1/{path}?{query}"))["data"]


class LiveQueries(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(SERVER)
        cls.addClassCleanup(cls.server.kill)
        configuration = cls.server.folder / "prometheus.yaml"
        configuration.write_text(CONFIGURATION.format(rules=(ROOT / "deploy/prometheus-rules.yaml").resolve(),
                                                      port=cls.server.metrics_port))
        prometheus = Daemon("prometheus", f"--config.file={configuration}", "--storage.tsdb.path=FOLDER/data",
                            f"--web.listen-address=127.0.0.1:{PORT}")
        cls.addClassCleanup(prometheus.kill)
        wait(lambda: ask("query", query="kascade_build_info")["result"], "the first scrape")
        cls.load()

    @classmethod
    def load(cls):
        """Calls of every kind, one of them wrong; the counters that they add grow between scrapes."""
        def call(*arguments):
            return subprocess.run([KASCADE, "--server", f"127.0.0.1:{cls.server.port}", *arguments],
                                  capture_output=True, text=True).returncode
        text = ROOT / "models/demo/evaluation.txt"
        generate = ["generate", "It was a dark and", "--max-tokens", "32"]
        for _ in range(2):
            assert call(*generate) == 0
            assert call(*generate, "--top-p", "7") == 1
            assert call("score", "--max-tokens-per-text", "1000", text) == 0
            assert call("calibrate", "--maker", "dp", "--max-tokens-per-text", "6000", "--window", "512",
                        "--max-degradation", "90", "--no-retrieval", ROOT / "models/demo/calibration.txt") == 0
            time.sleep(2)
        assert call(*generate) == 0
        time.sleep(3)

    def test_every_panel_has_data(self):
        dashboard = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text())
        queries = [(panel["title"], target["expr"]) for panel in dashboard["panels"]
                   for target in panel.get("targets", [])]
        self.assertGreater(len(queries), 25)
        for title, query in queries:
            for variable, value in (("$job", ".*"), ("$instance", ".*"), ("$__rate_interval", "1m")):
                query = query.replace(variable, value)
            with self.subTest(title):
                self.assertTrue(ask("query", query=query)["result"], query)

    def test_every_rule_is_evaluated(self):
        rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
        self.assertGreater(len(rules), 15)
        for rule in rules:
            self.assertEqual((rule["health"], rule.get("lastError")), ("ok", None), rule["name"])
        for rule in rules:
            # No call was refused or failed inside the server, and so these two have nothing to divide.
            if rule["type"] == "recording" and "rate5m" in rule["name"] and "_calls:" not in rule["name"]:
                self.assertTrue(ask("query", query=rule["name"])["result"], rule["name"])

    def test_no_alert_fires(self):
        self.assertEqual([alert["labels"]["alertname"] for alert in ask("alerts")["alerts"]
                          if alert["state"] == "firing"], [])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
