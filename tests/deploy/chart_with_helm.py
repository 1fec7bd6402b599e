#!/usr/bin/env python3
"""The chart under real Helm: chart_with_helm.py ROOT SCHEMAS

helm, helm-unittest and kubeconform are found by PATH; SCHEMAS is the folder with the schemas of two Kubernetes
versions, as kubeconform reads them.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import yaml

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
SCHEMAS = pathlib.Path(sys.argv.pop(1)).resolve()
CHART = ROOT / "helm/kascade-serve"
GRID = sorted((ROOT / "helm/tests/values").glob("*.yaml"))
VERSIONS = ("1.30.0", "1.36.0")
# Their schemas are not Kubernetes' own.
FOREIGN = {"GRPCRoute", "HTTPRoute", "InferencePool", "PodMonitor", "PrometheusRule", "ScaledObject", "ServiceMonitor"}


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, **more)


def rendered(values, *more, chart=CHART, version=VERSIONS[-1]):
    return run("helm", "template", "demo", chart, "--namespace", "space", "--kube-version", version, "--values",
               values, *more)


class Chart(unittest.TestCase):
    def test_lint(self):
        for values in GRID:
            with self.subTest(values.stem):
                ran = run("helm", "lint", "--strict", CHART, "--kube-version", VERSIONS[-1], "--values", values)
                self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)

    def render_grid(self, folder, version):
        """Writes the manifests of all value files; returns their kinds."""
        kinds = set()
        for values in GRID:
            ran = rendered(values, version=version)
            self.assertEqual(ran.returncode, 0, f"{values.stem}: {ran.stderr}")
            names = [(found["kind"], found["metadata"]["name"]) for found in yaml.safe_load_all(ran.stdout) if found]
            self.assertEqual(len(names), len(set(names)), values.stem)
            kinds |= {kind for kind, _ in names}
            pathlib.Path(folder, values.stem + ".yaml").write_text(ran.stdout)
        return kinds

    def test_manifests_are_valid(self):
        location = (f"{SCHEMAS}/{{{{.NormalizedKubernetesVersion}}}}-standalone{{{{.StrictSuffix}}}}/"
                    "{{.ResourceKind}}{{.KindSuffix}}.json")
        for version in VERSIONS:
            with self.subTest(version), tempfile.TemporaryDirectory() as folder:
                kinds = self.render_grid(folder, version)
                self.assertGreaterEqual(kinds, FOREIGN | {"StatefulSet", "Deployment", "Job", "NetworkPolicy", "Pod",
                                                          "HorizontalPodAutoscaler", "PodDisruptionBudget"})
                ran = run("kubeconform", "-strict", "-summary", "-kubernetes-version", version, "-skip",
                          ",".join(sorted(FOREIGN)), "-schema-location", location, folder)
                self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
                print(version, ran.stdout.strip(), file=sys.stderr)

    def test_old_clusters_are_refused(self):
        ran = rendered(GRID[0], version="1.29.0")
        self.assertIn("chart requires kubeVersion: >=1.30.0-0", ran.stderr)

    def test_wrong_values_are_refused(self):
        for case in yaml.safe_load((ROOT / "helm/tests/refused.yaml").read_text()):
            with self.subTest(case["message"]), tempfile.NamedTemporaryFile("w", suffix=".yaml") as values:
                yaml.safe_dump(case["values"], values)
                values.flush()
                ran = rendered(values.name)
                self.assertNotEqual(ran.returncode, 0)
                self.assertIn(case["message"], ran.stderr)

    def test_pods_meet_the_restricted_standard(self):
        for values in GRID:
            for found in yaml.safe_load_all(rendered(values).stdout):
                template = (found or {}).get("spec", {}).get("template", found if (found or {}).get("kind") == "Pod" else None)
                if not template:
                    continue
                pod = template["spec"]
                name = f"{values.stem}: {found['kind']} {found['metadata']['name']}"
                self.assertTrue(pod["securityContext"]["runAsNonRoot"], name)
                self.assertFalse(pod["automountServiceAccountToken"], name)
                for container in pod["containers"] + pod.get("initContainers", []):
                    context = container["securityContext"]
                    self.assertFalse(context["allowPrivilegeEscalation"], name)
                    self.assertTrue(context["readOnlyRootFilesystem"], name)
                    self.assertEqual(context["capabilities"], {"drop": ["ALL"]}, name)

    def test_a_change_of_options_starts_pods_anew(self):
        def checksum(*more):
            return re.search(r"checksum/configuration: (\w+)", rendered(GRID[0], *more).stdout)[1]
        self.assertNotEqual(checksum(), checksum("--set", "server.options.max-queue=7"))

    def test_suites(self):
        ran = run("helm-unittest", "--strict", CHART)
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        tests = re.search(r"Tests: +(\d+) passed, (\d+) total", ran.stdout)
        self.assertTrue(tests and int(tests[1]) > 20, ran.stdout)

    def test_package_has_rules_and_dashboard(self):
        with tempfile.TemporaryDirectory() as folder:
            ran = run("helm", "package", CHART, "--destination", folder)
            self.assertEqual(ran.returncode, 0, ran.stderr)
            package, = pathlib.Path(folder).glob("*.tgz")
            listed = run("tar", "-tzf", package).stdout.splitlines()
            self.assertIn("kascade-serve/files/prometheus-rules.yaml", listed)
            self.assertIn("kascade-serve/files/grafana-dashboard.json", listed)
            self.assertFalse([name for name in listed if name.startswith("kascade-serve/tests/")])
            same = rendered(GRID[0]).stdout
            self.assertEqual(rendered(GRID[0], chart=package).stdout, same)


if __name__ == "__main__":
    unittest.main()
