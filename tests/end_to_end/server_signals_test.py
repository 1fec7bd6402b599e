#!/usr/bin/env python3
"""How the server ends by signals: while the model is loading, and while it serves.

Usage: server_signals_test.py SERVER [unittest arguments]
"""

import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

MODEL = pathlib.Path(__file__).resolve().parents[2] / "models/demo"

server_path = None


def start(folder, already_sent=()):
    """Starts a server; signals in `already_sent` wait for it from its first instruction on."""

    def send():
        signal.pthread_sigmask(signal.SIG_BLOCK, already_sent)  # pending signals outlast exec()
        for number in already_sent:
            signal.raise_signal(number)

    with open(folder / "log", "w") as log:
        return subprocess.Popen(
            [server_path, "--model", MODEL, "--listen", "127.0.0.1:0", "--metrics-listen", "",
             "--port-file", folder / "ports"],
            stdout=log, stderr=subprocess.STDOUT, preexec_fn=send)


class SignalsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="kascade-signals-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def log(self):
        return (self.folder / "log").read_text()

    def test_a_signal_during_the_load_ends_at_once(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            server = start(self.folder, [number])
            self.assertEqual(server.wait(timeout=60), 0, self.log())
            self.assertIn("while the model is loading", self.log())
            self.assertNotIn("serving model", self.log())
            self.assertFalse((self.folder / "ports").exists())

    def test_a_signal_while_serving_drains(self):
        server = start(self.folder)
        self.addCleanup(server.kill)
        deadline = time.monotonic() + 120
        while not (self.folder / "ports").exists():
            self.assertIsNone(server.poll(), self.log())
            self.assertLess(time.monotonic(), deadline, self.log())
            time.sleep(0.02)
        server.send_signal(signal.SIGTERM)
        self.assertEqual(server.wait(timeout=60), 0, self.log())
        self.assertIn("draining", self.log())
        self.assertIn("stopped", self.log())


if __name__ == "__main__":
    server_path = sys.argv.pop(1)
    unittest.main()
