#!/usr/bin/env python3
"""Clients that take more than their share: what they cost the server, and the others.

Usage: hostile_client_test.py KASCADE_SERVER [--full] [unittest arguments]

Every case sends large or half-sent requests, or reads nothing, and asserts that the server's memory
stays within what it had when idle and --request-memory, that a health check is answered within a
second meanwhile, and that all memory is given back. By default the sizes are a fraction of the
server's default limits, so that it takes seconds; --full takes messages of 64 MiB.
"""

import contextlib
import importlib
import pathlib
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

import grpc

from stubs import generate_stubs

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20
SERVER = None
FULL = False

# Texts that cost a tokenizer the most: a single word, a token for each byte, runs of white space, a
# piece for every other byte.
TEXTS = {"one letter": "a", "emoji": "\U0001f9ff", "spaces": " ", "short words": "a b c "}
REFUSED = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION,
           grpc.StatusCode.RESOURCE_EXHAUSTED}


def message_bytes():
    return 64 * MIB if FULL else 4 * MIB


def request_memory():
    return 16 * message_bytes()


def status_field(process, name):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE).group(1)) * 1024


class Connection:
    """A client that speaks just enough HTTP/2 to begin a call and send a part of its message."""

    def __init__(self, port, path):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, b""))
        headers = b"".join(literal(name, value) for name, value in (
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"),
            ("content-type", "application/grpc"), ("te", "trailers")))
        self.socket.sendall(frame(1, 1, headers, flags=4))
        self.windows = {0: 65535, 1: 65535}
        self.read = b""

    def send(self, payload, deadline):
        """Sends as much of the payload as the server takes until the deadline."""
        sent = 0
        while sent < len(payload) and time.monotonic() < deadline:
            room = min(16384, self.windows[0], self.windows[1], len(payload) - sent)
            if room > 0:
                self.socket.sendall(frame(0, 1, payload[sent:sent + room]))
                self.windows = {key: value - room for key, value in self.windows.items()}
                sent += room
            self.socket.settimeout(0.001 if room > 0 else 0.05)
            with contextlib.suppress(TimeoutError):
                self.take_frames()
        return sent

    def take_frames(self):
        part = self.socket.recv(65536)
        if not part:
            raise ConnectionError("closed")
        self.read += part
        while len(self.read) >= 9 and len(self.read) >= 9 + int.from_bytes(self.read[:3], "big"):
            size = int.from_bytes(self.read[:3], "big")
            kind, flags = self.read[3], self.read[4]
            stream = int.from_bytes(self.read[5:9], "big")
            body, self.read = self.read[9:9 + size], self.read[9 + size:]
            if kind == 8:
                self.windows[stream] += int.from_bytes(body, "big")
            elif kind == 4 and not flags & 1:
                for at in range(0, size, 6):
                    name, value = struct.unpack(">HI", body[at:at + 6])
                    if name == 4:
                        self.windows[1] += value - 65535
                self.socket.sendall(frame(4, 0, b"", flags=1))
            elif kind == 6 and not flags & 1:
                self.socket.sendall(frame(6, 0, body, flags=1))
            elif kind in (3, 7):
                raise ConnectionError("ended by the server")


