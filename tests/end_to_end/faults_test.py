#!/usr/bin/env python3
"""Faults of command lines, addresses and outputs, as users meet them: exit codes and words.

Usage: faults_test.py KASCADE_SERVER KASCADE_CONVERT [unittest arguments]
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

MODEL = pathlib.Path(__file__).resolve().parents[2] / "models/demo"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY, ENDED = 4, 6, 7, None

server_path = convert_path = None


def run(*command, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([str(part) for part in command], text=True, timeout=60, **options)


def frame(kind, payload=b"", flags=0):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + bytes(4) + payload


def frames_of(connection):
    """Yields (kind, payload) of each HTTP/2 frame, and (ENDED, b"") if the connection ends, until it
    stays silent."""
    data = b""
    while True:
        try:
            part = connection.recv(65536)
        except TimeoutError:
            return
        except ConnectionError:
            part = b""
        if not part:
            yield ENDED, b""
            return
        data += part
        while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
            end = 9 + int.from_bytes(data[:3], "big")
            yield data[3], data[9:end]
            data = data[end:]


class FaultsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="kascade-faults-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def start(self, *arguments):
        """A server that serves; its process, gRPC port and metrics port."""
        ports = self.folder / f"ports-{time.monotonic_ns()}"
        if "--metrics-listen" not in arguments:
            arguments += "--metrics-listen", ""
        log = open(self.folder / "log", "a")
        self.addCleanup(log.close)
        server = subprocess.Popen(
            [server_path, "--model", MODEL, "--kv-memory", "16MiB", "--threads", "1",
             "--port-file", ports, *map(str, arguments)],
            stdout=log, stderr=subprocess.STDOUT)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        deadline = time.monotonic() + 120
        while not ports.exists():
            self.assertIsNone(server.poll(), (self.folder / "log").read_text())
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        return server, *map(int, ports.read_text().split())

    def refused(self, *arguments):
        """What a server says that does not start."""
        if "--metrics-listen" not in arguments:
            arguments += "--metrics-listen", ""
        done = run(server_path, "--model", MODEL, "--kv-memory", "16MiB", "--threads", "1",
                   *arguments)
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr


class Addresses(FaultsTest):
    def test_wrong_addresses_are_wrong_usage(self):
        for flag in "--listen", "--metrics-listen":
            for address in "0", "localhost", ":0", "127.0.0.1:65536", "[::1]", "127.0.0.1:x":
                done = run(server_path, "--model", MODEL, flag, address)
                self.assertEqual(done.returncode, 2, address)
                self.assertIn(f"{flag}: expected HOST:PORT", done.stderr)
                self.assertIn("0 to 65535", done.stderr)

    def test_metrics_are_served_on_ipv6(self):
        _, _, port = self.start("--listen", "[::1]:0", "--metrics-listen", "[::1]:0")
        with urllib.request.urlopen(f"http://[::1]:{port}/metrics", timeout=10) as answer:
            self.assertEqual(answer.status, 200)
            self.assertIn("kascade_build_info", answer.read().decode())

    def test_taken_addresses_are_named_with_the_reason(self):
        _, port, metrics = self.start("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
        for flag, taken in (("--listen", port), ("--listen", metrics), ("--metrics-listen", port),
                            ("--metrics-listen", metrics)):
            others = () if flag == "--listen" else ("--listen", "127.0.0.1:0")
            said = self.refused(*others, flag, f"127.0.0.1:{taken}")
            self.assertIn(f"cannot listen on 127.0.0.1:{taken}: Address already in use", said)
            self.assertNotIn("Civet", said)
        self.assertIn("cannot listen on 192.0.2.1:0",
                      self.refused("--listen", "192.0.2.1:0", "--allow-plaintext"))

    def test_an_address_that_others_reach_needs_tls_or_a_flag(self):
        said = self.refused("--listen", "0.0.0.0:0")
        self.assertIn("--listen 0.0.0.0:0", said)
        self.assertIn("--tls-cert", said)
        self.assertIn("--allow-plaintext", said)
        self.start("--listen", "0.0.0.0:0", "--allow-plaintext")

    def test_a_live_unix_socket_is_not_taken_over(self):
        path = self.folder / "socket"
        first, _, _ = self.start("--listen", f"unix:{path}")
        for address in f"unix:{path}", f"unix://{path}":
            self.assertIn("another server answers on this socket",
                          self.refused("--listen", address))
        with socket.socket(socket.AF_UNIX) as client:  # the first one still serves
            client.settimeout(10)
            client.connect(str(path))
            client.sendall(PREFACE + frame(SETTINGS))
            self.assertEqual(next(frames_of(client))[0], SETTINGS)
        first.send_signal(signal.SIGKILL)
        first.wait()
        self.assertTrue(path.exists())
        self.start("--listen", f"unix:{path}")  # what a killed server left behind

    def test_a_file_in_the_way_stays(self):
        path = self.folder / "file"
        path.write_text("text")
        self.assertIn("no socket", self.refused("--listen", f"unix:{path}"))
        self.assertEqual(path.read_text(), "text")


class Usage(FaultsTest):
    def test_numbers_of_the_server(self):
        for flag in "--threads", "--max-queue", "--max-message-bytes", "--kv-memory":
            for number in "-1", "nan", "1e309", "18446744073709551616", "2.5":
                done = run(server_path, "--model", MODEL, f"{flag}={number}")
                self.assertEqual(done.returncode, 2, flag)
                self.assertIn(f"{flag}: expected", done.stderr)
                self.assertIsNone(re.search("[0-9]{40}", done.stderr))

    def test_numbers_of_the_converter(self):
        for flag, numbers in (("--max-shard-size", ("0", "-1", "nan", "1e309", "2^64", "1.5GB",
                                                    "99999999999GB", "GB", "1XB")),
                              ("--rope-factor", ("0", "-1", "nan", "inf", "1e309", "x", "1000001"))):
            for number in numbers:
                done = run(convert_path, f"{flag}={number}", MODEL, self.folder / "out")
                self.assertEqual(done.returncode, 2, number)
                self.assertIn(f"{flag}: expected", done.stderr)
                self.assertIsNone(re.search("[0-9]{40}", done.stderr))
        self.assertFalse((self.folder / "out").exists())

    def test_wrong_usage_of_the_converter(self):
        for arguments in ((), ("a", "b", "c"), ("--no-such-option",), ("--dtype", "f8", "a"),
                          ("--layout", "x", "a"), ("--verify", "a", "b"), ("--force",),
                          ("--verify",)):
            done = run(convert_path, *arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertTrue(done.stderr.startswith("kascade-convert: "), done.stderr)
        self.assertEqual(run(convert_path, self.folder / "none").returncode, 1)

    def test_a_conversion_without_a_destination(self):
        source = self.folder / "demo"
        shutil.copytree(MODEL, source)
        done = run(convert_path, f"{source}/")
        self.assertEqual(done.returncode, 0, done.stderr)
        made = self.folder / "demo-kascade"
        self.assertIn(f"wrote {made}", done.stdout)
        self.assertEqual(run(convert_path, "--verify", made).returncode, 0)
        again = run(convert_path, source)
        self.assertEqual(again.returncode, 1)
        self.assertIn("demo-kascade: exists", again.stderr)
        self.assertEqual(run(convert_path, "--force", source).returncode, 0)
        done = run(convert_path, ".", cwd=source)
        self.assertIn("demo-kascade: exists", done.stderr)


class Output(FaultsTest):
    def commands(self):
        copy = self.folder / "out"
        self.assertEqual(run(convert_path, MODEL, copy).returncode, 0)
        yield server_path, "--help"
        yield server_path, "--version"
        yield convert_path, "--help"
        yield convert_path, "--version"
        yield convert_path, "--verify", copy
        yield convert_path, "--force", MODEL, copy

    def test_a_full_output_is_an_error(self):
        for command in self.commands():
            with open("/dev/full", "w") as full:
                done = run(*command, stdout=full)
            self.assertEqual(done.returncode, 1, command)
            self.assertIn("DATA_LOSS: standard output: ", done.stderr)

    def test_a_closed_output_is_an_error(self):
        for command in self.commands():
            done = run("sh", "-c", 'exec "$@" >&-', "sh", *command)
            self.assertEqual(done.returncode, 1, command)
            self.assertIn("DATA_LOSS: standard output: it is closed", done.stderr)
        # What was printed did not land in a file that was opened meanwhile.
        self.assertEqual(run(convert_path, "--verify", self.folder / "out").returncode, 0)

    def test_an_open_output_is_none(self):
        for command in self.commands():
            done = run(*command)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertNotIn("DATA_LOSS", done.stderr)

    def test_a_server_serves_without_any_standard_stream(self):
        ports = self.folder / "ports"
        server = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", server_path, "--model", MODEL,
             "--kv-memory", "16MiB", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0",
             "--port-file", ports])
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        deadline = time.monotonic() + 120
        while not ports.exists():
            self.assertIsNone(server.poll())
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        url = f"http://127.0.0.1:{ports.read_text().split()[1]}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            self.assertIn("kascade_build_info", answer.read().decode())


class Keepalive(FaultsTest):
    def ping(self, port, interval, count, found):
        """Pings an idle connection; adds the kinds of the frames that came back."""
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(PREFACE + frame(SETTINGS))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for number in range(count):
                    time.sleep(interval)
                    client.sendall(frame(PING, number.to_bytes(8, "big")))
            client.settimeout(2)
            found.extend(kind for kind, _ in frames_of(client))

    def test_idle_clients_may_ping(self):
        _, port, _ = self.start("--listen", "127.0.0.1:0")
        runs = {(interval, 4): [] for interval in (6, 8, 10)}
        runs[(0, 20)] = []
        threads = [threading.Thread(target=self.ping, args=(port, *key, found))
                   for key, found in runs.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertIn(ENDED, runs.pop((0, 20)))  # a flood is still refused
        for key, found in runs.items():
            self.assertNotIn(GOAWAY, found, key)
            self.assertNotIn(ENDED, found, key)
            self.assertGreaterEqual(found.count(PING), 4, key)


if __name__ == "__main__":
    server_path, convert_path = map(os.path.abspath, (sys.argv.pop(1), sys.argv.pop(1)))
    unittest.main()
