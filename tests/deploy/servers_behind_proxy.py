"""What holds for two real servers behind any proxy: a rolling restart loses no call, the loss of a server costs only
the calls that it had begun to answer, and a prefix key keeps its server.

A test module of a proxy derives from BehindProxy and starts the proxy on PORT.
"""

import importlib
import json
import pathlib
import sys
import tempfile
import threading
import unittest

import grpc

ROOT, PROGRAM = pathlib.Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, str(ROOT / "tests/end_to_end"))

from live_server import Server, wait
from stubs import generate_stubs

PORT = 15050
# As docs/api.md shows it: gRPC itself sends a call again that no server has begun to answer.
RETRY_POLICY = {"maxAttempts": 5, "initialBackoff": "0.5s", "maxBackoff": "30s", "backoffMultiplier": 2,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"]}
SERVICE_CONFIG = json.dumps({"methodConfig": [{"name": [{"service": "kascade.v1.InferenceService"}],
                                               "retryPolicy": RETRY_POLICY}]})


def connect(port, *options):
    return grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1), *options])


class Lost(Exception):
    """A call that failed, and whether a server had begun to answer it."""

    def __init__(self, begun, error):
        super().__init__(f"{error.code()}: {error.details()} (begun: {begun})")
        self.begun = begun


class BehindProxy(unittest.TestCase):
    """Two servers behind a proxy. A class for one proxy defines start_proxy(), which returns once the proxy sends
    calls to both servers, and wait_until_used(index), which returns once it sends calls to this one again."""

    SERVER_OPTIONS = ()

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        generate_stubs(folder.name)
        cls.messages = importlib.import_module("kascade.v1.generate_pb2")
        cls.calibration = importlib.import_module("kascade.v1.calibration_service_pb2_grpc")
        cls.calibration_messages = importlib.import_module("kascade.v1.calibration_service_pb2")
        cls.inference = importlib.import_module("kascade.v1.inference_service_pb2_grpc")

    def setUp(self):
        self.servers = [self.start_server(), self.start_server()]
        for index in range(2):
            self.addCleanup(lambda index=index: self.servers[index].kill())
        self.start_proxy()
        self.stub = self.stub_of(PORT)

    def start_server(self, port=0):
        return Server(PROGRAM, port, "--drain-delay-seconds", "5", *self.SERVER_OPTIONS)

    def stub_of(self, port, *options):
        channel = connect(port, *options)
        self.addCleanup(channel.close)
        return self.inference.InferenceServiceStub(channel)

    def request(self, tokens):
        request = self.messages.GenerateRequest(text="It was a dark and")
        request.stopping.max_new_tokens = tokens
        request.stopping.ignore_eos = True
        request.sampling.temperature = 0
        return request

    def generate(self, prefix=None, tokens=4, stub=None):
        """The text of a generation."""
        metadata = [("x-kascade-prefix", prefix)] if prefix else []
        replies = []
        try:
            for reply in (stub or self.stub).Generate(self.request(tokens), metadata=metadata, timeout=60):
                replies.append(reply)
        except grpc.RpcError as error:
            raise Lost(bool(replies), error) from error
        assert replies[-1].HasField("finished")
        return "".join(reply.delta.text for reply in replies)

    def check_prefix_keys(self):
        used = set()
        for key in ("a", "b", "c", "d", "e", "f", "g", "h"):
            before = [server.calls("Generate") for server in self.servers]
            for _ in range(4):
                self.generate(key)
            grown = tuple(server.calls("Generate") - old for server, old in zip(self.servers, before))
            self.assertIn(grown, ((4, 0), (0, 4)), key)
            used.add(grown)
        self.assertEqual(len(used), 2, "different keys use both servers")

    def check_that_schedules_cannot_be_changed(self):
        stub = self.calibration.CalibrationServiceStub(self.stub_channel())
        with self.assertRaises(grpc.RpcError) as caught:
            stub.ListSchedules(self.calibration_messages.ListSchedulesRequest(), timeout=10)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.PERMISSION_DENIED)

    def stub_channel(self):
        channel = connect(PORT)
        self.addCleanup(channel.close)
        return channel

    def under_load(self, disturb, stub=None):
        """Four callers while `disturb` runs: the texts and the losses that they had."""
        texts, losses, stop = [], [], threading.Event()

        def caller():
            while not stop.is_set():
                try:
                    texts.append(self.generate(tokens=24, stub=stub))
                except Lost as lost:
                    losses.append(lost)

        callers = [threading.Thread(target=caller) for _ in range(4)]
        for thread in callers:
            thread.start()
        try:
            wait(lambda: len(texts) > 4, "calls before the disturbance")
            disturb()
            before = len(texts)
            wait(lambda: len(texts) > before + 12, "calls after it")
        finally:
            stop.set()
            for thread in callers:
                thread.join()
        return texts, losses

    def restart_both(self):
        for index, server in enumerate(self.servers):
            self.assertEqual(server.terminate(), 0)
            self.servers[index] = self.start_server(server.port)
            self.wait_until_used(index)

    def check_a_rolling_restart(self):
        texts, losses = self.under_load(self.restart_both)
        self.assertEqual([str(lost) for lost in losses], [])
        self.assertEqual(len(set(texts)), 1)
        print(f"{type(self).__name__}: rolling restart of both, {len(texts)} calls, 0 lost", file=sys.stderr)

    def check_the_loss_of_a_server(self):
        stub = self.stub_of(PORT, ("grpc.service_config", SERVICE_CONFIG))
        texts, losses = self.under_load(self.servers[0].kill, stub)
        for lost in losses:
            self.assertTrue(lost.begun, lost)
        self.assertLessEqual(len(losses), 4, losses)
        self.assertEqual(len(set(texts)), 1)
        print(f"{type(self).__name__}: one of two killed, {len(texts)} calls, {len(losses)} lost", file=sys.stderr)


class ProxyTests:
    """The tests of every proxy, for a class that also derives from BehindProxy."""

    def test_a_prefix_key_keeps_its_server(self):
        self.check_prefix_keys()

    def test_schedules_cannot_be_changed_through_it(self):
        self.check_that_schedules_cannot_be_changed()

    def test_a_rolling_restart_loses_nothing(self):
        self.check_a_rolling_restart()

    def test_the_loss_of_a_server_costs_only_what_it_had_begun(self):
        self.check_the_loss_of_a_server()
