#!/usr/bin/env python3
"""Runs the script of the chart's scoring Job with another program in the place of the client: score_shard_test.py ROOT"""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
SCRIPT = ROOT / "helm/kascade-serve/files/score-shard.sh"

# Fails on bad.txt, calls wrong.txt wrong usage, and prints what it was called with.
CLIENT = """#!/bin/sh
for last; do :; done
case $last in
  */bad.txt) exit 1 ;;
  */wrong.txt) exit 2 ;;
esac
echo "$*: $(cat "$last")"
"""


class ScoreShard(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.texts, self.results = pathlib.Path(folder.name, "texts"), pathlib.Path(folder.name, "results")
        self.client = pathlib.Path(folder.name, "client")
        self.client.write_text(CLIENT)
        self.client.chmod(0o755)
        self.results.mkdir()

    def write(self, *names):
        for name in names:
            (self.texts / name).parent.mkdir(parents=True, exist_ok=True)
            (self.texts / name).write_text("text of " + name)

    def run_shard(self, shard, shards):
        environment = {**os.environ, "TEXTS": str(self.texts), "RESULTS": str(self.results),
                       "SHARDS": str(shards), "JOB_COMPLETION_INDEX": str(shard)}
        return subprocess.run(["sh", SCRIPT, self.client, "score", "--json"], env=environment,
                              capture_output=True, text=True)

    def scored(self):
        return sorted(path.relative_to(self.results).as_posix() for path in self.results.rglob("*") if path.is_file())

    def test_shards_score_every_file_once(self):
        self.write("a.txt", "b c.txt", "deep/er/d.txt", "e.txt", "f.txt")
        scored = []
        for shard in range(3):
            ran = self.run_shard(shard, 3)
            self.assertEqual(ran.returncode, 0, ran.stderr)
            scored += ran.stdout.splitlines()
        self.assertEqual(sorted(scored), [f"scored {name}" for name in
                                          ("a.txt", "b c.txt", "deep/er/d.txt", "e.txt", "f.txt")])
        self.assertEqual(self.scored(), ["a.txt.json", "b c.txt.json", "deep/er/d.txt.json", "e.txt.json",
                                         "f.txt.json"])
        self.assertEqual((self.results / "b c.txt.json").read_text(), "score --json ./b c.txt: text of b c.txt\n")

    def test_goes_on_after_a_failure_and_leaves_out_what_is_there(self):
        self.write("a.txt", "bad.txt", "c.txt")
        ran = self.run_shard(0, 1)
        self.assertEqual(ran.returncode, 1)
        self.assertIn("failed with exit code 1: bad.txt", ran.stderr)
        self.assertEqual(self.scored(), ["a.txt.json", "c.txt.json"])
        (self.texts / "bad.txt").rename(self.texts / "good.txt")
        ran = self.run_shard(0, 1)
        self.assertEqual((ran.returncode, ran.stdout), (0, "scored good.txt\n"))

    def test_wrong_usage_ends_the_shard(self):
        self.write("wrong.txt", "z.txt")
        self.assertEqual(self.run_shard(0, 1).returncode, 2)
        self.assertEqual(self.scored(), [])


if __name__ == "__main__":
    unittest.main()
