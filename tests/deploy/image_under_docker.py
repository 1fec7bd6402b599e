#!/usr/bin/env python3
"""Runs the image under Docker with the limits of a cluster: image_under_docker.py IMAGE

The container has the host's network, as the daemon of the test has no bridge.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

IMAGE = sys.argv.pop(1)
PORT, METRICS_PORT = 25051, 29464
HARDENED = ("--network", "host", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            "--memory", "1g", "--cpus", "2")


def docker(*arguments, check=True, **more):
    ran = subprocess.run(["docker", *map(str, arguments)], capture_output=True, text=True, **more)
    if check and ran.returncode != 0:
        raise AssertionError(f"docker {' '.join(map(str, arguments))}\n{ran.stdout}{ran.stderr}")
    return ran


class Image(unittest.TestCase):
    def start(self, *options, arguments=("--model", "/usr/share/kascade/models/demo")):
        """The name of a running container, once it serves, and how long that took."""
        begin = time.monotonic()
        name = docker("run", "--detach", *HARDENED, "--env", f"KASCADE_SERVER_LISTEN=127.0.0.1:{PORT}", "--env",
                      f"KASCADE_SERVER_METRICS_LISTEN=127.0.0.1:{METRICS_PORT}", *options, IMAGE,
                      *arguments).stdout.strip()
        self.addCleanup(docker, "rm", "--force", name, check=False)
        while self.client(name, "health", check=False).returncode != 0:
            self.assertLess(time.monotonic() - begin, 60, docker("logs", name, check=False).stderr)
            time.sleep(0.1)
        return name, time.monotonic() - begin

    def client(self, name, *arguments, check=True):
        return docker("exec", name, "kascade", "--server", f"127.0.0.1:{PORT}", *arguments, check=check)

    def test_serves_and_ends_by_sigterm(self):
        name, seconds = self.start()
        print(f"cold start to SERVING: {seconds:.1f} s", file=sys.stderr)
        self.assertTrue(self.client(name, "generate", "It was a dark and", "--max-tokens", "4").stdout)
        with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=10) as reply:
            self.assertIn('kascade_rpc_requests_total{code="OK",rpc="Generate"} 1', reply.read().decode())
        self.assertEqual(docker("exec", name, "id", "-u").stdout.strip(), "65532")
        self.assertNotEqual(docker("exec", name, "touch", "/var/lib/kascade/a", check=False).returncode, 0)
        docker("stop", "--time", "30", name)
        self.assertEqual(docker("inspect", "--format", "{{.State.ExitCode}}", name).stdout.strip(), "0")

    def test_calibrates_into_a_volume(self):
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder).chmod(0o777)
            name, _ = self.start("--volume", f"{folder}:/var/lib/kascade",
                                 arguments=("--model", "/usr/share/kascade/models/demo", "--schedule-dir",
                                            "/var/lib/kascade"))
            self.client(name, "calibrate", "--maker", "dp", "--max-tokens-per-text", "6000", "--window", "512",
                        "--max-degradation", "90", "--no-retrieval", "/usr/share/kascade/texts/calibration.txt")
            self.assertTrue(pathlib.Path(folder, "active.json").exists())

    def test_tells_what_a_wrong_option_is(self):
        ran = docker("run", "--rm", *HARDENED, IMAGE, "--no-such-option", check=False)
        self.assertEqual(ran.returncode, 2, ran.stderr)

    def test_configuration_of_the_image(self):
        configuration = json.loads(docker("inspect", IMAGE).stdout)[0]["Config"]
        self.assertEqual(configuration["User"], "65532:65532")
        self.assertEqual(configuration["Entrypoint"], ["kascade-server"])
        self.assertEqual(configuration["Healthcheck"]["Test"], ["CMD", "kascade", "--timeout", "5", "health"])
        self.assertEqual(configuration["Labels"]["org.opencontainers.image.licenses"], "Apache-2.0")

    def test_bill_of_materials(self):
        text = docker("run", "--rm", *HARDENED, "--entrypoint", "cat", IMAGE,
                      "/usr/share/doc/kascade-serve/sbom.spdx.json").stdout
        bill = json.loads(text)
        names = {package["name"] for package in bill["packages"]}
        self.assertTrue({"kascade-serve", "libc6", "libdnnl2", "libgrpc++1.51"} <= names)
        self.assertEqual(len(bill["relationships"]), len(bill["packages"]))

    def test_no_compiler_and_no_sources(self):
        ran = docker("run", "--rm", *HARDENED, "--entrypoint", "sh", IMAGE, "-c",
                     "ls /source /usr/bin/g++ /usr/bin/cmake 2>/dev/null; true")
        self.assertEqual(ran.stdout, "")


if __name__ == "__main__":
    unittest.main()
