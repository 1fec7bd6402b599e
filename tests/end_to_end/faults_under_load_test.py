#!/usr/bin/env python3
"""Faults of the machine under a server that is at work: a clock that jumps, a process that is stopped,
memory that ends, files that cannot be written, a restart of one of two servers.

Usage: faults_under_load_test.py SERVER CLOCK_JUMP_LIBRARY [unittest arguments]
"""

import json
import os
import pathlib
import resource
import signal
import struct
import sys
import tempfile
import threading
import time
import unittest

import http2
import stubs
from running_server import RunningServer

MIB = 1 << 20
HOUR = 3600
ROUND_ROBIN = json.dumps({
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [{"name": [{"service": "kascade.v1.InferenceService"}], "retryPolicy": {
        "maxAttempts": 5, "initialBackoff": "0.05s", "maxBackoff": "0.5s", "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"]}}]})

server_path = clock_library = None


class FaultsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="kascade-faults-under-load-test-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        stubs.generate_stubs(cls.folder)
        import grpc
        from kascade.v1 import (calibration_service_pb2, calibration_service_pb2_grpc, generate_pb2,
                                inference_service_pb2, inference_service_pb2_grpc, tokenize_pb2)
        cls.grpc, cls.generate, cls.tokenize = grpc, generate_pb2, tokenize_pb2
        cls.info, cls.service = inference_service_pb2, inference_service_pb2_grpc
        cls.calibration, cls.calibration_service = (calibration_service_pb2,
                                                    calibration_service_pb2_grpc)

    def start(self, *options, **how):
        server = RunningServer(server_path, self.folder, "--threads", "1", *options,
                               name=f"{self.id()}-{time.monotonic_ns()}", **how)
        self.addCleanup(server.stop)
        return server

    def channel(self, target, *options):
        channel = self.grpc.insecure_channel(
            target, options=[("grpc.use_local_subchannel_pool", 1), *options])
        self.addCleanup(channel.close)
        return channel

    def inference(self, server):
        return self.service.InferenceServiceStub(self.channel(f"127.0.0.1:{server.port}"))

    def long_generation(self, tokens):
        request = self.generate.GenerateRequest(text="The old man looked at her")
        request.stopping.max_new_tokens = tokens
        request.stopping.ignore_eos = True
        return request

    def tokens_of(self, messages):
        return sum(message.delta.token_count for message in messages)


class Clock(FaultsTest):
    def set_clock(self, seconds):
        self.offset.seek(0)
        self.offset.write(struct.pack("=q", seconds))
        self.offset.flush()

    def test_a_clock_that_jumps_ends_no_request(self):
        file = self.folder / "offset"
        file.write_bytes(bytes(8))
        self.offset = open(file, "r+b")
        self.addCleanup(self.offset.close)
        server = self.start("--stalled-client-seconds", "30", "--stall-seconds", "30", environment={
            "LD_PRELOAD": clock_library, "KASCADE_CLOCK_OFFSET": str(file),
            # Of a server under that sanitizer, whose runtime wants to come first.
            "ASAN_OPTIONS": "verify_asan_link_order=0"})
        inference = self.inference(server)
        for jump in HOUR, -HOUR, 400 * 366 * 24 * HOUR:
            stream = inference.Generate(self.long_generation(200), timeout=120)
            count = self.tokens_of([next(stream), next(stream)])
            self.set_clock(jump)
            self.assertEqual(count + self.tokens_of(stream), 200, jump)
            self.assertEqual(http2.health(server.port, "liveness")[0], http2.SERVING)
            begin = time.monotonic()
            with self.assertRaises(self.grpc.RpcError) as caught:  # and deadlines still hold
                list(inference.Generate(self.long_generation(3500), timeout=0.3))
            self.assertEqual(caught.exception.code(), self.grpc.StatusCode.DEADLINE_EXCEEDED)
            self.assertLess(time.monotonic() - begin, 30)


class Deadlines(FaultsTest):
    def generate_with(self, server, timeout):
        """The messages of a generation with this header. Clients in other languages may send what
        Python's cannot: from the year 2262 on, it ends the call itself."""
        request = self.long_generation(3).SerializeToString()
        header = http2.header_block("/kascade.v1.InferenceService/Generate") + bytes(
            [0, 12]) + b"grpc-timeout" + bytes([len(timeout)]) + timeout.encode()
        data = b""
        with http2.connect(server.port) as client:
            client.sendall(http2.frame(http2.HEADERS, header, http2.END_HEADERS, 1) +
                           http2.frame(http2.DATA, http2.message(request), http2.END_STREAM, 1))
            for kind, flags, payload in http2.frames_of(client):
                if kind == http2.DATA:
                    data += payload
                if kind == http2.RST_STREAM or kind == http2.HEADERS and flags & http2.END_STREAM:
                    break
        while len(data) >= 5:
            end = 5 + int.from_bytes(data[1:5], "big")
            yield self.generate.GenerateResponse.FromString(data[5:end])
            data = data[end:]

    def test_a_deadline_in_centuries_is_none(self):
        server = self.start()
        for timeout in "99999999H", "8760000H", "2073600H", "99999999M", "99999999S":
            messages = list(self.generate_with(server, timeout))
            self.assertEqual(self.tokens_of(messages), 3, timeout)
            self.assertTrue(messages[-1].HasField("finished"), timeout)


