#!/usr/bin/env python3
"""Texts longer than a message, memory for a long text, and `kascade score` over several servers.

Usage: score_stream_test.py SERVER CLIENT [unittest arguments]
"""

import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import numpy

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/demo"
TINY = ROOT / "models/tiny"  # fast to score
ENVIRONMENT = {key: value for key, value in os.environ.items()
               if key not in ("KASCADE_SERVER", "GRPC_VERBOSITY", "GRPC_TRACE")}
MIB = 1 << 20
SERVER = CLIENT = None


def write_model(folder, vocabulary, width=16, heads=1, context=2048):
    """A random Llama of one layer with the tokenizer of the demo model and a larger vocabulary."""
    random = numpy.random.default_rng(3)
    shapes = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    layer = "model.layers.0."
    for name in ("input_layernorm", "post_attention_layernorm"):
        shapes[f"{layer}{name}.weight"] = (width,)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        shapes[f"{layer}self_attn.{name}.weight"] = (width, width)
    for name in ("gate_proj", "up_proj"):
        shapes[f"{layer}mlp.{name}.weight"] = (width, width)
    shapes[f"{layer}mlp.down_proj.weight"] = (width, width)
    header, data, at = {}, [], 0
    for name, shape in shapes.items():
        values = random.standard_normal(shape, dtype=numpy.float32) * 0.1
        data.append((values.view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes())  # bf16
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + len(data[-1])]}
        at += len(data[-1])
    head = json.dumps(header).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"".join(data))
    config = json.loads((MODEL / "config.json").read_text())
    config.update(hidden_size=width, intermediate_size=width, num_hidden_layers=1,
                  num_attention_heads=heads, num_key_value_heads=heads, head_dim=width // heads,
                  vocab_size=vocabulary, max_position_embeddings=context, tie_word_embeddings=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, folder / name)


def anonymous_bytes(process):
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


class Peak:
    """The most anonymous memory that a process has while this context lasts, above that before."""

    def __init__(self, process):
        self.process, self.gained = process, 0

    def __enter__(self):
        self.before = anonymous_bytes(self.process)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def watch(self):
        while not self.ended.wait(0.01):
            self.gained = max(self.gained, anonymous_bytes(self.process) - self.before)


class ScoreStreamTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.folder = pathlib.Path(directory.name)

    def start(self, name, *flags, model=MODEL):
        """A server on a free port: (process, address)."""
        ports = self.folder / f"{name}.ports"
        log = open(self.folder / f"{name}.log", "w")
        self.addCleanup(log.close)
        process = subprocess.Popen(
            [SERVER, "--model", model, "--listen", "127.0.0.1:0", "--metrics-listen", "",
             "--port-file", ports, "--kv-memory", "64MiB", *map(str, flags)],
            stdout=log, stderr=subprocess.STDOUT, env=ENVIRONMENT)
        self.addCleanup(process.wait, timeout=60)
        self.addCleanup(process.terminate)
        deadline = time.monotonic() + 120
        while not ports.exists():
            self.assertIsNone(process.poll(), (self.folder / f"{name}.log").read_text())
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        return process, "127.0.0.1:" + ports.read_text().split()[0]

    def kascade(self, *arguments, timeout=240):
        return subprocess.run([CLIENT, *map(str, arguments)], capture_output=True, text=True,
                              timeout=timeout, env=ENVIRONMENT)

    def score(self, *arguments, **options):
        done = self.kascade("score", "--json", *arguments, **options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def text(self, name, size, begin=0):
        source = (MODEL / "evaluation.txt").read_text() + (MODEL / "calibration.txt").read_text()
        text = source[begin:]
        while len(text) < size:
            text += source
        path = self.folder / name
        path.write_text(text[:size])
        return path

    def test_a_file_above_the_message_limit_has_the_scores_of_the_file(self):
        _, small = self.start("small", "--max-message-bytes", 65536, "--request-memory", "16MiB")
        _, usual = self.start("usual")
        path = self.text("long.txt", 150_000)
        options = ("--max-tokens-per-text", 3000)
        for more in ((), ("--protocol", "chunk")):
            scores = [self.score("--server", server, path, *options, *more)
                      for server in (small, usual)]
            self.assertEqual(scores[0], scores[1])
        done = self.kascade("--server", small, "score", path, "--tokens", *options)
        self.assertEqual(done.returncode, 1)
        self.assertTrue(done.stderr.splitlines()[-1].startswith("kascade: RESOURCE_EXHAUSTED: "),
                        done.stderr)

    def test_a_file_of_40_mb_is_scored(self):
        process, address = self.start("server")
        path = self.text("huge.txt", 40_000_000)
        with Peak(process) as peak:
            total = self.score("--server", address, path, "--max-tokens-per-text", 2000)
        self.assertEqual(total["tokens_scored"], 2000)
        self.assertLess(peak.gained, 256 * MIB)

    def test_memory_for_a_long_text_does_not_depend_on_the_vocabulary(self):
        write_model(self.folder / "wide", vocabulary=65_536)
        process, address = self.start("wide", model=self.folder / "wide")
        path = self.text("long.txt", 480_000)
        with Peak(process) as peak:
            total = self.score("--server", address, path, timeout=600)
        self.assertGreater(total["tokens_scored"], 131_072)
        print(f"{total['tokens_scored']} tokens, {peak.gained / MIB:.0f} MiB", file=sys.stderr)
        self.assertLess(peak.gained, 256 * MIB)

    def files(self, count, size=20_000):
        return [self.text(f"{i}.txt", size, begin=i * size) for i in range(count)]

    def test_several_servers_give_the_results_of_one(self):
        servers = [self.start(name, model=TINY)[1] for name in ("a", "b")]
        files = self.files(6)
        one = self.score("--server", servers[0], *files)
        alone = self.score("--servers", servers[0], *files)
        both = self.score("--servers", ",".join(servers), *files)
        self.assertEqual(both, alone)
        self.assertEqual([text["file"] for text in both["files"]], list(map(str, files)))
        self.assertEqual(both["files"], one["files"])
        self.assertAlmostEqual(both["dense"]["nll_sum"], one["dense"]["nll_sum"], places=6)

    def test_the_texts_of_a_killed_server_are_scored_again(self):
        (first, a), (_, b) = (self.start(name, model=TINY) for name in ("a", "b"))
        files = self.files(40)
        expected = self.score("--servers", b, *files)
        client = subprocess.Popen(
            [CLIENT, "score", "--json", "--servers", f"{a},{b}", *map(str, files)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        while "0 running" in self.kascade("--server", a, "info").stdout:
            self.assertIsNone(client.poll(), "done before the first server was at work")
        first.send_signal(signal.SIGKILL)
        out, err = client.communicate(timeout=240)
        self.assertEqual(client.returncode, 0, err)
        self.assertIn("is scored again", err)
        self.assertEqual(json.loads(out), expected)

    def test_a_server_that_is_not_there_is_left_out(self):
        _, address = self.start("a")
        [path] = self.files(1)
        done = self.kascade("score", "--json", path, "--servers", f"127.0.0.1:1,{address}")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("without ipv4:127.0.0.1:1", done.stderr)
        done = self.kascade("score", "--json", path, "--servers", "127.0.0.1:1")
        self.assertEqual(done.returncode, 1)
        self.assertTrue(done.stderr.startswith("kascade: UNAVAILABLE: no server answers"), done.stderr)

    def test_servers_that_differ_are_refused(self):
        _, a = self.start("a")
        _, b = self.start("b", model=TINY)
        _, c = self.start("c", "--weights", "int8")
        [path] = self.files(1)
        for other, what in ((b, "the weights of"), (c, "the format of weights of")):
            done = self.kascade("score", path, "--servers", f"{a},{other}")
            self.assertEqual(done.returncode, 1)
            self.assertTrue(done.stderr.startswith("kascade: FAILED_PRECONDITION: --servers: " + what),
                            done.stderr)

    def test_servers_with_tls_need_one_name(self):
        [path] = self.files(1)
        done = self.kascade("--tls", "score", path, "--servers", "localhost:1,127.0.0.1:1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("with TLS all must have one host name", done.stderr)

    def test_priority_is_taken_by_every_command(self):
        _, address = self.start("a", "--max-wait-seconds", 0)
        [path] = self.files(1)
        for priority in ("interactive", "batch"):
            for command in (("score", path), ("generate", "The pass key", "--max-tokens", 2)):
                done = self.kascade("--server", address, *command, "--priority", priority)
                self.assertEqual(done.returncode, 0, done.stderr)
        done = self.kascade("--server", address, "score", path, "--priority", "urgent")
        self.assertEqual(done.returncode, 2)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    SERVER, CLIENT = (str(pathlib.Path(path).resolve()) for path in sys.argv[1:3])
    del sys.argv[1:3]
    unittest.main()
