#!/usr/bin/env python3
"""The chart in a real Kubernetes API with simulated nodes: chart_in_cluster.py ROOT KUBECONFIG

Objects, scheduling, upgrades and removal are real; pods do not run, so that probes, `helm test` and autoscaling
are not shown here.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
import unittest

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
ENVIRONMENT = {**os.environ, "KUBECONFIG": str(pathlib.Path(sys.argv.pop(1)).resolve())}
CHART, GRID = ROOT / "helm/kascade-serve", ROOT / "helm/tests/values"
# All kinds of objects that the chart makes and Kubernetes itself knows.
KINDS = ("deployments,statefulsets,replicasets,pods,services,configmaps,serviceaccounts,jobs,networkpolicies,"
         "poddisruptionbudgets,horizontalpodautoscalers,persistentvolumeclaims,secrets")


def run(*command, check=True):
    ran = subprocess.run([str(part) for part in command], env=ENVIRONMENT, capture_output=True, text=True)
    if check and ran.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}\n{ran.stdout}{ran.stderr}")
    return ran


class InCluster(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        for file in run("gateway-definitions").stdout.split():
            run("kubectl", "apply", "--server-side", "--filename", file)
        run("kubectl", "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")

    def setUp(self):
        self.space = "test-" + self._testMethodName.removeprefix("test_").replace("_", "-")[:40]
        run("kubectl", "create", "namespace", self.space)
        self.addCleanup(run, "kubectl", "delete", "namespace", self.space, "--wait=false", check=False)
        self.wait(lambda: self.names("serviceaccounts"), "the namespace has its service account")

    def helm(self, *arguments, check=True):
        return run("helm", *arguments, "--namespace", self.space, check=check)

    def get(self, *what):
        return json.loads(run("kubectl", "get", *what, "--namespace", self.space, "--output", "json").stdout)

    def names(self, kinds=KINDS):
        """Objects beside those that every namespace has."""
        return {(found["kind"], found["metadata"]["name"]) for found in self.get(kinds)["items"]}

    def wait(self, condition, what):
        end = time.monotonic() + 60
        while not condition():
            self.assertLess(time.monotonic(), end, what)
            time.sleep(0.3)

    def pods(self, phase):
        return [pod for pod in self.get("pods")["items"] if pod["status"]["phase"] == phase]

    def test_install_upgrade_rollback_uninstall(self):
        self.wait(lambda: self.names("configmaps"), "the namespace has its ConfigMap")
        before = self.names()
        self.helm("install", "demo", CHART, "--wait", "--timeout", "60s")
        self.assertEqual(len(self.pods("Running")), 1)
        service = self.get("service", "demo-kascade-serve")
        self.assertEqual(service["spec"]["ports"][0]["port"], 50051)
        pod = self.pods("Running")[0]["spec"]
        self.assertEqual(pod["terminationGracePeriodSeconds"], 45)
        self.assertEqual(pod["containers"][0]["livenessProbe"]["grpc"], {"port": 50051, "service": "liveness"})

        self.helm("upgrade", "demo", CHART, "--wait", "--timeout", "60s", "--set", "workload.replicas=3",
                  "--set", "server.options.weights=int8")
        self.assertEqual(self.get("deployment", "demo-kascade-serve")["status"]["readyReplicas"], 3)
        self.assertIn('weights="int8"', self.get("configmap", "demo-kascade-serve")["data"]["server.toml"])

        self.helm("rollback", "demo", "1", "--wait", "--timeout", "60s")
        self.assertNotIn("weights", self.get("configmap", "demo-kascade-serve")["data"]["server.toml"])
        self.assertEqual(self.get("deployment", "demo-kascade-serve")["spec"]["replicas"], 1)

        self.helm("uninstall", "demo", "--wait", "--timeout", "60s")
        self.wait(lambda: self.names() == before, f"nothing is left: {self.names() - before}")

    def test_every_value_file_is_accepted(self):
        # A dry run makes no service accounts, and pods of helm test need theirs.
        for account in ("demo-kascade-serve", "llm"):
            run("kubectl", "create", "serviceaccount", account, "--namespace", self.space)
        for values in sorted(GRID.glob("*.yaml")):
            rendered = run("helm", "template", "demo", CHART, "--namespace", self.space, "--kube-version", "1.36.0",
                           "--values", values).stdout
            ours = "\n---\n".join(part for part in rendered.split("\n---\n")
                                  if not any(f"kind: {kind}\n" in part for kind in
                                             ("PodMonitor", "PrometheusRule", "ScaledObject",
                                              "ServiceMonitor")))
            ran = subprocess.run(["kubectl", "apply", "--server-side", "--dry-run=server", "--validate=strict",
                                  "--namespace", self.space, "--filename", "-"], input=ours, env=ENVIRONMENT,
                                 capture_output=True, text=True)
            self.assertEqual(ran.returncode, 0, f"{values.stem}: {ran.stderr}")

    def test_pods_are_allowed_in_a_restricted_namespace(self):
        run("kubectl", "label", "namespace", self.space, "pod-security.kubernetes.io/enforce=restricted")
        self.helm("install", "demo", CHART, "--wait", "--timeout", "60s", "--values", GRID / "fetched-each.yaml")
        self.assertEqual(len(self.pods("Running")), 1)

    def test_ninth_gpu_replica_waits(self):
        self.helm("install", "demo", CHART, "--set", "gpu.count=1", "--set", "workload.replicas=9")
        self.wait(lambda: len(self.pods("Running")) == 8, "eight of nine run")
        pending, = self.pods("Pending")
        scheduled = {found["type"]: found for found in pending["status"]["conditions"]}["PodScheduled"]
        self.assertIn("Insufficient nvidia.com/gpu", scheduled["message"])
        # A rolling update does not need a GPU that nobody has.
        self.helm("upgrade", "demo", CHART, "--wait", "--timeout", "90s", "--set", "gpu.count=1",
                  "--set", "workload.replicas=8", "--set", "server.drainSeconds=5")
        self.assertEqual(len(self.pods("Running")), 8)

    def test_statefulset_keeps_a_volume_for_each_replica(self):
        self.helm("install", "demo", CHART, "--values", GRID / "statefulset.yaml")
        self.wait(lambda: len(self.names("persistentvolumeclaims")) == 3, "three claims")
        self.assertEqual(self.names("persistentvolumeclaims"),
                         {("PersistentVolumeClaim", f"schedules-demo-kascade-serve-{i}") for i in range(3)})

    def test_jobs_run_anew_when_their_values_change(self):
        job = ["--set", "calibration.enabled=true", "--set", "calibration.files={a.txt}",
               "--set", "calibration.texts.configMap=texts"]
        self.helm("install", "demo", CHART, *job)
        first = self.names("jobs")
        self.helm("upgrade", "demo", CHART, *job, "--set", "workload.revisionHistoryLimit=3")
        self.assertEqual(self.names("jobs"), first)
        self.helm("upgrade", "demo", CHART, *job, "--set", "calibration.args={--no-retrieval}")
        self.assertEqual((len(self.names("jobs")), len(first)), (1, 1))
        self.assertNotEqual(self.names("jobs"), first)


if __name__ == "__main__":
    unittest.main()