class StoppedProcess(FaultsTest):
    def test_a_server_that_was_stopped_goes_on(self):
        server = self.start()
        stream = self.inference(server).Generate(self.long_generation(200), timeout=120)
        count = self.tokens_of([next(stream), next(stream)])
        server.process.send_signal(signal.SIGSTOP)
        try:
            self.assertIsNone(http2.health(server.port, timeout=3)[0])
        finally:
            server.process.send_signal(signal.SIGCONT)
        self.assertEqual(count + self.tokens_of(stream), 200)
        self.assertEqual(http2.health(server.port, "liveness")[0], http2.SERVING)


class Memory(FaultsTest):
    def test_a_request_for_which_there_is_no_memory_is_refused_and_the_server_lives(self):
        if b"__asan_init" in pathlib.Path(server_path).read_bytes():
            self.skipTest("the address sanitizer reserves all addresses, and ends where memory does")
        server = self.start("--max-message-bytes", 16 * MIB)
        inference = self.inference(server)
        small = self.tokenize.TokenizeRequest(texts=["a few words"])
        inference.Tokenize(small)
        used = int((pathlib.Path("/proc") / str(server.process.pid) / "statm").read_text().split()[0])
        limit = used * resource.getpagesize() + 192 * MIB
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (limit, limit))
        large = self.tokenize.TokenizeRequest(texts=["a b c " * (2 * MIB)])
        for _ in range(3):
            with self.assertRaises(self.grpc.RpcError) as caught:
                inference.Tokenize(large)
            self.assertEqual(caught.exception.code(), self.grpc.StatusCode.RESOURCE_EXHAUSTED,
                             caught.exception.details())
            self.assertEqual(len(inference.Tokenize(small).results), 1)
        self.assertEqual(server.metrics().value("kascade_request_memory_bytes"), 0)


class Files(FaultsTest):
    def schedule(self):
        """A schedule for the demo model, JSON."""
        server = self.start()
        stub = self.calibration_service.CalibrationServiceStub(
            self.channel(f"127.0.0.1:{server.port}"))
        text = (pathlib.Path(__file__).resolve().parents[2] / "models/demo/calibration.txt").read_text()
        request = self.calibration.CalibrateRequest(texts=[text[:24_000]], activate=False)
        return list(stub.Calibrate(request))[-1].result.schedule_json

    def expect_unsaved(self, server, schedule, reason):
        """Activating says why nothing has changed; the server works."""
        stub = self.calibration_service.CalibrationServiceStub(
            self.channel(f"127.0.0.1:{server.port}"))
        request = self.calibration.ActivateScheduleRequest(schedule_json=schedule, force=True)
        with self.assertRaises(self.grpc.RpcError) as caught:
            stub.ActivateSchedule(request)
        self.assertEqual(caught.exception.code(), self.grpc.StatusCode.INTERNAL)
        self.assertIn("is not activated, since it cannot be saved", caught.exception.details())
        self.assertIn(reason, caught.exception.details())
        listed = stub.ListSchedules(self.calibration.ListSchedulesRequest())
        self.assertEqual((listed.active_schedule_id, len(listed.schedules)), ("", 0))
        self.assertEqual(self.tokens_of(self.inference(server).Generate(self.long_generation(5))), 5)

    def test_schedules_that_cannot_be_written(self):
        schedule = self.schedule()
        # A folder in which nobody can write, whatever the rights of the user.
        self.expect_unsaved(self.start("--schedule-dir", "/sys/kernel"), schedule, "ermission")
        kept = self.folder / "kept"
        server = self.start("--schedule-dir", kept)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (512, 512))  # a write is cut short
        self.expect_unsaved(server, schedule, "")
        self.assertEqual([path for path in kept.rglob("*") if path.is_file()], [])  # nothing half-written


class TwoServers(FaultsTest):
    def test_a_restart_of_one_of_two_loses_no_request(self):
        servers = [self.start() for _ in range(2)]
        target = "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
        stub = self.service.InferenceServiceStub(
            self.channel(target, ("grpc.service_config", ROUND_ROBIN)))
        failures, counts, stop = [], [], threading.Event()

        def client():
            count = 0
            while not stop.is_set():
                try:
                    tokens = self.tokens_of(stub.Generate(self.long_generation(40), timeout=60))
                    if tokens != 40:
                        failures.append(f"{tokens} tokens")
                    count += 1
                except self.grpc.RpcError as error:
                    failures.append(f"{error.code()}: {error.details()}")
            counts.append(count)

        clients = [threading.Thread(target=client) for _ in range(4)]
        for thread in clients:
            thread.start()
        try:
            self.wait_for_calls(servers, 5)
            self.assertEqual(servers[0].stop(), 0, servers[0].log.read_text())
            self.wait_for_calls(servers[1:], 10)
        finally:
            stop.set()
            for thread in clients:
                thread.join()
        self.assertEqual(failures, [])
        self.assertGreater(sum(counts), 15)

    def wait_for_calls(self, servers, more):
        """Until each of the servers has ended so many more calls."""
        for server in servers:
            key = "Generate", "OK"
            goal = server.metrics().calls().get(key, 0) + more
            deadline = time.monotonic() + 60
            while server.metrics().calls().get(key, 0) < goal:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.05)


if __name__ == "__main__":
    server_path, clock_library = map(os.path.abspath, (sys.argv.pop(1), sys.argv.pop(1)))
    unittest.main()
