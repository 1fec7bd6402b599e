#!/usr/bin/env python3
"""Runs the examples of docs/api.md against a real server on models/demo.

Usage: api_docs_test.py KASCADE_SERVER. Every block marked python or go is run, and its output compared
with the block marked text behind it, in which "…" stands for anything. Every block marked json is parsed
as the request (the first of an RPC's section) or a response (the others) of that RPC. The Go part needs
the Go toolchain and modules from the module proxy; without them it is skipped, and with
KASCADE_REQUIRE_DATA=1 it fails if Go itself is installed.
"""

import importlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

from stubs import generate_stubs

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/api.md"
PROTOS = ROOT / "proto"
GO_FOLDER = ROOT / "build/api-docs-go"
GO_MODULE = "example.com/kascade-client"
SERVER = None


def blocks(language, text):
    """[(code, expected output or None)] of the fenced blocks in one language."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(code, fences[i + 1][1] if i + 1 < len(fences) and fences[i + 1][0] == "text" else None)
            for i, (name, code) in enumerate(fences) if name == language]


def rpc_sections(text):
    """{RPC: its section} of the chapters named after services."""
    return {name: body for name, body in
            re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)}


def agrees(output, expected):
    """Whether the output is as expected, "…" standing for anything, line breaks included."""
    pattern = ".*?".join(re.escape(part) for part in expected.strip().split("…"))
    return re.fullmatch(pattern, output.strip(), re.DOTALL) is not None


def start_server(folder):
    port_file = folder / "ports"
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(
            [SERVER, "--model", str(ROOT / "models/demo"), "--listen", "127.0.0.1:0",
             "--metrics-listen", "", "--port-file", str(port_file)],
            stdout=log, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 60
    while not port_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError("no server:\n" + (folder / "server.log").read_text())
        time.sleep(0.05)
    return process, "127.0.0.1:" + port_file.read_text().split()[0]


class GoMissing(Exception):
    """The Go toolchain or its modules cannot be had here."""


def go_client(text, source):
    """Builds the program; gives its path. What was made before is kept in build/."""
    if shutil.which("go") is None:
        raise GoMissing("go is not installed")
    tools = dict(re.findall(r"go install (\S+)@(\S+)", text))
    modules = re.search(r"^go get (.*)$", text, re.MULTILINE)[1].split()
    environment = {**os.environ, "GOBIN": str(GO_FOLDER / "bin"), "GOFLAGS": "-mod=mod",
                   "PATH": f"{GO_FOLDER / 'bin'}:{os.environ['PATH']}"}

    def from_proxy(*command):
        try:
            run = subprocess.run(["go", *command], cwd=GO_FOLDER, env=environment,
                                 capture_output=True, text=True, timeout=240)
        except subprocess.TimeoutExpired:
            raise GoMissing(f"go {' '.join(command)}: no answer") from None
        if run.returncode != 0:
            raise GoMissing(f"go {' '.join(command)}: {run.stderr.strip()}")

    GO_FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = "\n".join([*(f"{tool}@{version}" for tool, version in tools.items()), *modules])
    made = GO_FOLDER / "made-of"
    if not made.exists() or made.read_text() != wanted:
        (GO_FOLDER / "go.mod").write_text(f"module {GO_MODULE}\n\ngo 1.22\n")
        for tool, version in tools.items():
            from_proxy("install", f"{tool}@{version}")
        from_proxy("get", *modules)
        made.write_text(wanted)
    protos = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.glob("kascade/v1/*.proto"))
    options = [f"--{kind}_opt=M{proto}={GO_MODULE}/kascadev1"
               for proto in protos for kind in ("go", "go-grpc")]
    for kind in ("go", "go-grpc"):
        options += [f"--{kind}_out={GO_FOLDER}", f"--{kind}_opt=module={GO_MODULE}"]
    subprocess.run(["protoc", "-I.", *options, *protos], cwd=PROTOS, env=environment, check=True)
    (GO_FOLDER / "main.go").write_text(source)
    build = subprocess.run(["go", "build", "-o", "client", "."], cwd=GO_FOLDER, env=environment,
                           capture_output=True, text=True)
    if build.returncode != 0:
        raise AssertionError("the Go example does not compile:\n" + build.stderr)
    return GO_FOLDER / "client"


class ApiDocs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.text = PAGE.read_text()
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.folder = pathlib.Path(directory.name)
        generate_stubs(cls.folder)
        cls.server, cls.address = start_server(cls.folder)
        cls.addClassCleanup(cls.server.wait, timeout=60)
        cls.addClassCleanup(cls.server.terminate)

    def run_example(self, command, expected):
        run = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=600,
            env={**os.environ, "KASCADE_SERVER": self.address, "PYTHONPATH": str(self.folder)})
        self.assertEqual(run.returncode, 0, run.stderr)
        if expected is not None:
            self.assertTrue(agrees(run.stdout, expected),
                            f"printed:\n{run.stdout}\ndocumented:\n{expected}")

    def methods(self):
        for module, service in (("inference_service_pb2", "InferenceService"),
                                ("calibration_service_pb2", "CalibrationService"),
                                ("server_service_pb2", "ServerService")):
            descriptor = importlib.import_module(f"kascade.v1.{module}").DESCRIPTOR
            yield from descriptor.services_by_name[service].methods

    def test_every_rpc_has_examples_that_parse(self):
        from google.protobuf import json_format, symbol_database
        symbols = symbol_database.Default()
        sections = rpc_sections(self.text)
        for method in self.methods():
            with self.subTest(rpc=method.name):
                examples = blocks("json", sections.get(method.name, ""))
                self.assertGreaterEqual(len(examples), 2, "a request and a response are wanted")
                for index, (code, _) in enumerate(examples):
                    kind = method.output_type if index else method.input_type
                    json_format.Parse(code, symbols.GetSymbol(kind.full_name)())

    def test_every_reason_is_documented(self):
        proto = (PROTOS / "kascade/v1/error_details.proto").read_text()
        reasons = set(re.findall(r"^  // ([A-Z_]+) {2,}", proto, re.MULTILINE))
        self.assertGreater(len(reasons), 10)
        documented = set(re.findall(r"^\| `([A-Z_]+)` \|", self.text, re.MULTILINE))
        self.assertEqual(documented, reasons)

    def test_examples_run(self):
        examples = blocks("python", self.text)
        self.assertEqual(len(examples), 5)
        for code, expected in examples:
            self.run_example([sys.executable, "-c", code], expected)
        # Behind the Python examples, whose calibration it finds done.
        [(code, expected)] = blocks("go", self.text)
        try:
            client = go_client(self.text, code)
        except GoMissing as reason:
            installed = shutil.which("go") is not None
            if installed and os.environ.get("KASCADE_REQUIRE_DATA") == "1":
                self.fail(f"the Go example cannot be built: {reason}")
            print(f"\nSKIPPED: the Go example was NOT run: {reason}", file=sys.stderr)
            return
        self.run_example([client], expected)


class Agreement(unittest.TestCase):
    def test_an_ellipsis_stands_for_anything(self):
        self.assertTrue(agrees("a 1\nb\nc\n", "a …\n…\nc"))
        self.assertTrue(agrees("a\n", "a"))
        self.assertFalse(agrees("a 1\nb\n", "a …\nc"))
        self.assertFalse(agrees("a b", "a"))


if __name__ == "__main__":
    if len(sys.argv) < 2 or not os.access(sys.argv[1], os.X_OK):
        sys.exit("usage: api_docs_test.py KASCADE_SERVER")
    SERVER = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
