#!/usr/bin/env python3
"""`kascade benchmark` and `kascade check` as users run them, and what they say about broken models.

Usage: benchmark_test.py SERVER CLIENT CONVERT MAKE_TINY_MODEL [unittest arguments]
"""

import json
import os
import pathlib
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO, TINY = ROOT / "models/demo", ROOT / "models/tiny"
DATA = pathlib.Path(os.environ.get("KASCADE_SHARED_DATA", ROOT.parent / "shared/data"))
STORIES = DATA / "models/stories260K/stories260K.bin"
ENVIRONMENT = {key: value for key, value in os.environ.items()
               if key not in ("KASCADE_SERVER", "GRPC_VERBOSITY", "GRPC_TRACE")}
# Little to time: these tests are about what is said.
QUICK = ["--length", "128", "--runs", "2", "--new-tokens", "4"]

server_path = client_path = convert_path = make_tiny_path = scratch = None


def setUpModule():
    global scratch
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="kascade-benchmark-test-"))
    (scratch / "calibration.txt").write_text((DEMO / "calibration.txt").read_text()[:45_000])
    (scratch / "test.txt").write_text((DEMO / "evaluation.txt").read_text()[:12_000])


def tearDownModule():
    shutil.rmtree(scratch)


def kascade(*arguments, timeout=300):
    return subprocess.run([client_path, *map(str, arguments)], capture_output=True, text=True,
                          timeout=timeout, env=ENVIRONMENT, check=False)


def own_server(model):
    return ["--model", model, "--server-program", server_path]


def texts(name="test.txt"):
    return ["--calibration", scratch / "calibration.txt", "--held-out", scratch / name]


def change_weights(folder, change):
    """Rewrites model.safetensors: change(name, shape, bytes) gives a new name and new bytes."""
    data = (DEMO / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header, body, out = json.loads(data[8:8 + size]), data[8 + size:], bytearray()
    metadata = header.pop("__metadata__", None)
    changed = {} if metadata is None else {"__metadata__": metadata}
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        new_name, values = change(name, tensor["shape"], body[begin:end])
        changed[new_name] = tensor | {"data_offsets": [len(out), len(out) + len(values)]}
        out += values
    text = json.dumps(changed).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + out)


def swap_gate_and_up(name, _, values):
    for old, new in (("gate_proj", "up_proj"), ("up_proj", "gate_proj")):
        if old in name:
            return name.replace(old, new), values
    return name, values


