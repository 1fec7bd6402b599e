#!/usr/bin/env python3
"""Connections that try to take the server down: more than there are descriptors, more than there may
be, with too many calls, silent ones, slow ones at the metrics port.

Usage: connections_test.py KASCADE_SERVER [unittest arguments]
"""

import contextlib
import multiprocessing
import pathlib
import re
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

import floods
import http2

MODEL = pathlib.Path(__file__).resolve().parents[2] / "models/demo"

server_path = None


class Server:
    """A server that serves, with at most so many descriptors."""

    def __init__(self, folder, *arguments, listen="127.0.0.1:0", descriptors=None):
        def limit():
            if descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
        self.log = folder / "log"
        ports = folder / "ports"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [server_path, "--model", MODEL, "--kv-memory", "16MiB", "--threads", "1", "--listen",
                 listen, "--metrics-listen", "127.0.0.1:0", "--port-file", ports, *arguments],
                stdout=log, stderr=subprocess.STDOUT, preexec_fn=limit)
        deadline = time.monotonic() + 120
        while not ports.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self.log.read_text())
            time.sleep(0.02)
        self.port, self.metrics_port = map(int, ports.read_text().split())

    def stop(self):
        self.process.kill()
        self.process.wait()

    def page(self, path, timeout=10):
        """(status, text) of a page of the metrics port."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}",
                                        timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, sample):
        """The value of a sample, such as `name{label="x"}`."""
        return float(re.search(rf"^{re.escape(sample)} (.*)$", self.page("/metrics")[1],
                               re.MULTILINE)[1])


class ConnectionsTest(unittest.TestCase):
    def start(self, *arguments, **options):
        folder = tempfile.TemporaryDirectory(prefix="kascade-connections-test-")
        self.addCleanup(folder.cleanup)
        server = Server(pathlib.Path(folder.name), *arguments, **options)
        self.addCleanup(server.stop)
        return server

    def client(self, port):
        client = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.addCleanup(client.close)
        return client

    def watching(self, port):
        """A connection with a call that does not end."""
        client = http2.connect(port)
        self.addCleanup(client.close)
        client.sendall(http2.health_call(method="Watch"))
        self.assertTrue(any(kind == http2.DATA for kind, _, _ in http2.frames_of(client)))
        return client

    def assertServes(self, server, service=""):
        self.assertEqual(http2.health(server.port, service)[0], http2.SERVING)

    def eventually(self, condition):
        deadline = time.monotonic() + 10
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)

    def test_more_connections_than_descriptors(self):
        server = self.start(descriptors=256)
        clients = []
        for number in range(1200):
            clients.append(self.client(server.port))
            if number % 100 == 0:
                self.assertServes(server)
        for service in "", "liveness":
            self.assertServes(server, service)
        self.assertEqual(server.page("/livez"), (200, "ok\n"))
        self.assertLessEqual(server.metric("kascade_connections"), 64)
        for client in clients:
            client.close()
        self.assertServes(server)
        self.eventually(lambda: server.metric("kascade_connections") == 0)
        self.assertGreaterEqual(server.metric("kascade_connections_accepted_total"), 1200)

    def test_connections_with_calls_stay(self):
        server = self.start("--max-connections", "4", "--max-connections-per-peer", "0")
        watching = [self.watching(server.port) for _ in range(4)]
        self.assertIsNone(http2.health(server.port)[0])
        refused = 'kascade_connections_refused_total{reason="max_connections"}'
        self.assertEqual(server.metric(refused), 1)
        watching.pop().close()
        self.eventually(lambda: server.metric("kascade_connections") == 3)
        self.assertServes(server)

    def test_a_peer_has_its_share(self):
        server = self.start("--max-connections", "4")
        for _ in range(2):  # half of all
            self.watching(server.port)
        self.assertIsNone(http2.health(server.port)[0])
        refused = 'kascade_connections_refused_total{reason="max_connections_per_peer"}'
        self.assertEqual(server.metric(refused), 1)

    def test_too_many_connections_for_the_descriptors_are_refused_at_start(self):
        with self.assertRaisesRegex(RuntimeError, "max_connections: 1000 connections take 2128 "):
            self.start("--max-connections", "1000", descriptors=1024)

    def test_streams_are_limited_also_where_the_client_ignores_it(self):
        server = self.start("--max-streams-per-connection", "10")
        with http2.connect(server.port) as client:
            kind, _, payload = next(http2.frames_of(client))
            self.assertEqual(kind, http2.SETTINGS)
            self.assertIn(struct.pack(">HI", 3, 10), payload)  # SETTINGS_MAX_CONCURRENT_STREAMS
            # It is never acknowledged, so gRPC does not apply its limit.
            with contextlib.suppress(ConnectionError):
                for number in range(500):
                    client.sendall(http2.health_call(stream=2 * number + 1, method="Watch"))
            for _ in http2.frames_of(client):
                pass
        closed = 'kascade_connections_closed_total{reason="streams"}'
        self.assertEqual(server.metric(closed), 1)
        self.assertServes(server)
        self.eventually(lambda: server.metric("kascade_connections") == 0)

    def test_a_flood_of_streams_delays_nobody(self):
        server = self.start()
        flooder = multiprocessing.Process(
            target=floods.flood, args=(server.port, "rapid reset", multiprocessing.Queue()))
        flooder.start()
        checks = []
        while flooder.is_alive():
            checks.append(http2.health(server.port))
        flooder.join()
        self.assertEqual({status for status, _ in checks}, {http2.SERVING})
        self.assertLess(max(seconds for _, seconds in checks), 5)  # 12 s if nobody cuts it off
        self.assertEqual(server.metric('kascade_connections_closed_total{reason="streams"}'), 1)

    def test_floods_of_frames_delay_nobody(self):
        server = self.start()
        for name in "ping", "settings", "empty data", "open streams", "small continuations":
            with self.subTest(name):
                self.flood(server, name)

    def test_header_fields_take_little_memory(self):
        server = self.start()
        before = floods.resident(server.process)
        peak = self.flood(server, "header fields by number", seconds=10)
        self.assertLess(peak - before, 400)  # MiB; 640 if only the bytes are counted
        self.assertEqual(server.metric('kascade_connections_closed_total{reason="data"}'), 1)

    def flood(self, server, name, seconds=1):
        """Others are served during the flood; the most memory meanwhile, MiB."""
        flooder = multiprocessing.Process(
            target=floods.flood, args=(server.port, name, multiprocessing.SimpleQueue(), seconds))
        flooder.start()
        checks, peak = [], 0
        while flooder.is_alive():
            checks.append(http2.health(server.port))
            peak = max(peak, floods.resident(server.process))
        flooder.join()
        self.assertEqual({status for status, _ in checks}, {http2.SERVING})
        self.assertLess(max(seconds for _, seconds in checks), 5)
        return peak

    def test_connections_end_when_they_are_idle_or_old(self):
        server = self.start("--max-connection-idle-seconds", "1", "--max-connection-age-seconds", "2")
        watching, idle = self.watching(server.port), http2.connect(server.port)
        self.addCleanup(idle.close)
        begin = time.monotonic()
        self.assertIn(http2.GOAWAY, [kind for kind, _, _ in http2.frames_of(idle)])
        self.assertLess(time.monotonic() - begin, 2.5)
        self.assertIn(http2.GOAWAY, [kind for kind, _, _ in http2.frames_of(watching)])
        self.assertLess(time.monotonic() - begin, 8)  # after the time for its call
        self.assertServes(server)

    def test_a_unix_socket_has_the_limit_of_all_and_ends_idle_connections(self):
        with tempfile.TemporaryDirectory(prefix="kascade-unix-") as folder:
            path = f"{folder}/socket"
            server = self.start("--max-connections", "2", "--max-connection-idle-seconds", "1",
                                listen=f"unix:{path}")
            idle = [self.unix_client(path) for _ in range(2)]
            third = self.unix_client(path)
            self.assertEqual(list(http2.frames_of(third)), [])  # closed at once
            refused = 'kascade_connections_refused_total{reason="max_connections"}'
            self.assertEqual(server.metric(refused), 1)
            for client in idle:
                self.assertIn(http2.GOAWAY, [kind for kind, _, _ in http2.frames_of(client)])
                client.close()
            self.eventually(lambda: server.metric("kascade_connections") == 0)
            self.assertIn(http2.SETTINGS,
                          [kind for kind, _, _ in http2.frames_of(self.unix_client(path))])

    def unix_client(self, path):
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.settimeout(10)
        client.connect(path)
        with contextlib.suppress(BrokenPipeError):  # it may be closed already
            client.sendall(http2.PREFACE + http2.frame(http2.SETTINGS))
        return client

    def test_slow_clients_do_not_block_the_metrics(self):
        server = self.start()
        slow = [self.client(server.metrics_port) for _ in range(300)]
        for client in slow[-30:]:
            client.sendall(b"GET /metrics HTTP/1.1\r\nX-")
        begin = time.monotonic()
        for path in "/metrics", "/livez", "/readyz":
            self.assertEqual(server.page(path)[0], 200)
        self.assertLess(time.monotonic() - begin, 1)
        self.assertEqual(slow[-1].recv(1), b"")  # its time for the request is over
        self.assertLess(time.monotonic() - begin, 6)


if __name__ == "__main__":
    server_path = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
