#!/usr/bin/env python3
"""Admission as a client in another language sees it: gRPC's own retry policy gets through a full
queue, since nothing is sent before a refusal.

Usage: overload_test.py SERVER [unittest arguments]
"""

import concurrent.futures
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

import stubs

MODEL = pathlib.Path(__file__).resolve().parents[2] / "models/demo"
CLIENTS = 6
RETRIES = json.dumps({"methodConfig": [{
    "name": [{"service": "kascade.v1.InferenceService"}],
    "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.2s", "maxBackoff": "5s",
                    "backoffMultiplier": 2, "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}}]})

server_path = None


class OverloadTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        import grpc
        from kascade.v1 import generate_pb2, inference_service_pb2_grpc, priority_pb2
        cls.grpc, cls.generate, cls.service = grpc, generate_pb2, inference_service_pb2_grpc
        cls.priority = priority_pb2
        folder = tempfile.TemporaryDirectory(prefix="kascade-overload-test-")
        cls.addClassCleanup(folder.cleanup)
        ports = pathlib.Path(folder.name) / "ports"
        # Two run, one waits.
        server = subprocess.Popen(
            [server_path, "--model", MODEL, "--listen", "127.0.0.1:0", "--metrics-listen",
             "127.0.0.1:0", "--max-sequences", "2", "--max-queue", "1", "--log-level", "error",
             "--port-file", ports])
        cls.addClassCleanup(server.wait)
        cls.addClassCleanup(server.terminate)
        deadline = time.monotonic() + 120
        while not ports.exists():
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        cls.port, cls.metrics_port = map(int, ports.read_text().split())

    def stub(self, **options):
        channel = self.grpc.insecure_channel(
            f"127.0.0.1:{self.port}",
            options=[("grpc.use_local_subchannel_pool", 1), *options.items()])
        self.addCleanup(channel.close)
        return self.service.InferenceServiceStub(channel)

    def request(self, **fields):
        request = self.generate.GenerateRequest(text="Once upon a time", **fields)
        request.stopping.max_new_tokens = 120
        request.stopping.ignore_eos = True
        return request

    def all_at_once(self, stub):
        """What CLIENTS simultaneous requests end with: their messages, or the error."""

        def run(_):
            try:
                return list(stub.Generate(self.request(), timeout=60))
            except self.grpc.RpcError as error:
                return error

        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(run, range(CLIENTS)))

    def test_without_a_policy_some_are_refused_before_anything_was_sent(self):
        stub = self.stub(**{"grpc.enable_retries": 0})
        refused = []
        for _ in range(20):  # until requests meet a full queue
            refused += [error for error in self.all_at_once(stub)
                        if isinstance(error, self.grpc.RpcError)]
            if refused:
                break
        self.assertTrue(refused)
        for error in refused:
            self.assertEqual(error.code(), self.grpc.StatusCode.RESOURCE_EXHAUSTED, error)
            trailers = dict(error.trailing_metadata())
            self.assertIn(b"QUEUE_FULL", trailers["grpc-status-details-bin"])
            self.assertTrue(250 <= int(trailers["grpc-retry-pushback-ms"]) <= 75000, trailers)
            # A response that begins with the status is what gRPC may retry.
            self.assertEqual(list(error.initial_metadata() or []), [])
        page = urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics")
        counted = [line for line in page.read().decode().splitlines()
                   if line.startswith('kascade_refusals_total{reason="QUEUE_FULL"}')]
        self.assertGreaterEqual(float(counted[0].split()[-1]), len(refused))

    def test_with_grpcs_retry_policy_all_get_through(self):
        stub = self.stub(**{"grpc.enable_retries": 1, "grpc.service_config": RETRIES})
        for messages in self.all_at_once(stub):
            self.assertNotIsInstance(messages, self.grpc.RpcError, messages)
            self.assertTrue(messages[0].HasField("started"))
            self.assertEqual(messages[-1].finished.generated_tokens, 120)

    def test_batch_requests_have_a_queue_of_their_own(self):
        stub = self.stub()
        calls = [stub.Generate(self.request(priority=self.priority.PRIORITY_BATCH))
                 for _ in range(3)]
        try:
            messages = list(stub.Generate(self.request()))
            self.assertEqual(messages[-1].finished.generated_tokens, 120)
        finally:
            for call in calls:
                call.cancel()


if __name__ == "__main__":
    server_path = sys.argv.pop(1)
    with tempfile.TemporaryDirectory(prefix="kascade-stubs-") as folder:
        stubs.generate_stubs(folder)
        unittest.main()
