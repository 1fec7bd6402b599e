#!/usr/bin/env python3
"""Compares the metrics and flags of docs/operations.md with a running server.

Usage: metrics_docs_test.py KASCADE_SERVER. Starts the server on models/demo, makes the calls that some
metrics need before they appear, scrapes /metrics, and compares names, types and labels with the table.
"""

import importlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

import grpc

from stubs import generate_stubs

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/operations.md"
SERVER = None


def documented(text):
    """{metric: (type, labels)} of the table."""
    return {name: (kind, set(re.findall(r"`(\w+)`", labels)))
            for name, kind, labels in re.findall(
                r"^\| `(kascade_\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)}


def scraped(text):
    """The same of an exposition; labels are unknown (None) where there is no sample."""
    kinds = dict(re.findall(r"^# TYPE (kascade_\w+) (\w+)$", text, re.MULTILINE))
    found = {name: [kind, None] for name, kind in kinds.items()}
    for name, labels in re.findall(r"^(kascade_\w+?)(?:\{(.*?)\})? [^ ]+$", text, re.MULTILINE):
        if name not in found:
            name = re.sub(r"_(bucket|sum|count)$", "", name)
        known = found[name]
        known[1] = (known[1] or set()) | set(re.findall(r'(\w+)="', labels)) - {"le"}
    return {name: tuple(value) for name, value in found.items()}


class MetricsDocs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        folder = pathlib.Path(directory.name)
        generate_stubs(folder)
        certificate, key = folder / "server.pem", folder / "server.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
             "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
            check=True, capture_output=True)
        server = subprocess.Popen(
            [SERVER, "--model", str(ROOT / "models/demo"), "--listen", "127.0.0.1:0",
             "--tls-cert", certificate, "--tls-key", key,
             "--metrics-listen", "127.0.0.1:0", "--kv-memory", "64MiB", "--port-file",
             str(folder / "ports")], stderr=subprocess.PIPE, text=True)
        cls.addClassCleanup(server.communicate, timeout=60)
        cls.addClassCleanup(server.terminate)
        deadline = time.monotonic() + 60
        while not (folder / "ports").exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.05)
        port, metrics_port = (folder / "ports").read_text().split()
        trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(f"localhost:{port}", trusted) as channel:
            cls.make_calls(channel)
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as response:
            cls.scraped = scraped(response.read().decode())

    @staticmethod
    def make_calls(channel):
        def module(name):
            return importlib.import_module(f"kascade.v1.{name}")
        generate, calibration = module("generate_pb2"), module("calibration_service_pb2")
        inference = module("inference_service_pb2_grpc").InferenceServiceStub(channel)
        list(inference.Generate(generate.GenerateRequest(
            text="The", stopping=generate.StoppingCriteria(max_new_tokens=3, ignore_eos=True))))
        try:  # a refusal
            list(inference.Generate(generate.GenerateRequest()))
        except grpc.RpcError:
            pass
        # A calibration that ends, by being cancelled.
        stub = module("calibration_service_pb2_grpc").CalibrationServiceStub(channel)
        text = (ROOT / "models/demo/calibration.txt").read_text()[:60_000]
        stream = stub.Calibrate(calibration.CalibrateRequest(texts=[text]))
        job = next(stream).started.calibration_id
        stub.CancelCalibration(calibration.CancelCalibrationRequest(calibration_id=job))
        try:
            list(stream)
        except grpc.RpcError:
            pass

    def test_the_table_is_what_a_scrape_gives(self):
        table = documented(PAGE.read_text())
        self.assertEqual(sorted(table), sorted(self.scraped))
        for name, (kind, labels) in self.scraped.items():
            with self.subTest(metric=name):
                self.assertEqual(table[name][0], kind)
                if labels is not None:
                    self.assertEqual(table[name][1], labels)

    def test_the_option_table_is_that_of_help(self):
        page = PAGE.read_text()
        table = page[page.index("## Options"):page.index("## Files")]
        shown = subprocess.run([SERVER, "--help"], capture_output=True, text=True, check=True).stdout
        flags = set(re.findall(r"^ +(?:-\w,)?(--[a-z0-9-]+)", shown, re.MULTILINE))
        rows = re.findall(r"^\| (`--[^|]*)\|", table, re.MULTILINE)
        self.assertEqual(set(re.findall(r"--[a-z0-9-]+", " ".join(rows))), flags)


if __name__ == "__main__":
    if len(sys.argv) < 2 or not os.access(sys.argv[1], os.X_OK):
        sys.exit("usage: metrics_docs_test.py KASCADE_SERVER")
    SERVER = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
