#!/usr/bin/env python3
"""kascade-convert as users run it, and the models that it makes in the engine and the server.

Usage: convert_test.py KASCADE_CONVERT ENGINE_PROBE KASCADE_SERVER KASCADE [unittest arguments]
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import numpy as np

import checkpoints
from checkpoints import Shape

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = pathlib.Path(os.environ.get("KASCADE_SHARED_DATA", ROOT / "../shared/data"))
TOLERANCE = 1e-5  # of the logits, f32

convert_path = probe_path = server_path = client_path = None


def convert(*arguments, **options):
    return subprocess.run([convert_path, *map(str, arguments)], capture_output=True, text=True,
                          timeout=600, **options)


def logits_of(folder, tokens, scratch):
    """[tokens, vocabulary] from the plain f32 backend."""
    spec = scratch / "spec.json"
    spec.write_text(json.dumps({
        "model": str(folder), "backend": "reference", "weights": "f32", "threads": 1,
        "max_batch_tokens": 64,
        "runs": [{"tokens": tokens, "tile_rule_end": len(tokens), "mode": "dense",
                  "schedule": None, "ratio": None, "chunk": 0,
                  "logits": str(scratch / "logits"), "selections": None}]}))
    subprocess.run([probe_path, spec], check=True, timeout=300)
    return np.fromfile(scratch / "logits", np.float32).reshape(len(tokens), -1)


@contextlib.contextmanager
def serving(folder, scratch, *options):
    """Yields a function that runs the client and returns its one JSON object."""
    ports = scratch / "ports"
    ports.unlink(missing_ok=True)
    with open(scratch / "server.log", "w") as log:
        server = subprocess.Popen(
            [server_path, "--model", folder, "--listen", "127.0.0.1:0", "--metrics-listen",
             "127.0.0.1:0", "--port-file", ports, "--drain-seconds", "1", *options],
            stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while not ports.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("no server:\n" + (scratch / "server.log").read_text())
            time.sleep(0.05)
        address = "127.0.0.1:" + ports.read_text().split()[0]

        def kascade(*arguments, stdin=None):
            done = subprocess.run(
                [client_path, "--server", address, "--json", *map(str, arguments)], input=stdin,
                capture_output=True, text=True, timeout=600)
            if done.returncode != 0:
                raise RuntimeError(done.stderr)
            return json.loads(done.stdout)

        yield kascade
    finally:
        server.terminate()
        server.wait(timeout=60)


class ScratchTest(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="kascade-convert-test-")
        self.addCleanup(holder.cleanup)
        self.scratch = pathlib.Path(holder.name)

    def converted(self, source, *options, name="out"):
        target = self.scratch / name
        done = convert(source, target, "--force", *options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return target

    def shared(self, relative):
        path = DATA / relative
        if not path.exists():
            if os.environ.get("KASCADE_REQUIRE_DATA") == "1":
                self.fail(f"{path} is required and missing")
            self.skipTest(f"{path} is not there")
        return path


class Roads(ScratchTest):
    """One model, written in every layout, has the same logits."""

    def write_all(self, shape, model):
        folder = self.scratch
        yield "meta", checkpoints.write_meta(folder / "meta", shape, model)
        yield "meta, 2 shards", checkpoints.write_meta(folder / "meta2", shape, model, shards=2)
        yield "meta, 2 shards, embedding by columns", checkpoints.write_meta(
            folder / "meta2c", shape, model, shards=2, embedding_axis=1)
        yield "safetensors", checkpoints.write_hugging_face(folder / "hf", shape, model)
        yield "safetensors, 3 shards", checkpoints.write_hugging_face(
            folder / "hf3", shape, model, shards=3)
        yield "bin", checkpoints.write_hugging_face(folder / "bin", shape, model, torch=True)
        yield "bin, 3 shards", checkpoints.write_hugging_face(
            folder / "bin3", shape, model, shards=3, torch=True)
        yield "gguf", checkpoints.write_gguf(folder / "model.gguf", shape, model)
        if not shape.scaled_rope and shape.rope_theta == 10000.0:
            yield "llama2.c", checkpoints.write_llama2c(folder / "model.bin", shape, model)

    def expect_same_logits(self, shape):
        model = checkpoints.random_model(shape)
        tokens = [int(t) for t in np.random.default_rng(3).integers(3, shape.vocab, 40)]
        # The engine reads this one without any conversion.
        plain = checkpoints.write_hugging_face(self.scratch / "plain", shape, model)
        expected = logits_of(plain, tokens, self.scratch)
        for road, source in self.write_all(shape, model):
            with self.subTest(road):
                found = logits_of(self.converted(source), tokens, self.scratch)
                self.assertLessEqual(np.abs(found - expected).max(), TOLERANCE)
        return model, tokens, expected

    def test_grouped_heads(self):
        self.expect_same_logits(Shape())

    def test_tied_head(self):
        self.expect_same_logits(Shape(tied=True))

    def test_scaled_rope(self):
        # Long enough that all three bands of the scaling differ would take 8,192 positions; the
        # frequencies themselves already do at every position after the first.
        self.expect_same_logits(Shape(rope_theta=500000.0, scaled_rope=True, context=131072))

    def test_as_many_kv_heads_as_heads(self):
        self.expect_same_logits(Shape(kv_heads=4, heads=4))

    def test_a_folder_with_both_descriptions(self):
        """params.json beside Hugging Face's files does not make it Meta's."""
        shape = Shape()
        model = checkpoints.random_model(shape)
        folder = checkpoints.write_hugging_face(self.scratch / "both", shape, model, torch=True)
        (folder / "params.json").write_text(json.dumps(checkpoints.params_json(shape)))
        done = convert(folder, self.scratch / "out")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("Hugging Face PyTorch", done.stdout)

    def test_layouts_and_sizes(self):
        shape = Shape()
        model, tokens, expected = self.expect_same_logits(shape)
        source = self.scratch / "hf"
        for options in (["--layout", "per-layer"], ["--max-shard-size", "100KB"],
                        ["--layout", "per-layer", "--dtype", "f32"]):
            with self.subTest(options):
                out = self.converted(source, *options)
                found = logits_of(out, tokens, self.scratch)
                np.testing.assert_array_equal(found, expected)
                self.assertGreater(len(list(out.glob("*.safetensors"))), 1)
                self.assertEqual(convert("--verify", out).returncode, 0)
        per_layer = {path.name for path in out.glob("*.safetensors")}
        self.assertEqual(per_layer, {"embeddings.safetensors"} | {
            f"layer_{i:02}.safetensors" for i in range(shape.layers)})


class Traps(ScratchTest):
    """The mistakes that users' files and other converters make are seen by these tests."""

    def difference(self, mistake):
        shape = Shape()
        model = checkpoints.random_model(shape)
        tokens = list(range(3, 43))
        expected = logits_of(checkpoints.write_hugging_face(self.scratch / "right", shape, model),
                             tokens, self.scratch)
        wrong = checkpoints.write_hugging_face(self.scratch / "wrong", shape, mistake(model, shape))
        return np.abs(logits_of(wrong, tokens, self.scratch) - expected).max()

    def test_swapped_w1_and_w3_change_the_logits(self):
        def swap(model, shape):
            return {name.replace("gate_proj", "?").replace("up_proj", "gate_proj")
                    .replace("?", "up_proj"): tensor for name, tensor in model.items()}
        self.assertGreater(self.difference(swap), 100 * TOLERANCE)

    def test_rows_left_in_the_other_rotary_order_change_the_logits(self):
        def leave(model, shape):
            return {name: checkpoints.in_their_order(name, tensor, shape)
                    for name, tensor in model.items()}
        self.assertGreater(self.difference(leave), 100 * TOLERANCE)

    def test_rope_factor_by_depth(self):
        for layers, factor in ((16, 32), (28, 32), (32, 8)):
            with self.subTest(layers):
                shape = Shape(hidden=16, heads=2, kv_heads=1, intermediate=48, layers=layers,
                              vocab=8, rope_theta=500000.0, scaled_rope=True, context=131072)
                source = checkpoints.write_meta(self.scratch / f"meta{layers}", shape,
                                                checkpoints.random_model(shape))
                for options, expected in (([], factor), (["--rope-factor", "20"], 20)):
                    config = json.loads((self.converted(source, *options) / "config.json")
                                        .read_text())
                    self.assertEqual(config["rope_scaling"]["factor"], expected)


