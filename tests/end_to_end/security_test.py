#!/usr/bin/env python3
"""TLS and access tokens as docs/operations.md tells to set them up, and how the client uses them.

Usage: security_test.py SERVER CLIENT [unittest arguments]. Runs the commands of the page's section
"TLS and tokens" in a folder of its own; only the port, the paths of the programs and the model differ.
"""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/operations.md"
MODEL = ROOT / "models/demo"
FORGED = "\n2026-11-30T00:00:00.000+0000 info forged \x1b[31m"

server_path = client_path = None


def documented_commands():
    """(commands that make files, the server's command line, the client's) of the section."""
    section = PAGE.read_text().split("## TLS and tokens\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ")
    programs = ("kascade-server ", "kascade ")
    make = "\n".join(line for line in lines.split("\n") if not line.startswith(programs))
    server, client = (next(line for line in lines.split("\n") if line.startswith(program))
                      for program in programs)
    return make, shlex.split(server)[1:], shlex.split(client)[1:]


class SecurityTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory(prefix="kascade-security-test-")
        cls.addClassCleanup(directory.cleanup)
        cls.folder = pathlib.Path(directory.name)
        make, server, cls.client = documented_commands()
        made = subprocess.run(["bash", "-euc", make], cwd=cls.folder, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        server[server.index("--model") + 1] = str(MODEL)
        listen = server.index("--listen") + 1
        server[listen] = re.sub(r"\d+$", "0", server[listen])
        cls.log = cls.folder / "log"
        with open(cls.log, "w") as log:
            process = subprocess.Popen(
                [server_path, *server, "--metrics-listen", "", "--port-file", "port"],
                cwd=cls.folder, stdout=log, stderr=subprocess.STDOUT)
        cls.addClassCleanup(process.communicate, timeout=60)
        cls.addClassCleanup(process.terminate)
        deadline = time.monotonic() + 60
        while not (cls.folder / "port").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("no server:\n" + cls.log.read_text())
            time.sleep(0.02)
        port = (cls.folder / "port").read_text().split()[0]
        cls.address = f"localhost:{port}"
        at = cls.client.index("--server") + 1
        cls.client[at] = cls.address
        cls.options = cls.client[:cls.client.index("--token-file")]  # TLS, without the token

    def kascade(self, *arguments, **environment):
        clean = {key: value for key, value in os.environ.items()
                 if key not in ("KASCADE_SERVER", "KASCADE_TOKEN", "GRPC_VERBOSITY")}
        return subprocess.run([client_path, *arguments], cwd=self.folder, capture_output=True,
                              text=True, timeout=60, env=clean | environment)

    def bad(self, code, *arguments, **environment):
        done = self.kascade(*arguments, **environment)
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertTrue(done.stderr.startswith(f"kascade: {code}: "), done.stderr)
        return done.stderr

    def test_the_documented_commands_work(self):
        done = self.kascade(*self.client)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("Context", done.stdout)
        self.assertEqual((self.folder / "server.key").stat().st_mode & 0o077, 0)

    def test_the_token_comes_from_a_file_or_the_environment(self):
        token = (self.folder / "chat.token").read_text().strip()
        done = self.kascade(*self.options, "tokenize", "a", KASCADE_TOKEN=token)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("--token-file", self.bad("UNAUTHENTICATED", *self.options, "info"))
        wrong = self.bad("UNAUTHENTICATED", *self.options, "info", KASCADE_TOKEN="not-this-one")
        self.assertNotIn("not-this-one", wrong)
        for command in (["deactivate"], ["activate", "x"]):
            self.assertIn('"admin"', self.bad("PERMISSION_DENIED", *self.options, *command,
                                              KASCADE_TOKEN=token))
        self.assertIn('"calibrate"', self.bad("PERMISSION_DENIED", *self.options, "schedules",
                                              KASCADE_TOKEN=token))
        # Health is open.
        self.assertEqual(self.kascade(*self.options, "health").returncode, 0)
        (self.folder / "bad.token").write_text("two words")
        self.assertIn("--token-file bad.token", self.bad(
            "INVALID_ARGUMENT", *self.options, "--token-file", "bad.token", "info"))
        self.assertIn("--token-file none", self.bad(
            "NOT_FOUND", *self.options, "--token-file", "none", "info"))

    def test_connections_that_fail_say_what_to_give(self):
        address = ["--server", self.address]
        self.assertIn("--tls", self.bad("UNAVAILABLE", *address, "health"))
        self.assertIn("--tls-ca", self.bad("UNAVAILABLE", *address, "--tls", "health"))
        self.assertIn("--tls-cert", self.bad("UNAVAILABLE", *address, "--tls-ca", "ca.pem", "health"))
        self.assertIn("--tls-ca absent.pem", self.bad("NOT_FOUND", *address, "--tls-ca", "absent.pem",
                                                      "health"))
        self.assertEqual(self.kascade(*address, "--tls-cert", "client.pem", "health").returncode, 2)

    def test_requests_cannot_forge_lines_of_the_log(self):
        admin = dict(KASCADE_TOKEN=(self.folder / "ops.token").read_text().strip())
        self.bad("NOT_FOUND", *self.options, "activate", "id" + FORGED, **admin)
        deadline = time.monotonic() + 30
        while "forged" not in self.log.read_text():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        log = self.log.read_text()
        self.assertIn("\\n2026-11-30T00:00:00.000+0000 info forged \\x1b[31m", log)
        self.assertNotIn("\x1b", log)
        for secret in self.folder.glob("*.token"):
            self.assertNotIn(secret.read_text().strip(), log)


if __name__ == "__main__":
    server_path, client_path = (str(pathlib.Path(sys.argv.pop(1)).resolve()) for _ in range(2))
    unittest.main()
