#!/usr/bin/env python3
"""Checks the files of the Helm chart against each other, without Helm: chart_files_test.py ROOT"""

import json
import pathlib
import re
import subprocess
import sys
import unittest

import yaml

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
CHART = ROOT / "helm" / "kascade-serve"

# Options of the server that the chart sets from other values, or that make no sense in a pod.
SET_BY_CHART = {"model", "listen", "metrics-listen", "port-file", "weights-cache", "schedule", "schedule-dir",
                "drain-delay-seconds", "drain-seconds", "tls-cert", "tls-key", "tls-client-ca", "tokens", "allow-plaintext",
                "config", "print-config", "version", "help"}


def value_paths(values, path=()):
    """Paths of all values; an empty mapping is a value, others are not."""
    if not isinstance(values, dict) or not values:
        return [path]
    return [found for key, value in values.items() for found in value_paths(value, path + (key,))]


def used_paths(text):
    return {tuple(name.split(".")) for name in re.findall(r"\.Values\.([A-Za-z0-9.]+)", text)}


def begins(path, start):
    return path[:len(start)] == start


def schema_differences(schema, values, path=""):
    """Where schema and values.yaml do not have the same keys, or the schema lets unknown ones pass."""
    if "properties" not in schema:
        return []
    problems = [] if schema.get("additionalProperties") is False else [f"{path or '/'}: lets unknown keys pass"]
    if not path:
        schema = {**schema, "properties": {k: v for k, v in schema["properties"].items() if k != "global"}}
    if path in ("/server/options", "/resources"):
        return problems
    for key in schema["properties"].keys() ^ values.keys():
        problems.append(f"{path}/{key}: in one of values.schema.json and values.yaml only")
    for key in schema["properties"].keys() & values.keys():
        problems += schema_differences(schema["properties"][key], values[key], f"{path}/{key}")
    return problems


def documented_options():
    section = (ROOT / "docs/operations.md").read_text().split("## Options")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`--.*?) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`--([a-z0-9-]+)", cell)}


class ChartFiles(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.values = yaml.safe_load((CHART / "values.yaml").read_text())
        cls.schema = json.loads((CHART / "values.schema.json").read_text())
        cls.templates = {path.relative_to(CHART).as_posix(): path.read_text()
                         for path in (CHART / "templates").rglob("*") if path.is_file()}

    def test_there_are_templates(self):
        self.assertGreater(len(self.templates), 12)

    def test_used_values_are_declared(self):
        declared = value_paths(self.values)
        for name, text in self.templates.items():
            for path in used_paths(text):
                known = any(begins(value, path) or (begins(path, value) and len(value) == 1) for value in declared)
                self.assertTrue(known, f"{name}: .Values.{'.'.join(path)} is not in values.yaml")

    def test_declared_values_are_used(self):
        # A claim's values reach claimSpec as a whole, and an option by its name.
        used = used_paths("".join(self.templates.values()))
        claim = {(key, name) for key in ("model", "schedules")
                 for name in ("size", "accessModes", "storageClassName")}
        whole = {path for path in used if path not in {("model",), ("schedules",), ("calibration",), ("scoring",)}}
        for path in value_paths(self.values):
            self.assertTrue(path in claim or any(begins(path, start) for start in whole),
                            f"values.yaml: no template uses {'.'.join(path)}")

    def test_schema_knows_exactly_the_values(self):
        self.assertEqual(schema_differences(self.schema, self.values), [])

    def test_options_of_the_schema_are_the_servers(self):
        known = set(self.schema["properties"]["server"]["properties"]["options"]["properties"])
        self.assertGreater(len(known), 10)
        self.assertFalse(known & SET_BY_CHART)
        self.assertFalse(known - documented_options(), "values.schema.json: options that the server lacks")
        missing = documented_options() - known - SET_BY_CHART
        self.assertFalse(missing, "values.schema.json: options that the chart does not know")

    def test_patterns_are_those_that_helm_reads(self):
        patterns = re.findall(r'"pattern": (".*")', (CHART / "values.schema.json").read_text())
        self.assertGreater(len(patterns), 10)
        for pattern in patterns:
            self.assertNotRegex(json.loads(pattern), r"\(\?[=!<]", "Helm's regular expressions do not look around")

    def test_no_value_is_a_secret(self):
        for path in value_paths(self.values):
            self.assertNotRegex(path[-1].lower(), r"^(password|apikey|token|secret)$", ".".join(path))

    def test_versions_agree(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        project = re.search(r"project\([^)]*VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text())[1]
        self.assertEqual(chart["appVersion"], project)

    def test_readme_is_that_of_the_values(self):
        subprocess.run([sys.executable, ROOT / "tools/chart_readme.py", "--check"], check=True)

    def test_files_exist(self):
        for name in re.findall(r'\.Files\.Get "([^"]+)"', "".join(self.templates.values())):
            self.assertTrue((CHART / name).is_file(), name)

    def test_test_values_parse(self):
        grid = list((ROOT / "helm/tests/values").glob("*.yaml"))
        self.assertGreaterEqual(len(grid), 12)
        for file in grid:
            self.assertIsInstance(yaml.safe_load(file.read_text()), dict, file.name)
        refused = yaml.safe_load((ROOT / "helm/tests/refused.yaml").read_text())
        self.assertGreaterEqual(len(refused), 10)


if __name__ == "__main__":
    unittest.main()
