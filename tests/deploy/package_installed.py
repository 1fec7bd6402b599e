#!/usr/bin/env python3
"""What the Debian package has brought into a tree that chroot can enter: package_installed.py TREE"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

TREE = pathlib.Path(sys.argv.pop(1)).resolve()
PROGRAMS = ("kascade", "kascade-convert", "kascade-server", "kascade-train")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
PORT = 25151


def run(*command, check=True, user=None):
    inside = ["chroot", *([f"--userspec={user}"] if user else []), TREE, *command]
    ran = subprocess.run(inside, capture_output=True, text=True, env=ENVIRONMENT)
    if check and ran.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}\n{ran.stdout}{ran.stderr}")
    return ran


class Package(unittest.TestCase):
    def test_there_is_a_user_without_a_shell(self):
        name, _, uid, _, _, home, shell = run("getent", "passwd", "kascade").stdout.strip().split(":")
        self.assertEqual((name, home, shell), ("kascade", "/var/lib/kascade", "/usr/sbin/nologin"))
        self.assertLess(int(uid), 1000)

    def test_the_unit_is_valid_and_names_what_exists(self):
        unit = TREE / "lib/systemd/system/kascade-server.service"
        program = re.search(r"^ExecStart=(\S+) --config (\S+)$", unit.read_text(), re.MULTILINE)
        self.assertTrue(os.access(TREE / program[1].lstrip("/"), os.X_OK))
        self.assertTrue((TREE / program[2].lstrip("/")).is_file())
        if shutil.which("systemd-analyze"):
            with tempfile.TemporaryDirectory() as folder:
                copy = pathlib.Path(folder, unit.name)  # whose program is found from outside of the tree
                copy.write_text(unit.read_text().replace(program[1], f"{TREE}{program[1]}"))
                ran = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
            self.assertEqual((ran.returncode, ran.stdout + ran.stderr), (0, ""))

    def test_serves_with_the_configuration_of_the_package(self):
        for folder in ("var/lib/kascade", "var/cache/kascade"):  # as StateDirectory= and CacheDirectory= would
            (TREE / folder).mkdir(exist_ok=True)
            run("chown", "kascade:kascade", f"/{folder}")
        server = subprocess.Popen(["chroot", "--userspec=kascade:kascade", TREE, "kascade-server", "--config",
                                   "/etc/kascade/server.toml", "--listen", f"127.0.0.1:{PORT}", "--metrics-listen", "",
                                   "--threads", "1"], env=ENVIRONMENT, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True)
        self.addCleanup(server.kill)
        client = ("kascade", "--server", f"127.0.0.1:{PORT}")
        end = time.monotonic() + 60
        while run(*client, "health", check=False, user="kascade:kascade").returncode != 0:
            self.assertIsNone(server.poll(), server.poll() is not None and server.stdout.read())
            self.assertLess(time.monotonic(), end)
            time.sleep(0.2)
        self.assertTrue(run(*client, "generate", "It was a dark and", "--max-tokens", "4").stdout)
        server.terminate()
        self.assertEqual(server.wait(timeout=60), 0)
        server.stdout.close()

    def test_manual_pages(self):
        for program in PROGRAMS:
            ran = run("man", "--warnings", program)
            self.assertEqual(ran.stderr, "", program)
            self.assertIn("--version", ran.stdout)
            self.assertIn("kascade-serve", ran.stdout)
        self.assertIn("--max-degradation", run("man", "kascade").stdout, "options of commands too")

    def completions(self, line):
        """What bash offers at the end of the line."""
        words = line.split(" ")
        script = f"""source /usr/share/bash-completion/completions/{words[0]}
COMP_WORDS=({' '.join(repr(word) for word in words)}) COMP_CWORD={len(words) - 1}
_{words[0].replace('-', '_')}; printf '%s\\n' "${{COMPREPLY[@]}}" """
        ran = run("bash", "--norc", "-c", script)
        self.assertEqual(ran.stderr, "")
        return ran.stdout.split()

    def test_completion(self):
        self.assertEqual(self.completions("kascade cal"), ["calibrate"])
        self.assertIn("--max-degradation", self.completions("kascade calibrate --max-d"))
        self.assertEqual(self.completions("kascade --json gen"), ["generate"])
        self.assertEqual(self.completions("kascade calibrate no-such"), [], "a file")
        self.assertEqual(self.completions("kascade-server --weights in"), ["int8", "int4"])
        self.assertEqual(self.completions("kascade-server --drain-d"), ["--drain-delay-seconds"])
        self.assertEqual(self.completions("kascade-server --model /"), [], "a folder")
        self.assertIn("--pack", self.completions("kascade-convert --pa"))

    def test_documents(self):
        documents = TREE / "usr/share/doc/kascade-serve"
        self.assertTrue((documents / "docs/operations.md").is_file())
        self.assertTrue((documents / "copyright").is_file())


if __name__ == "__main__":
    unittest.main()
