#!/usr/bin/env python3
"""A client in another language: Debian's grpcio with stubs generated from proto/ alone.

Usage: python_client_test.py KASCADE_SERVER. Starts the server on models/demo with free ports, calls
Generate, Score, GetModelInfo, a refused request and the health service, then ends it with SIGTERM.
"""

import importlib
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

import grpc

from stubs import generate_stubs

ROOT = pathlib.Path(__file__).resolve().parents[2]
SERVER = None


def start_server(port_file, *flags):
    """The process, its gRPC port and its metrics port."""
    server = subprocess.Popen(
        [SERVER, "--model", str(ROOT / "models/demo"), "--listen", "127.0.0.1:0",
         "--metrics-listen", "127.0.0.1:0", "--kv-memory", "64MiB", "--port-file",
         str(port_file), *flags], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not port_file.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            raise RuntimeError("the server did not start: " + server.communicate()[1])
        time.sleep(0.05)
    port, metrics_port = port_file.read_text().split()
    return server, port, metrics_port


def open_channel(case, *flags):
    """Stubs and a server for as long as a test class needs them."""
    directory = tempfile.TemporaryDirectory()
    case.addClassCleanup(directory.cleanup)
    folder = pathlib.Path(directory.name)
    generate_stubs(folder)
    process, port, _ = start_server(folder / "ports", *flags)
    case.addClassCleanup(process.communicate, timeout=60)
    case.addClassCleanup(process.terminate)
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    case.addClassCleanup(channel.close)
    return channel


def module(name):
    return importlib.import_module(f"kascade.v1.{name}")


class PythonClient(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        path = pathlib.Path(cls.folder.name)
        generate_stubs(path)
        cls.server, port, cls.metrics_port = start_server(path / "ports")
        cls.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        services = module("inference_service_pb2_grpc")
        cls.inference = services.InferenceServiceStub(cls.channel)

    @classmethod
    def tearDownClass(cls):
        if cls.server.poll() is None:
            cls.server.kill()
        cls.server.communicate()
        cls.channel.close()
        cls.folder.cleanup()

    def test_model_info(self):
        info = self.inference.GetModelInfo(
            module("inference_service_pb2").GetModelInfoRequest(), timeout=60)
        self.assertGreaterEqual(info.model.layers, 12)
        self.assertEqual(info.model.vocab_size, 4096)
        self.assertEqual(len(info.model.weights_digest), 64)

    def test_generate(self):
        pb = module("generate_pb2")
        request = pb.GenerateRequest(
            text="The old man looked at her for a long time, and then he said",
            sampling=pb.SamplingParameters(temperature=0),
            stopping=pb.StoppingCriteria(max_new_tokens=12))
        messages = list(self.inference.Generate(request, timeout=60))
        self.assertEqual(messages[0].WhichOneof("event"), "started")
        self.assertEqual(messages[-1].WhichOneof("event"), "finished")
        text = "".join(message.delta.text for message in messages[1:-1])
        self.assertTrue(text.strip())
        self.assertEqual(messages[-1].finished.generated_tokens, 12)
        self.assertEqual(messages[-1].finished.reason, pb.FINISH_REASON_MAX_NEW_TOKENS)

    def test_score(self):
        pb = module("score_pb2")
        text = (ROOT / "models/demo/evaluation.txt").read_text()[:3000]
        request = pb.ScoreRequest(inputs=[pb.ScoreInput(text=text)],
                                  response=pb.ScoreResponseOptions(tokens=True))
        messages = list(self.inference.Score(request, timeout=120))
        total = messages[-1].total
        logprobs = [p for m in messages if m.WhichOneof("event") == "tokens"
                    for p in m.tokens.logprobs]
        self.assertEqual(len(logprobs), total.tokens_scored)
        self.assertAlmostEqual(-math.fsum(logprobs), total.nll_sum, places=4)
        self.assertAlmostEqual(total.perplexity, math.exp(total.nll_sum / len(logprobs)), places=6)
        self.assertFalse(total.suspect)
        self.assertLess(total.bits_per_byte, 2.2)

    def test_refusal_has_details(self):
        pb = module("generate_pb2")
        with self.assertRaises(grpc.RpcError) as caught:
            list(self.inference.Generate(pb.GenerateRequest(text="x", sampling=pb.SamplingParameters(
                temperature=float("nan"))), timeout=60))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        trailers = dict(caught.exception.trailing_metadata())
        details = module("error_details_pb2")
        status = details.RpcStatus.FromString(trailers["grpc-status-details-bin"])
        fields = [details.BadRequest.FromString(detail.value).field_violations[0].field
                  for detail in status.details if detail.type_url.endswith("google.rpc.BadRequest")]
        self.assertEqual(fields, ["sampling.temperature"])

    def test_health(self):
        check = self.channel.unary_unary("/grpc.health.v1.Health/Check",
                                         request_serializer=lambda request: request,
                                         response_deserializer=lambda response: response)
        for service in (b"", b"kascade.v1.InferenceService", b"kascade.v1.CalibrationService"):
            request = b"\x0a" + bytes([len(service)]) + service if service else b""
            self.assertEqual(check(request, timeout=60), b"\x08\x01")  # status: SERVING

    def test_metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as response:
            text = response.read().decode()
        self.assertIn("kascade_kv_blocks_used_ratio", text)
        self.assertRegex(text, r'kascade_build_info\{commit="([0-9a-f]{7,}|unknown)",version="')

    def test_zz_sigterm_ends_it_well(self):
        self.server.send_signal(signal.SIGTERM)
        log = self.server.communicate(timeout=60)[1]
        self.assertEqual(self.server.returncode, 0, log)
        self.assertIn("draining", log)


class SecondSignal(unittest.TestCase):
    def test_it_ends_the_server_at_once(self):
        with tempfile.TemporaryDirectory() as folder:
            generate_stubs(folder)
            server, port, _ = start_server(pathlib.Path(folder) / "ports")
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                pb = module("generate_pb2")
                stub = module("inference_service_pb2_grpc").InferenceServiceStub(channel)
                stream = stub.Generate(pb.GenerateRequest(
                    text="The", stopping=pb.StoppingCriteria(max_new_tokens=4000, ignore_eos=True)))
                next(stream)
                server.send_signal(signal.SIGTERM)
                while "draining" not in server.stderr.readline():
                    self.assertIsNone(server.poll())
                next(stream)  # lets the generation go on
                server.send_signal(signal.SIGTERM)
                log = server.communicate(timeout=60)[1]
                self.assertEqual(server.returncode, 1, log)


if __name__ == "__main__":
    if len(sys.argv) < 2 or not os.access(sys.argv[1], os.X_OK):
        sys.exit("usage: python_client_test.py KASCADE_SERVER")
    SERVER = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