def frame(kind, stream, payload, flags=0):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    """A header field without indexing."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


class Hostile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="kascade-hostile-test-")
        cls.addClassCleanup(folder.cleanup)
        folder = pathlib.Path(folder.name)
        generate_stubs(folder)
        cls.pb = importlib.import_module("kascade.v1.inference_service_pb2")
        for part in "generate", "score", "tokenize", "chat":
            module = importlib.import_module(f"kascade.v1.{part}_pb2")
            for name in dir(module):
                if name[0].isupper():
                    setattr(cls.pb, name, getattr(module, name))
        stubs = importlib.import_module("kascade.v1.inference_service_pb2_grpc")
        log = open(folder / "log", "w")
        cls.addClassCleanup(log.close)
        ports = folder / "ports"
        cls.server = subprocess.Popen(
            [SERVER, "--model", ROOT / "models/demo", "--kv-memory", "16MiB", "--threads", "1",
             "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--port-file", ports,
             "--max-message-bytes", str(message_bytes() + 4096), *cls.limits()],
            stdout=log, stderr=subprocess.STDOUT)
        cls.addClassCleanup(cls.server.wait)
        cls.addClassCleanup(cls.server.kill)
        deadline = time.monotonic() + 60
        while not ports.exists():
            assert cls.server.poll() is None and time.monotonic() < deadline, \
                (folder / "log").read_text()
            time.sleep(0.02)
        cls.port, cls.metrics_port = map(int, ports.read_text().split())
        cls.channel = cls.connect()
        cls.addClassCleanup(cls.channel.close)
        cls.stub = stubs.InferenceServiceStub(cls.channel)
        cls.health = cls.connect()
        cls.addClassCleanup(cls.health.close)
        cls.check_health()
        list(cls.stub.Generate(cls.pb.GenerateRequest(text="Once")))
        cls.idle = status_field(cls.server, "VmRSS")

    @classmethod
    def limits(cls):
        return ["--request-memory", str(request_memory()), "--stalled-client-seconds", "1"]

    @classmethod
    def connect(cls):
        return grpc.insecure_channel(
            f"127.0.0.1:{cls.port}", options=[("grpc.max_receive_message_length", -1),
                                              ("grpc.max_send_message_length", -1),
                                              ("grpc.http2.lookahead_bytes", 65536),
                                              ("grpc.http2.bdp_probe", 0),
                                              ("grpc.use_local_subchannel_pool", 1)])

    @classmethod
    def check_health(cls):
        """Seconds that a health check takes; its messages are empty."""
        check = cls.health.unary_unary("/grpc.health.v1.Health/Check")
        begin = time.monotonic()
        while True:
            try:
                assert check(b"", timeout=30, wait_for_ready=True) == b"\x08\x01"
                return time.monotonic() - begin
            except grpc.RpcError as error:
                # When memory is short, gRPC closes connections that have no call at the moment.
                if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > begin + 10:
                    raise

    def reserved(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer:
            text = answer.read().decode()
        return float(re.search(r"^kascade_request_memory_bytes (\S+)$", text, re.MULTILINE).group(1))

    @contextlib.contextmanager
    def bounded(self, what):
        """Asserts what the module promises of what happens inside."""
        pathlib.Path(f"/proc/{self.server.pid}/clear_refs").write_text("5")  # VmHWM = VmRSS
        over = threading.Event()
        checks = []

        def keep_checking():
            while not over.is_set():
                checks.append(self.check_health())
                over.wait(0.05)

        checker = threading.Thread(target=keep_checking)
        checker.start()
        begin = time.monotonic()
        try:
            yield
        finally:
            over.set()
            checker.join()
        peak = status_field(self.server, "VmHWM") - self.idle
        seconds = time.monotonic() - begin
        print(f"{what}: {seconds:.1f} s, peak {peak / MIB:.0f} MiB above idle, "
              f"slowest health check {1000 * max(checks):.0f} ms", flush=True)
        self.assertLess(peak, 1.1 * request_memory())
        self.assertLess(max(checks), 1)
        deadline = time.monotonic() + 10
        while self.reserved() > 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertEqual(self.reserved(), 0)

    def outcome(self, call):
        """The status that a call ends with; a stream is given up after its first message."""
        try:
            answer = call()
            if not hasattr(answer, "cancel"):
                return grpc.StatusCode.OK
            for _ in answer:
                answer.cancel()
                return grpc.StatusCode.OK
            return grpc.StatusCode.OK
        except grpc.RpcError as error:
            return error.code()

    def send_large(self, what, call, expected):
        """Sends each of the texts several times at once."""
        codes = {}
        with self.bounded(what):
            for name, part in TEXTS.items():
                text = part * (message_bytes() // len(part.encode()))
                found = []
                threads = [threading.Thread(target=lambda: found.append(
                    self.outcome(lambda: call(text)))) for _ in range(4 if FULL else 2)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                codes[name] = set(found)
        for name, found in codes.items():
            self.assertLessEqual(found, expected, name)

    def test_prompts_beyond_the_context(self):
        self.send_large("Generate", lambda text: self.stub.Generate(
            self.pb.GenerateRequest(text=text), timeout=20), {grpc.StatusCode.INVALID_ARGUMENT,
                                                             grpc.StatusCode.RESOURCE_EXHAUSTED})

    def test_texts_to_score(self):
        self.send_large("Score", lambda text: self.stub.Score(
            self.pb.ScoreRequest(inputs=[self.pb.ScoreInput(text=text)],
                                 response=self.pb.ScoreResponseOptions(top_logprobs=20)),
            timeout=20), REFUSED | {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED})

    def test_texts_to_tokenize(self):
        self.send_large("Tokenize with details", lambda text: self.stub.Tokenize(
            self.pb.TokenizeRequest(texts=[text], details=True), timeout=20),
                        REFUSED | {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED})

    def test_requests_that_nobody_waits_for(self):
        with self.bounded("expired Score"):
            for part in TEXTS.values():
                text = part * (message_bytes() // len(part.encode()))
                request = self.pb.ScoreRequest(inputs=[self.pb.ScoreInput(text=text)])
                self.outcome(lambda: self.stub.Score(request, timeout=0.05))

    def test_half_sent_messages(self):
        payload = b"\x00" + struct.pack(">I", message_bytes()) + b"\x0a" * (message_bytes() * 15 // 16)
        with self.bounded("40 half-sent messages"):
            deadline = time.monotonic() + (30 if FULL else 2)
            connections = [Connection(self.port, "/kascade.v1.InferenceService/Tokenize")
                           for _ in range(40)]

            def send(connection):
                with contextlib.suppress(ConnectionError, OSError):
                    connection.send(payload, deadline)

            threads = [threading.Thread(target=send, args=(connection,))
                       for connection in connections]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for connection in connections:
                connection.socket.close()

    def test_streams_that_nobody_reads(self):
        request = self.pb.ScoreRequest(
            inputs=[self.pb.ScoreInput(text="Once upon a time. " * 500)] * (8 if FULL else 1),
            response=self.pb.ScoreResponseOptions(top_logprobs=20))
        with self.bounded("unread replies"):
            channels = [self.connect() for _ in range(4)]
            calls = [channel.unary_stream(
                "/kascade.v1.InferenceService/Score",
                request_serializer=self.pb.ScoreRequest.SerializeToString,
                response_deserializer=self.pb.ScoreResponse.FromString)(request)
                for channel in channels]
            for call in calls:
                self.assertEqual(self.unread(call), grpc.StatusCode.CANCELLED)
            for channel in channels:
                channel.close()

    def unread(self, call):
        """How the server ends a call that nobody reads."""
        deadline = time.monotonic() + 60
        while self.reserved() > 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.outcome(lambda: (list(call), call)[1])


if __name__ == "__main__":
    SERVER = sys.argv.pop(1)
    if "--full" in sys.argv:
        sys.argv.remove("--full")
        FULL = True
    unittest.main()
