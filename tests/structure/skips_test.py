#!/usr/bin/env python3
"""Checks that nothing is left out quietly: skips_test.py ROOT

A check that needs a tool which is not here skips and says so; where KASCADE_REQUIRE_DATA=1 is set, as
in .ci/run, it fails.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = None
SKIPPED = 77
# Tests in tests/end_to_end that generate Python stubs.
STUB_TESTS = ("api_docs_test.py", "metrics_docs_test.py", "python_client_test.py", "reflection_test.py")


def environment(required, **more):
    out = {key: value for key, value in os.environ.items() if key != "KASCADE_REQUIRE_DATA"}
    return {**out, **({"KASCADE_REQUIRE_DATA": "1"} if required else {}), **more}


class Skips(unittest.TestCase):
    def run_function(self, required, function, **more):
        """A function of ./run, in a shell that has read it."""
        return subprocess.run(["bash", "-c", f"set -- help; source ./run >/dev/null; {function}"],
                              cwd=ROOT, capture_output=True, text=True,
                              env=environment(required, **more))

    def check(self, run, words, skipped):
        for required, code in ((False, skipped), (True, 1)):
            done = run(required)
            self.assertEqual(done.returncode, code, done.stdout + done.stderr)
            self.assertIn(words, done.stderr)

    def test_python_stubs_without_the_plugin(self):
        with tempfile.TemporaryDirectory() as empty:
            for name in STUB_TESTS:
                command = ["/usr/bin/python3", ROOT / "tests/end_to_end" / name, "/usr/bin/true"]
                self.check(lambda required: subprocess.run(
                    command, capture_output=True, text=True,
                    env=environment(required, PATH=empty, PYTHONDONTWRITEBYTECODE="1")),
                    "grpc_python_plugin not found", SKIPPED)

    def test_every_test_with_stubs_is_listed(self):
        using = [path.name for path in (ROOT / "tests/end_to_end").glob("*.py")
                 if "python_client_test as client" in path.read_text()
                 or "import generate_stubs" in path.read_text()]
        # Those that use python_client_test get its skip; score_protocols_test needs numpy first.
        self.assertLessEqual(set(STUB_TESTS), set(using))
        self.assertIn("score_protocols_test.py", using)

    def test_buf_without_npm(self):
        with tempfile.TemporaryDirectory() as empty:
            self.check(lambda required: self.run_function(required, f"PATH={empty}; run_buf"),
                       "SKIPPED buf lint: npm is not here", 0)

    def test_buf_that_npm_cannot_install(self):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "npm").write_text("#!/bin/sh\nexit 1\n")
            (pathlib.Path(folder) / "npm").chmod(0o755)
            tree = pathlib.Path(folder) / "tree"  # has no buf from before
            tree.mkdir()
            shutil.copy(ROOT / "run", tree / "run")
            function = f'cd {tree}; PATH="{folder}:$PATH"; run_buf'
            self.check(lambda required: self.run_function(required, function),
                       "SKIPPED buf lint: npm could not install it", 0)

    def test_clang_tidy_without_time(self):
        self.check(lambda required: self.run_function(required, "tidy_one some.cc",
                                                      KASCADE_TIDY_DEADLINE="0"),
                   "clang-tidy has no time left, NOT checked: some.cc", 0)


if __name__ == "__main__":
    ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()