class Failures(ScratchTest):
    def meta(self, **changes):
        shape = Shape(**changes)
        return checkpoints.write_meta(self.scratch / "meta", shape, checkpoints.random_model(shape))

    def expect_refused(self, done, *words):
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        errors = [line for line in done.stderr.splitlines() if not line.startswith("converting ")]
        self.assertEqual(len(errors), 1, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)

    def leftovers(self):
        return [path.name for path in self.scratch.iterdir() if path.name not in ("meta", "disk")]

    def test_destination_exists(self):
        source = self.meta()
        (self.scratch / "out").mkdir()
        self.expect_refused(convert(source, self.scratch / "out"), "exists", "--force")
        (self.scratch / "out" / "thesis.tex").write_text("mine")
        self.expect_refused(convert(source, self.scratch / "out", "--force"), "not a model folder")
        self.assertEqual((self.scratch / "out" / "thesis.tex").read_text(), "mine")

    def test_source_is_nothing_known(self):
        (self.scratch / "text").write_text("hello")
        self.expect_refused(convert(self.scratch / "text", self.scratch / "out"), "GGUF")
        (self.scratch / "folder").mkdir()
        self.expect_refused(convert(self.scratch / "folder", self.scratch / "out"), "params.json")
        self.expect_refused(convert(self.scratch / "none", self.scratch / "out"), "no such")

    def test_value_that_the_dtype_cannot_hold(self):
        shape = Shape()
        model = checkpoints.random_model(shape)
        model["model.norm.weight"][7] = 70000
        source = checkpoints.write_meta(self.scratch / "meta", shape, model)
        self.expect_refused(convert(source, self.scratch / "out", "--dtype", "f16"),
                            "model.norm.weight", "element 7", "70000")
        model["model.norm.weight"][7] = np.nan
        source = checkpoints.write_meta(self.scratch / "nan", shape, model)
        self.expect_refused(convert(source, self.scratch / "out"), "element 7", "nan")
        self.assertFalse((self.scratch / "out").exists())

    def test_interrupted(self):
        """A signal in the middle leaves nothing; a killed run is cleaned up by the next."""
        shape = Shape(hidden=1024, heads=8, kv_heads=8, intermediate=2736, layers=4, vocab=4000)
        source = checkpoints.write_hugging_face(self.scratch / "meta", shape,
                                                checkpoints.random_model(shape))
        for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            partial = self.scratch / ".out.partial"
            process = subprocess.Popen([convert_path, source, self.scratch / "out"],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            while not list(partial.glob("*.safetensors")) and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(stop)
            _, errors = process.communicate(timeout=60)
            self.assertFalse((self.scratch / "out").exists())
            if stop == signal.SIGKILL:
                continue
            self.assertEqual(process.returncode, 130, errors)
            self.assertEqual(self.leftovers(), [])
        self.assertEqual(convert(source, self.scratch / "out").returncode, 0)
        self.assertEqual(self.leftovers(), ["out"])

    def test_disk_full(self):
        source = self.meta()
        disk = self.scratch / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", disk],
                                 capture_output=True, text=True)
        if mounted.returncode != 0:
            self.skipTest("may not mount a tmpfs: " + mounted.stderr.strip())
        try:
            self.expect_refused(convert(source, disk / "out"), "free space")
            self.assertEqual(list(disk.iterdir()), [])
        finally:
            subprocess.run(["umount", disk], check=True)

    def test_file_size_limit(self):
        """A write that fails half way, whatever the disk said before."""
        source = self.meta()
        done = subprocess.run(
            ["bash", "-c", 'trap "" XFSZ; ulimit -f 64; exec "$@"', "bash", convert_path, source,
             self.scratch / "out"], capture_output=True, text=True, timeout=60)
        self.expect_refused(done, "cannot write")
        self.assertEqual(self.leftovers(), [])

    def test_damage_is_seen_by_verify(self):
        out = self.converted(self.meta())
        self.assertEqual(convert("--verify", out).returncode, 0)
        weights = out / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-3] ^= 1
        weights.write_bytes(content)
        self.expect_refused(convert("--verify", out), "model.safetensors", "sha256")