def interleave_rotary_pairs(name, shape, values):
    """The layout of Meta's files under Hugging Face's names."""
    if "q_proj" not in name and "k_proj" not in name:
        return name, values
    width, head = len(values) // shape[0], 32
    rows = [values[row * width:(row + 1) * width] for row in range(shape[0])]
    order = [begin + place % 2 * (head // 2) + place // 2
             for begin in range(0, shape[0], head) for place in range(head)]
    return name, b"".join(rows[row] for row in order)


def shuffle_tokens(folder):
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    ids = sorted(number for number in vocabulary.values() if number >= 300)
    shuffled = ids[:]
    random.Random(1).shuffle(shuffled)
    other = dict(zip(ids, shuffled))
    tokenizer["model"]["vocab"] = {text: other.get(number, number)
                                   for text, number in vocabulary.items()}
    file.write_text(json.dumps(tokenizer))


def change_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


class BenchmarkTest(unittest.TestCase):
    maxDiff = None

    def good(self, *arguments):
        done = kascade(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def check_order(self, text):
        """The blocks stand in the order in which the job is done."""
        blocks = ["Device: ", "Kascade benchmark: ", "Configuration", "Tile size", "Threshold",
                  "Max distance", "Weights folder", "Weight format", "Weights loaded: ",
                  "Calibration text", "unseen", "Layer  Role", "Total: ", "Dense run",
                  "Sparse run", "Results", "Dense perplexity", "Sparse perplexity", "Degradation",
                  "Verdict", "Speed", "Prefill", "Decode", "Speedup"]
        place = 0
        for block in blocks:
            if block == "Speedup":  # the column's title stands above the rows
                self.assertIn(block, text)
                continue
            found = text.find(block, place)
            self.assertGreaterEqual(found, 0, f"{block} after {place} in:\n{text}")
            place = found

    def check_json(self, result):
        self.assertTrue(result["speed"])
        for one in result["speed"]:
            for kind in ("dense", "sparse"):
                runs = one[kind]["milliseconds"]
                self.assertEqual(len(runs), result["configuration"]["runs"])
                self.assertGreater(min(runs), 0)
                self.assertAlmostEqual(one[kind]["median"], statistics.median(runs))
                self.assertAlmostEqual(one[kind]["mean"], statistics.fmean(runs))
                self.assertEqual((one[kind]["least"], one[kind]["largest"]),
                                 (min(runs), max(runs)))
            ratio = (statistics.median(one["dense"]["milliseconds"]) /
                     statistics.median(one["sparse"]["milliseconds"]))
            self.assertAlmostEqual(one["speedup"], ratio)
            self.assertIn(f"{ratio:.2f}x", one["sentence"])
            self.assertTrue(0 < one["attention_share"] < 1)
        self.assertGreater(result["texts"]["test_tokens"], 0)
        self.assertTrue(result["device"]["ids"])

    def test_demo_model(self):
        report = scratch / "report"
        done = kascade("benchmark", *own_server(DEMO), *texts(), *QUICK, "--out", report)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.check_order(done.stdout)
        result = json.loads((report / "benchmark.json").read_text())
        self.check_json(result)
        self.assertEqual([one["tokens"] for one in result["speed"]], [128, 128])
        page = (report / "report.md").read_text()
        for name in ("schedule.svg", "similarity.svg", "speed.svg"):
            self.assertIn(name, page)
            self.assertTrue((report / name).read_text().startswith("<svg"))
        self.compare_with_score(result)

    def compare_with_score(self, result):
        """`kascade score` under the same schedule gives the same perplexities."""
        schedule = scratch / "schedule.json"
        schedule.write_text(json.dumps(result["schedule"]))
        ports = scratch / "ports"
        process = subprocess.Popen(
            [server_path, "--model", DEMO, "--listen", "127.0.0.1:0", "--metrics-listen", "",
             "--schedule", schedule, "--port-file", ports],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
        try:
            while not ports.exists():
                self.assertIsNone(process.poll())
            to = ["--server", "127.0.0.1:" + ports.read_text().split()[0]]
            score = json.loads(self.good(*to, "score", "--mode", "compare", scratch / "test.txt",
                                         "--json"))
            self.assertEqual(result["dense_perplexity"], score["dense"]["perplexity"])
            self.assertEqual(result["sparse_perplexity"], score["sparse"]["perplexity"])
            # The running server is used without --model, and keeps the schedule that was active.
            again = json.loads(self.good(*to, "benchmark", *texts(), *QUICK, "--preset",
                                         "aggressive", "--json"))
            self.check_json(again)
            self.assertEqual(again["configuration"]["threshold"], 0.55)
            self.assertEqual(json.loads(self.good(*to, "info", "--json"))["active_schedule_id"],
                             score["schedule_id"])
        finally:
            process.terminate()
            process.wait(timeout=60)

    def test_tiny_model(self):
        out = self.good("benchmark", *own_server(TINY), *texts(), *QUICK)
        self.check_order(out)
        self.assertIn("115,008 parameters", out)
        self.assertRegex(out, "Verdict +(SUSPECT|DOUBTFUL)")  # its weights are random

    def test_converted_stories(self):
        if not STORIES.exists():
            if os.environ.get("KASCADE_REQUIRE_DATA") == "1":
                self.fail(f"{STORIES} is required and missing")
            self.skipTest(f"no {STORIES}")
        model = scratch / "stories"
        subprocess.run([convert_path, STORIES, model], check=True, capture_output=True)
        result = json.loads(self.good("benchmark", *own_server(model), *texts(), "--runs", "2",
                                      "--json"))
        self.check_json(result)
        # The context of 512 tokens holds the usual length only without the new tokens.
        self.assertEqual({one["tokens"] for one in result["speed"]}, {480})

    def test_own_text_is_cut_in_halves(self):
        result = json.loads(self.good("benchmark", *own_server(TINY), scratch / "calibration.txt",
                                      *QUICK, "--json"))
        self.assertIn("first half", result["texts"]["calibration_files"][0])
        self.assertAlmostEqual(result["texts"]["calibration_tokens"],
                               result["texts"]["test_tokens"], delta=2000)

    def test_bad_usage(self):
        for arguments, words in (
                (["--length", "0"], "--length"), (["--length", "5000000"], "--length 5000000"),
                (["--runs", "0"], "--runs"), (["--runs", "nan"], "--runs"),
                (["--new-tokens", "1"], "--new-tokens"), (["--preset", "fast"], "--preset"),
                (["--threshold", "inf"], "--threshold")):
            done = kascade("benchmark", *own_server(TINY), *texts(), *arguments)
            self.assertNotEqual(done.returncode, 0, arguments)
            self.assertIn(words, done.stderr)
            self.assertEqual(done.stderr.strip().count("kascade: "), 1, done.stderr)

    def test_server_that_does_not_start(self):
        missing = kascade("benchmark", *own_server(scratch / "missing"), *texts())
        self.assertEqual(missing.returncode, 1)
        self.assertIn("the server did not start", missing.stderr)
        self.assertIn(str(scratch / "missing"), missing.stderr)
        program = kascade("check", "--model", TINY, "--server-program", scratch / "no-program")
        self.assertEqual(program.returncode, 1)
        self.assertIn("no-program", program.stderr)


class CheckTest(unittest.TestCase):
    def test_all_keys_equal_dense(self):
        for model in (TINY, DEMO):
            done = kascade("check", *own_server(model), "--runs", "3", "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            result = json.loads(done.stdout)
            self.assertTrue(result["passed"])
            self.assertEqual(result["keys_attended_ratio"], 1)
            self.assertLessEqual(result["largest_difference"], result["tolerance"])
            self.assertGreater(result["tokens"], 1000)
            self.assertGreater(result["dense_milliseconds"], 0)

    def test_tiny_model_in_words(self):
        done = kascade("check", *own_server(TINY))
        self.assertEqual(done.returncode, 0, done.stderr)
        for words in ("115,008 parameters", "PASS", "ms dense", "64 tokens",
                      "460,032 of weights"):
            self.assertIn(words, done.stdout)

    def test_tiny_model_is_what_its_tool_makes(self):
        made = scratch / "made"
        subprocess.run([sys.executable, make_tiny_path, made], check=True)
        for file in ("model.safetensors", "config.json", "tokenizer.json"):
            self.assertEqual((made / file).read_bytes(), (TINY / file).read_bytes(), file)


class BrokenModelTest(unittest.TestCase):
    """A model that is not what its files say must not be called good."""

    def verdict(self, name, breaks):
        folder = scratch / name
        shutil.copytree(DEMO, folder)
        breaks(folder)
        done = kascade("benchmark", *own_server(folder), "--calibration",
                       scratch / "calibration.txt", "--held-out", DEMO / "evaluation.txt", *QUICK,
                       "--preset", "balanced")
        self.assertEqual(done.returncode, 0, done.stderr)
        verdict = next(line for line in done.stdout.splitlines() if line.startswith("Verdict  "))
        self.assertNotRegex(done.stdout, "SUCCESS|GOOD")
        self.assertIn("Usual causes", done.stderr)
        return verdict

    def test_swapped_gate_and_up(self):
        self.assertRegex(self.verdict("swapped", lambda folder: change_weights(
            folder, swap_gate_and_up)), "DOUBTFUL|SUSPECT")

    def test_wrong_rotary_layout(self):
        self.assertRegex(self.verdict("layout", lambda folder: change_weights(
            folder, interleave_rotary_pairs)), "DOUBTFUL|SUSPECT")

    def test_wrong_tokenizer(self):
        self.assertRegex(self.verdict("tokenizer", shuffle_tokens), "DOUBTFUL|SUSPECT")

    def test_wrong_theta(self):
        self.assertRegex(self.verdict("theta", lambda folder: change_config(
            folder, rope_theta=10000.0)), "DOUBTFUL|SUSPECT")

    def test_the_model_itself_is_not_doubtful(self):
        done = kascade("benchmark", *own_server(DEMO), *texts(), *QUICK, "--preset", "balanced")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotRegex(done.stdout, "DOUBTFUL|SUSPECT")


class StandardOutputTest(unittest.TestCase):
    def test_full_or_closed(self):
        for arguments in (["--help"], ["--version"], ["benchmark", "--help"],
                          ["check", *own_server(TINY), "--runs", "1"],
                          ["check", *own_server(TINY), "--runs", "1", "--json"]):
            with open("/dev/full", "w") as full:
                done = subprocess.run([client_path, *map(str, arguments)], stdout=full,
                                      stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
                                      timeout=60, check=False)
            self.assertEqual(done.returncode, 1, arguments)
            self.assertIn("DATA_LOSS", done.stderr)
            closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", client_path,
                                     *map(str, arguments)],
                                    stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
                                    timeout=60, check=False)
            self.assertEqual(closed.returncode, 1, arguments)
            self.assertIn("DATA_LOSS: standard output: it is closed", closed.stderr)


if __name__ == "__main__":
    server_path, client_path, convert_path, make_tiny_path = sys.argv[1:5]
    del sys.argv[1:5]
    unittest.main()
