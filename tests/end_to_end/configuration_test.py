#!/usr/bin/env python3
"""The configuration of a running server: what it tells of its options, and SIGHUP under load.

Usage: configuration_test.py SERVER CLIENT [unittest arguments]
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import grpc

from stubs import generate_stubs

MODEL = pathlib.Path(__file__).resolve().parents[2] / "models/demo"

server_path = client_path = None


class RecordingProxy:
    """Passes one connection on, and keeps what the server sent."""

    def __init__(self, port):
        self.received = b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.run, args=[port], daemon=True).start()

    def run(self, port):
        with self.listener:
            client, _ = self.listener.accept()
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            threading.Thread(target=self.forward, args=[client, server], daemon=True).start()
            self.forward(server, client, keep=True)

    def forward(self, source, target, keep=False):
        try:
            while data := source.recv(1 << 16):
                self.received += data if keep else b""
                target.sendall(data)
        except OSError:
            pass


class ConfigurationTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="kascade-configuration-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.file = self.folder / "server.yaml"

    def write(self, **options):
        """Renamed into place: the server may read at any time."""
        text = "".join(f"{name.replace('_', '-')}: {value}\n" for name, value in options.items())
        (self.folder / "new").write_text(f"model: {MODEL}\nlisten: 127.0.0.1:0\n"
                                         f"log-format: json\nkv-memory: 64MiB\n{text}")
        (self.folder / "new").rename(self.file)

    def start(self, *arguments):
        with open(self.folder / "log", "w") as log:
            server = subprocess.Popen(
                [server_path, "--config", self.file, "--metrics-listen", "", "--port-file",
                 self.folder / "ports", *arguments], stdout=log, stderr=subprocess.STDOUT)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        deadline = time.monotonic() + 120
        while not (self.folder / "ports").exists():
            self.assertIsNone(server.poll(), self.log())
            self.assertLess(time.monotonic(), deadline, self.log())
            time.sleep(0.02)
        self.port = int((self.folder / "ports").read_text().split()[0])
        return server

    def log(self):
        return (self.folder / "log").read_text()

    def records(self, message):
        """Every line of the log is an object, whoever wrote it."""
        return [record for record in map(json.loads, self.log().splitlines())
                if record["message"].startswith(message)]

    def wait_for_records(self, message, count):
        deadline = time.monotonic() + 60
        while len(self.records(message)) < count:
            self.assertLess(time.monotonic(), deadline, self.log())
            time.sleep(0.01)
        return self.records(message)

    def asked(self):
        shown = subprocess.run([client_path, "--server", f"127.0.0.1:{self.port}", "--json", "config"],
                               capture_output=True, text=True, check=True).stdout
        return {option["name"]: option for option in json.loads(shown)["options"]}

    def test_options_are_told_before_and_after_the_start(self):
        self.write(max_queue=64)
        printed = subprocess.run(
            [server_path, "--config", self.file, "--print-config=json", "--drain-seconds", "5"],
            env={**os.environ, "KASCADE_SERVER_THREADS": "1"}, capture_output=True, text=True, check=True)
        options = {option["name"]: option for option in json.loads(printed.stdout)["options"]}
        self.assertEqual((options["max-queue"]["value"], options["max-queue"]["source"]),
                         ("64", f"{self.file}:5"))
        self.assertEqual(options["drain-seconds"]["source"], "flag")
        self.assertEqual(options["threads"]["source"], "environment KASCADE_SERVER_THREADS")
        self.assertEqual(options["batch-share"]["source"], "default")
        again = self.folder / "again.yaml"
        again.write_text(subprocess.run([server_path, "--config", self.file, "--print-config"],
                                        capture_output=True, text=True, check=True).stdout)
        self.assertIn("\nmax-queue: 64  # ", again.read_text())
        subprocess.run([server_path, "--config", again, "--print-config"], check=True,
                       stdout=subprocess.DEVNULL)

        self.start()
        asked = self.asked()
        self.assertEqual(sorted(asked), sorted(options))
        self.assertEqual(asked["max-queue"], {"name": "max-queue", "value": "64",
                                              "source": f"{self.file}:5", "reloadable": True})
        self.assertEqual(self.records("configuration")[0]["max-queue"], f"64 ({self.file}:5)")
        serving = self.records("serving")[0]
        self.assertEqual(serving["max_queue"], 64)
        for name in ("max_connections", "max_connections_per_peer", "max_streams_per_connection", "stall_seconds"):
            self.assertGreater(serving[name], 0)
        table = subprocess.run([client_path, "--server", f"127.0.0.1:{self.port}", "config"],
                               capture_output=True, text=True, check=True).stdout
        self.assertRegex(table, r"(?m)^max-queue +64 +\S+:5 +taken over$")

    def test_a_wrong_file_does_not_start_the_server(self):
        self.write(max_queu=64)
        refused = subprocess.run([server_path, "--config", self.file], capture_output=True, text=True)
        self.assertEqual(refused.returncode, 2)
        self.assertIn(f"{self.file}:5: max-queu: no such option; the nearest one is max-queue", refused.stderr)

    def test_sighup_under_load(self):
        generate_stubs(self.folder)
        from kascade.v1 import generate_pb2, inference_service_pb2, inference_service_pb2_grpc
        self.write(max_queue=64, threads=1)
        server = self.start()
        channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self.addCleanup(channel.close)
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        stop, ended, failures = threading.Event(), [], []

        def generate():
            request = generate_pb2.GenerateRequest(
                text="The", stopping=generate_pb2.StoppingCriteria(max_new_tokens=8, ignore_eos=True))
            while not stop.is_set():
                try:
                    ended.append(list(stub.Generate(request))[-1].finished.generated_tokens)
                except grpc.RpcError as error:
                    failures.append(error)

        def limit():
            return stub.GetModelInfo(inference_service_pb2.GetModelInfoRequest()).limits.max_queue

        threads = [threading.Thread(target=generate) for _ in range(4)]
        for thread in threads:
            thread.start()
        self.addCleanup(stop.set)
        for reloads in range(1, 13):
            queue = 64 + reloads
            self.write(max_queue=queue, threads=1, log_level=("debug", "info")[reloads % 2])
            server.send_signal(signal.SIGHUP)
            record = self.wait_for_records("SIGHUP", reloads)[-1]
            self.assertIn(f"max-queue from {queue - 1} to {queue}", record["changed"])
            self.assertEqual(record["need_restart"], "none")
            self.assertEqual(limit(), queue)

        # What needs a restart is named, and what does not is taken over.
        self.write(max_queue=99, threads=2)
        server.send_signal(signal.SIGHUP)
        record = self.wait_for_records("SIGHUP", 13)[-1]
        self.assertEqual((record["level"], record["need_restart"]), ("warning", "threads"))
        self.assertEqual(limit(), 99)
        self.assertEqual(self.asked()["threads"]["value"], "1")
        self.assertEqual(self.asked()["max-queue"]["value"], "99")

        # Nothing is taken of a file with an error.
        self.write(max_queue=77, max_wait_seconds="soon", threads=1)
        server.send_signal(signal.SIGHUP)
        record = self.wait_for_records("SIGHUP", 14)[-1]
        self.assertEqual(record["level"], "error")
        self.assertIn(f'{self.file}:6: --max-wait-seconds: expected a number from -1 to 86400, found "soon"',
                      record["message"])
        self.assertEqual(limit(), 99)

        deadline = time.monotonic() + 60
        while len(ended) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertGreaterEqual(len(ended), 8)
        self.assertEqual(set(ended), {8})
        server.send_signal(signal.SIGTERM)
        self.assertEqual(server.wait(timeout=60), 0)
        self.assertEqual(sum(record["rpc"] == "Generate" for record in self.records("request")), len(ended))

    def test_load_reports_are_on_the_wire(self):
        """gRPC's own clients keep the header for their load balancers."""
        generate_stubs(self.folder)
        from kascade.v1 import inference_service_pb2, inference_service_pb2_grpc
        for switch in ("on", "off"):
            self.write(load_reports=switch)
            server = self.start()
            proxy = RecordingProxy(self.port)
            with grpc.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
                inference_service_pb2_grpc.InferenceServiceStub(channel).GetModelInfo(
                    inference_service_pb2.GetModelInfoRequest())
            self.assertIn(b"x-request-id", proxy.received)
            self.assertEqual(b"endpoint-load-metrics-bin" in proxy.received, switch == "on")
            server.kill()
            server.wait()
            (self.folder / "ports").unlink()

    def test_what_grpc_says_is_a_record(self):
        key, certificate = self.folder / "key.pem", self.folder / "cert.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                        "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", key, "-out",
                        certificate], check=True, capture_output=True)
        self.write(tls_cert=certificate, tls_key=key, log_level="debug")
        server = self.start()
        for sent in (b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x00\x05hello"):
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
                connection.sendall(sent)
                while connection.recv(1024):
                    pass
        self.wait_for_records("grpc: ", 1)
        # SIGHUP takes a renewed certificate, too.
        before = len(self.records("the TLS certificate"))
        subprocess.run(["openssl", "req", "-x509", "-key", key, "-days", "3", "-subj", "/CN=localhost", "-out",
                        certificate], check=True, capture_output=True)
        server.send_signal(signal.SIGHUP)
        self.wait_for_records("the TLS certificate", before + 1)


if __name__ == "__main__":
    client_path = sys.argv.pop(2)
    server_path = sys.argv.pop(1)
    unittest.main()
