#!/usr/bin/env python3
"""Two real servers behind a real Envoy with the configuration of deploy/envoy: servers_behind_envoy.py ROOT SERVER

envoy is found by PATH. A rolling restart ends no running call, the loss of a server costs its own calls only, and
a prefix key keeps its server.
"""

import importlib
import pathlib
import sys
import tempfile
import threading
import time
import unittest

import grpc
import yaml

ROOT, PROGRAM = pathlib.Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, str(ROOT / "tests/end_to_end"))

from live_server import Daemon, Server, text_of, wait
from stubs import generate_stubs

PORT, ADMIN = 15050, 19901


def configuration(servers):
    """That of the project, with other ports and with the servers' addresses."""
    envoy = yaml.safe_load((ROOT / "deploy/envoy/envoy.yaml").read_text())
    envoy["admin"]["address"]["socket_address"]["port_value"] = ADMIN
    resources = envoy["static_resources"]
    resources["listeners"][0]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": PORT}
    cluster = resources["clusters"][0]
    cluster["type"] = "STATIC"
    cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": server.port}}}}
        for server in servers]}]
    return yaml.safe_dump(envoy)


class BehindEnvoy(unittest.TestCase):
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
        self.servers = [Server(PROGRAM), Server(PROGRAM)]
        for index in range(2):
            self.addCleanup(lambda index=index: self.servers[index].kill())
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        file = pathlib.Path(folder.name, "envoy.yaml")
        file.write_text(configuration(self.servers))
        envoy = Daemon("envoy", "--config-path", file, "--log-level", "warning", "--concurrency", "1",
                       "--use-dynamic-base-id")
        self.addCleanup(envoy.kill)
        wait(lambda: self.healthy() == 2, "Envoy finds both servers healthy")
        self.channel = grpc.insecure_channel(f"127.0.0.1:{PORT}")
        self.addCleanup(self.channel.close)
        self.stub = self.inference.InferenceServiceStub(self.channel)

    def healthy(self):
        lines = text_of(f"http://127.0.0.1:{ADMIN}/clusters").splitlines()
        return sum("health_flags::healthy" in line for line in lines)

    def generate(self, prefix=None, tokens=4):
        """The text of a generation; raises what the call ended with."""
        request = self.messages.GenerateRequest(text="It was a dark and")
        request.stopping.max_new_tokens = tokens
        request.stopping.ignore_eos = True
        request.sampling.temperature = 0
        metadata = [("x-kascade-prefix", prefix)] if prefix else []
        replies = list(self.stub.Generate(request, metadata=metadata, timeout=60))
        assert replies[-1].HasField("finished")
        return "".join(reply.delta.text for reply in replies)

    def test_a_prefix_key_keeps_its_server(self):
        used = set()
        for key in ("a", "b", "c", "d", "e", "f"):
            before = [server.calls("Generate") for server in self.servers]
            for _ in range(4):
                self.generate(key)
            grown = tuple(server.calls("Generate") - old for server, old in zip(self.servers, before))
            self.assertIn(grown, ((4, 0), (0, 4)), key)
            used.add(grown)
        self.assertEqual(len(used), 2, "different keys use both servers")

    def test_schedules_cannot_be_changed_through_it(self):
        stub = self.calibration.CalibrationServiceStub(self.channel)
        with self.assertRaises(grpc.RpcError) as caught:
            stub.ListSchedules(self.calibration_messages.ListSchedulesRequest(), timeout=10)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.PERMISSION_DENIED)

    def under_load(self, disturb):
        """Three callers while `disturb` runs: the texts and the errors that they got."""
        texts, errors, stop = [], [], threading.Event()

        def caller():
            while not stop.is_set():
                try:
                    texts.append(self.generate(tokens=24))
                except grpc.RpcError as error:
                    errors.append(f"{error.code()}: {error.details()}")

        callers = [threading.Thread(target=caller) for _ in range(3)]
        for thread in callers:
            thread.start()
        time.sleep(1)
        disturb()
        time.sleep(1)
        stop.set()
        for thread in callers:
            thread.join()
        return texts, errors

    def restart_both(self):
        for index, server in enumerate(self.servers):
            self.assertEqual(server.terminate(), 0)
            self.servers[index] = Server(PROGRAM, server.port)
            # Envoy may have set the address aside while nobody listened there.
            wait(lambda: self.healthy() == 2 and self.servers[index].calls("Generate") > 0,
                 "the new server is healthy and gets calls")

    def test_a_rolling_restart_costs_callers_a_retry_at_most(self):
        texts, errors = self.under_load(self.restart_both)
        # Of each caller and restart, at most the call that meets the beginning of the drain.
        self.assertLessEqual(len(errors), 6, errors)
        for error in errors:
            self.assertIn("UNAVAILABLE: the server is draining", error)
        self.assertGreater(len(texts), 20)
        self.assertEqual(len(set(texts)), 1)

    def test_the_loss_of_a_server_costs_its_own_calls_only(self):
        texts, errors = self.under_load(self.servers[0].kill)
        self.assertLessEqual(len(errors), 3, errors)
        self.assertGreater(len(texts), 20)
        self.assertEqual(len(set(texts)), 1)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