class Reports(ScratchTest):
    def test_bundled_texts_and_named_ones(self):
        text = self.scratch / "own.txt"
        text.write_text("It was the best of times, it was the worst of times.\n" * 20)
        for options, texts in (((), ["evaluation.txt", "calibration.txt"]),
                               (("--text", text), ["own.txt"])):
            done = convert("--report", ROOT / "models/tiny", "--formats", "int8,int4", "--tokens",
                           "128", "--windows", "2", "--json", *options)
            self.assertEqual(done.returncode, 0, done.stderr)
            report = json.loads(done.stdout)
            self.assertEqual(report["texts"], texts)
            self.assertEqual([row["weights"] for row in report["formats"]], ["int8", "int4"])
            int8, int4 = report["formats"]
            self.assertEqual(int8["tokens"], 2 * 127 * len(texts))
            self.assertGreater(int8["mean_kl"], 0)
            self.assertGreater(int4["mean_kl"], int8["mean_kl"])
            self.assertLess(int4["bytes"], int8["bytes"])
        table = convert("--report", ROOT / "models/tiny", "--formats", "int8", "--tokens", "64")
        self.assertRegex(table.stdout, r"\nint8 +bf16 .*%\n")

    def test_refusals(self):
        tiny = ROOT / "models/tiny"
        for arguments, code, words in (
                (("--json",), 2, "--json requires --report"),
                (("--report", tiny, "x.gguf"), 2, "--report DIR stands alone"),
                (("--report", tiny, "--verify", tiny), 2, "--report DIR stands alone"),
                (("--report", tiny, "--tokens", "1"), 2, "--tokens: expected a whole number"),
                (("--report", tiny, "--formats", "f32"), 1, 'found "f32"'),
                (("--report", tiny, "--text", "no.txt"), 1, "no.txt"),
                (("--report", self.scratch / "none"), 1, "none")):
            done = convert(*arguments)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertIn(words, done.stderr)


