#!/usr/bin/env python3
"""`kascade trace` on models/demo, as users run it, and its figures against float64.

Usage: trace_test.py SERVER CLIENT [unittest arguments]
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree as ElementTree

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "reference"), str(ROOT / "tests" / "same_bits")]
import schedules  # noqa: E402
from kascade import SparseAttention, attended_keys, groups_of, read_schedule, scores  # noqa: E402
from llama import Model, forward, probabilities  # noqa: E402

DEMO = ROOT / "models" / "demo"
LAYERS, KV_HEADS = 14, 2
ENVIRONMENT = {key: value for key, value in os.environ.items()
               if key not in ("KASCADE_SERVER", "GRPC_VERBOSITY", "GRPC_TRACE")}
MASS = 2e-3  # a choice near the threshold may differ in f32 and moves later layers a little

server_path = client_path = server = address = scratch = None


def setUpModule():
    global server, address, scratch
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="kascade-trace-test-"))
    ports = scratch / "ports"
    with open(scratch / "server.log", "w") as log:
        server = subprocess.Popen(
            [server_path, "--model", DEMO, "--weights", "f32", "--listen", "127.0.0.1:0",
             "--metrics-listen", "127.0.0.1:0", "--port-file", ports],
            stdout=log, stderr=subprocess.STDOUT, env=ENVIRONMENT)
    deadline = time.monotonic() + 120
    while not ports.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            raise RuntimeError("no server:\n" + (scratch / "server.log").read_text())
        time.sleep(0.05)
    address = "127.0.0.1:" + ports.read_text().split()[0]
    text = (DEMO / "evaluation.txt").read_text()
    (scratch / "text.txt").write_text(text[:2_000])
    (scratch / "long.txt").write_text(text[:7_600])


def tearDownModule():
    server.terminate()
    code = server.wait(timeout=60)
    log = (scratch / "server.log").read_text()
    shutil.rmtree(scratch)
    if code != 0:
        raise AssertionError(f"the server ended with {code}:\n{log}")


def kascade(*arguments):
    return subprocess.run([client_path, "--server", address, *map(str, arguments)],
                          capture_output=True, text=True, timeout=300, env=ENVIRONMENT)


class TraceTest(unittest.TestCase):
    def good(self, *arguments):
        done = kascade(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def json(self, *arguments):
        return json.loads(self.good(*arguments, "--json"))

    def bad(self, *arguments, exit_code=1):
        done = kascade(*arguments)
        self.assertEqual((done.returncode, done.stdout), (exit_code, ""), done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1)
        return done.stderr

    def schedule(self, rule):
        """Gives the server a schedule written by hand, and returns its file."""
        told = self.json("info")["model"]
        model = {name: told[name] for name in ("name", "weights_digest", "config_digest",
                                               "tokenizer_digest")}
        file = scratch / "schedule.json"
        file.write_text(json.dumps(schedules.schedule(rule, LAYERS, KV_HEADS, model)))
        self.good("activate", file, "--force")
        return file

    def tearDown(self):
        self.good("deactivate")


class AgainstFloat64(TraceTest):
    """The trace of the last token, and of its tile, against the reference."""

    def test_keys(self):
        self.judge(schedules.KEYS, "row")
        self.judge(schedules.KEYS, "tile")

    def test_tiles(self):
        self.judge(schedules.TILES, "row")
        self.judge(schedules.TILES, "tile")

    def judge(self, rule, phase):
        schedule = read_schedule(self.schedule(rule))
        tokens = self.json("tokenize", (scratch / "text.txt").read_text())["token_ids"]
        position = len(tokens) - 1
        seen = {}
        end = position if phase == "row" else len(tokens)
        attention = SparseAttention(schedule, end)

        def watch(layer, q, k, v):
            seen[layer] = q, k
            return attention(layer, q, k, v)

        forward(Model(DEMO), tokens, watch)
        group = groups_of(schedule.rule, len(tokens), end)[-1]
        traced = self.json("trace", scratch / "text.txt", "--phase", phase)
        self.assertEqual((traced["tokens"], traced["position"]), (len(tokens), position))
        self.assertEqual(traced["first_position"], group.first)
        self.assertEqual([layer["kind"] for layer in traced["layers"]],
                         [layer.role for layer in schedule.layers])
        for layer, told in zip(schedule.layers, traced["layers"]):
            self.judge_layer(schedule, layer, told, group, seen[told["layer"]], attention)

    def judge_layer(self, schedule, layer, told, group, heads, attention):
        q, k = heads
        rule, index = schedule.rule, told["layer"]
        p = probabilities(q[:, group.first:group.last], k, group.first)
        mass = p.reshape(KV_HEADS, -1, group.last).sum(axis=1)
        mass /= mass.sum(axis=1, keepdims=True)
        self.assertEqual(told["source_layer"], layer.anchor)
        dense = layer.role == "dense" or (layer.role == "anchor" and rule.family == "tile")
        for g, head in enumerate(told["heads"]):
            self.assertEqual(head["source_kv_head"], layer.head_map[g])
            sets = attention.choices[layer.anchor][-1][layer.head_map[g]] if not dense else None
            keys = np.arange(group.last) if dense else attended_keys(rule, group, sets)
            self.assertEqual(head["attended_keys"], len(keys))
            self.assertAlmostEqual(head["attended_mass"], mass[g, keys].sum(), delta=MASS)
            if "selected" in head:
                self.judge_selection(rule, group, head, q, k, mass, attention.choices[index][-1][g])

    def judge_selection(self, rule, group, head, q, k, mass, own):
        g, unit = head["kv_head"], rule.query_tile if rule.family == "tile" else 1
        wanted = scores(rule, q[:, group.first:group.last], k, group)[g]
        selected, told = np.array(head["selected"]), np.array(head["scores"])
        self.assertEqual(len(selected) * unit, len(own))
        self.assertTrue(np.all(np.diff(told) <= 0), "in order of score")
        np.testing.assert_allclose(told, wanted[(selected - rule.sink_keys) // unit], atol=MASS,
                                   rtol=0.02)
        threshold = np.sort(wanted)[-len(selected)]
        self.assertGreaterEqual(told[-1], 0.95 * threshold - 1e-6)
        self.assertAlmostEqual(head["selected_mass"],
                               mass[g, attended_keys(rule, group, own)].sum(), delta=MASS)


class AsUsersRunIt(TraceTest):
    def test_text_of_tiles(self):
        self.schedule(schedules.TILES)
        text = self.good("trace", scratch / "text.txt", "--position", "511", "--phase", "tile",
                         "--layers", "0,1,2,3", "--heads", "0")
        self.assertIn("its query tile, positions 496 to 511, selects together", text)
        self.assertIn("L0 dense, selects for others\n  head 0  512 of 512 tokens, 100.00 %", text)
        self.assertRegex(text, r"L1 reuses L0, head map 0→\d\n  head 0  64 of 512 tokens, [\d.]+ %")
        self.assertRegex(text, r"selects 3 tiles of 16 keys: \d+ \(0\.\d{4}\), \d+ \(0\.\d{4}\), \d+ ")
        self.assertNotIn("head 1", text)
        self.assertNotIn("L4", text)

    def test_text_of_keys(self):
        self.schedule(schedules.KEYS)
        text = self.good("trace", scratch / "text.txt", "--layers", "2", "--most", "3")
        self.assertRegex(text, r"L2 anchor\n  head 0  \d+ of \d+ tokens, [\d.]+ % of the mass")
        self.assertRegex(text, r"selects \d+ keys: (\d+(-\d+)? \(\d\.\d{4}\)(, )?){3} … and \d+ more")
        every = self.good("trace", scratch / "text.txt", "--layers", "2", "--most", "0")
        self.assertNotIn("more", every)
        best = [float(score) for score in re.findall(r"\((\d\.\d+)\)", every.split("head 1")[0])]
        self.assertEqual(best, sorted(best, reverse=True))

    def test_all_keys(self):
        self.schedule(schedules.KEYS)
        for layer in self.json("trace", scratch / "text.txt", "--ratio", "1")["layers"]:
            for head in layer["heads"]:
                self.assertEqual(head["attended_keys"], layer["causal_keys"])
                self.assertAlmostEqual(head["attended_mass"], 1, places=12)

    def test_other_ways_to_attend(self):
        window = self.json("trace", scratch / "text.txt", "--attention", "window,window=40")
        self.assertEqual({head["attended_keys"] for layer in window["layers"]
                          for head in layer["heads"]}, {40})
        self.assertEqual(window["attention"]["baseline"]["window"], 40)
        quest = self.json("trace", scratch / "text.txt", "--attention", "quest,min_keys=64")
        self.assertEqual((quest["key_tile"], len(quest["layers"][5]["heads"][0]["selected"])), (16, 4))
        file = self.schedule(schedules.KEYS)
        by_id = self.json("trace", scratch / "text.txt")["schedule_id"]
        self.good("deactivate")
        self.assertTrue(file.exists())
        self.assertEqual(self.json("trace", scratch / "text.txt", "--schedule", by_id)["schedule_id"],
                         by_id)

    def test_map(self):
        self.schedule(schedules.TILES)
        picture = scratch / "map.svg"
        traced = self.json("trace", scratch / "long.txt", "--position", "2047", "--map",
                           "--svg", picture)
        self.assertEqual(len(traced["maps"]), LAYERS * KV_HEADS)
        rows = traced["maps"][3]["rows"]
        self.assertEqual([len(row["mass"]) for row in rows], list(range(1, 129)))
        for row in rows:
            self.assertAlmostEqual(sum(row["mass"]), 1, places=4)
        self.assertLess(picture.stat().st_size, 2_000_000)
        root = ElementTree.parse(picture).getroot()
        space = "{http://www.w3.org/2000/svg}"
        panels = root.findall(f"{space}g")
        self.assertEqual(len(panels), LAYERS * KV_HEADS)
        self.assertIn("L1 reuse, head 1", panels[3].find(f"{space}title").text)
        # Every cell of the triangle is drawn once, and the grey ones are those ignored.
        drawn = {}
        for path in panels[3].findall(f"{space}path"):
            for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", path.get("d")):
                for cell in range(int(x), int(x) + int(width)):
                    self.assertNotIn((cell, int(y)), drawn)
                    drawn[cell, int(y)] = path.get("fill")
        self.assertEqual(len(drawn), 128 * 129 // 2)
        for (x, y), colour in drawn.items():
            self.assertEqual(colour == "#e4e4e4", rows[y]["attended_keys"][x] == 0)

    def test_what_is_refused(self):
        self.assertIn("no schedule is active", self.bad("trace", scratch / "text.txt"))
        self.schedule(schedules.KEYS)
        tokens = self.json("trace", scratch / "text.txt", "--layers", "0")["tokens"]
        self.assertIn(f"position: must be in [0, {tokens - 1}], got 9999",
                      self.bad("trace", scratch / "text.txt", "--position", "9999"))
        self.assertIn("must be in [0, 13], got 14",
                      self.bad("trace", scratch / "text.txt", "--layers", "3,14"))
        self.assertIn("must be in [0, 1], got 2",
                      self.bad("trace", scratch / "text.txt", "--heads", "2"))
        self.assertIn("NOT_FOUND", self.bad("trace", scratch / "text.txt", "--schedule", "0" * 64))
        self.assertIn("missing.txt", self.bad("trace", scratch / "missing.txt"))
        for wrong in (["--layers", "a"], ["--phase", "both"], ["--attention", "window"],
                      ["--attention", "dense", "--ratio", "0.5"], ["--most", "-1"]):
            self.bad("trace", scratch / "text.txt", *wrong, exit_code=2)
        self.bad("trace", scratch / "text.txt", "--svg", scratch / "no/such/folder/map.svg")


if __name__ == "__main__":
    server_path, client_path = sys.argv[1:3]
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