class Packing(ScratchTest):
    def start(self, folder, weights):
        """What the server says of packed weights, and the text that it generates."""
        with serving(folder, self.scratch, "--weights", weights) as kascade:
            text = kascade("generate", "The", "--temperature", "0", "--max-tokens", "8")["text"]
        log = (self.scratch / "server.log").read_text()
        return re.search(r'weights_cache=(?:"(.*?)"|(\S+))', log).expand(r"\1\2"), text

    def test_packed_at_conversion(self):
        """They come with the folder, also with a copy of it without file times."""
        out = self.scratch / "out"
        done = convert(ROOT / "models/tiny", out, "--pack", "int8,int4")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"\n  packed int8: .*\n  packed int4: .* in packed/int4.packed\n")
        copy = self.scratch / "copy"
        shutil.copytree(out, copy, copy_function=shutil.copyfile)
        plain = self.scratch / "plain"
        shutil.copytree(out, plain, ignore=shutil.ignore_patterns("packed"))
        for weights in ("int8", "int4"):
            nothing, expected = self.start(plain, weights)
            self.assertEqual(nothing, "none")
            for folder in (out, copy):
                self.assertEqual(self.start(folder, weights),
                                 (f"read {folder}/packed/{weights}.packed", expected))

    def test_packed_later(self):
        folder = self.scratch / "model"
        shutil.copytree(ROOT / "models/tiny", folder)
        for formats in ("int4", "int4,int8"):  # a file that is there is replaced
            done = convert("--existing", folder, "--pack", formats)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual({path.name for path in (folder / "packed").iterdir()},
                             {f"{name}.packed" for name in formats.split(",")})
        self.assertEqual(self.start(folder, "int4")[0], f"read {folder}/packed/int4.packed")
        self.assertEqual(convert("--verify", folder).returncode, 0)
        # A packed folder can be converted, and replaced.
        self.assertEqual(convert(folder, self.scratch / "again").returncode, 0)
        self.assertEqual(convert(ROOT / "models/tiny", folder, "--force").returncode, 0)
        self.assertFalse((folder / "packed").exists())

    def test_refusals(self):
        tiny = ROOT / "models/tiny"
        folder = self.scratch / "model"
        shutil.copytree(tiny, folder)
        (folder / "packed").write_text("a file")
        for arguments, code, words in (
                (("--existing", tiny), 2, "--existing requires --pack"),
                (("--existing", tiny, "--pack", "int4", "x.gguf"), 2, "without SOURCE"),
                (("--pack", "int4"), 2, "expected SOURCE"),
                (("--verify", tiny, "--pack", "int4"), 2, "--verify DIR stands alone"),
                (("--report", tiny, "--pack", "int4"), 2, "--report DIR stands alone"),
                (("--existing", tiny, "--pack", "f32"), 2, 'bf16, int8, int4 or native, found "f32"'),
                (("--existing", tiny, "--pack", "int4,int4"), 2, "int4 is named twice"),
                (("--existing", self.scratch / "none", "--pack", "int4"), 1, "none"),
                (("--existing", folder, "--pack", "int4"), 1, "packed: cannot create")):
            done = convert(*arguments)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertIn(words, done.stderr)

    def test_failure_undoes_the_conversion(self):
        """No file may grow beyond 180 KiB: each of the weight files is smaller, the packed one larger."""
        arguments = [convert_path, ROOT / "models/tiny", self.scratch / "out", "--layout",
                     "per-layer", "--pack", "bf16"]
        limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 180; exec "$@"', "bash"]
        done = subprocess.run([*limited, *arguments], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual([path.name for path in self.scratch.iterdir()], [])
        done = subprocess.run([*limited, *arguments[:-2]], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)


class RealModels(ScratchTest):
    def test_stories260k(self):
        folder = self.shared("models/stories260K")
        note = (folder / "stories260K.md").read_text()
        golden = note.split("-t 0.0\n", 1)[1].split("```", 1)[0].strip()
        story = self.shared("text/tinystories/TinyStories-valid.head.txt").read_text()[:20000]
        perplexity = {}
        for name in ("stories260K.bin", "stories260K-v1.bin", "stories260K-q8.bin"):
            with serving(self.converted(folder / name), self.scratch) as kascade:
                if name != "stories260K-q8.bin":
                    found = kascade("generate", "", "--temperature", "0", "--max-tokens", "256",
                                    "--stop-token", "1")
                    self.assertEqual(found["text"].strip(), golden, name)
                (self.scratch / "story.txt").write_text(story)
                perplexity[name] = kascade("score", self.scratch / "story.txt")["dense"][
                    "perplexity"]
        self.assertEqual(perplexity["stories260K.bin"], perplexity["stories260K-v1.bin"])
        self.assertAlmostEqual(perplexity["stories260K-q8.bin"] / perplexity["stories260K.bin"], 1,
                               delta=0.02)

    def test_tinystories_gguf(self):
        folder = self.shared("models/tinystories-656k")
        texts = [self.shared("text/tinystories/TinyStories-valid.head.txt"),
                 self.shared("text/tinystories/tinystories-train.head.txt")]
        found = []
        for model in (folder, self.converted(folder / "TinyStories-656K-Q8_0.gguf")):
            with serving(model, self.scratch) as kascade:
                ids = [kascade("tokenize", "-", stdin=text.read_text()) for text in texts]
                found.append((ids, kascade("score", texts[0])["dense"]["perplexity"]))
        (expected_ids, expected), (ids, perplexity) = found
        self.assertTrue(ids == expected_ids, "token ids differ")  # a diff would be of megabytes
        self.assertAlmostEqual(perplexity / expected, 1, delta=0.005)


if __name__ == "__main__":
    convert_path, probe_path, server_path, client_path = sys.argv[1:5]
    unittest.main(argv=[sys.argv[0], *sys.argv[5:]], verbosity=2)
