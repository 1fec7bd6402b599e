#!/usr/bin/env python3
"""The command-line client against a real server on the bundled model.

Usage: client_test.py SERVER CLIENT [unittest arguments]
"""

import csv
import json
import math
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

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/demo"
LAYERS = json.loads((MODEL / "config.json").read_text())["num_hidden_layers"]
# gRPC's core reads these; a test must not depend on the caller's.
ENVIRONMENT = {key: value for key, value in os.environ.items()
               if key not in ("KASCADE_SERVER", "GRPC_VERBOSITY", "GRPC_TRACE")}

# Quick to make, coarse, and accepted by a generous quality check.
QUICK = ["--window-tokens", "512", "--min-keys", "32", "--dense-layers", "1,2,3"]

server_path = client_path = None
server = address = scratch = None


def start_server(model, name):
    """A server on free ports: (process, address). Its log is scratch/NAME.log."""
    ports = scratch / f"{name}.ports"
    with open(scratch / f"{name}.log", "w") as log:
        process = subprocess.Popen(
            [server_path, "--model", model, "--listen", "127.0.0.1:0",
             "--metrics-listen", "127.0.0.1:0", "--port-file", ports],
            stdout=log, stderr=subprocess.STDOUT, env=ENVIRONMENT)
    deadline = time.monotonic() + 120
    while not ports.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError("no server:\n" + (scratch / f"{name}.log").read_text())
        time.sleep(0.05)
    return process, "127.0.0.1:" + ports.read_text().split()[0]


def setUpModule():
    global server, address, scratch
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="kascade-client-test-"))
    text = (MODEL / "calibration.txt").read_text()
    (scratch / "calibration.txt").write_text(text[:45_000])
    (scratch / "other.txt").write_text(text[50_000:95_000])
    (scratch / "domain.txt").write_text(text[50_000:66_000])
    held_out = (MODEL / "evaluation.txt").read_text()
    (scratch / "short.txt").write_text(held_out[:3_000])
    (scratch / "evaluation.txt").write_text(held_out[:12_000])
    server, address = start_server(MODEL, "server")


def tearDownModule():
    server.terminate()
    code = server.wait(timeout=60)
    log = (scratch / "server.log").read_text()
    shutil.rmtree(scratch)
    if code != 0:
        raise AssertionError(f"the server ended with {code}:\n{log}")


def kascade(*arguments, stdin="", to=None, timeout=300):
    """Runs the client; arguments as typed."""
    return subprocess.run([client_path, "--server", to or address, *map(str, arguments)],
                          input=stdin, capture_output=True, text=True, timeout=timeout,
                          env=ENVIRONMENT)


def interrupt_at(word, *arguments):
    """Ctrl-C as soon as a line on standard error begins with the word; (exit code, out, err)."""
    process = subprocess.Popen([client_path, "--server", address, *map(str, arguments)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=ENVIRONMENT)
    line = process.stderr.readline()
    if not line.startswith(word):
        raise AssertionError(line + process.stderr.read())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, line + err


class ClientTest(unittest.TestCase):
    def good(self, *arguments, **options):
        done = kascade(*arguments, **options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def json(self, *arguments, expect=0, **options):
        """The one object on standard output."""
        done = kascade(*arguments, "--json", **options)
        self.assertEqual(done.returncode, expect, done.stderr)
        value = json.loads(done.stdout)
        self.assertIsInstance(value, dict)
        self.assertEqual(done.stdout.count("\n"), 1, "one line, one object")
        return value

    def bad(self, *arguments, code, exit_code=1, **options):
        """The one line on standard error, less its beginning."""
        done = kascade(*arguments, **options)
        self.assertEqual(done.returncode, exit_code, done.stdout + done.stderr)
        self.assertEqual(done.stdout, "")
        lines = done.stderr.splitlines()
        self.assertEqual(len(lines), 1, done.stderr)
        begin = f"kascade: {code}: "
        self.assertTrue(lines[0].startswith(begin), lines[0])
        return lines[0][len(begin):]


class WithoutServer(ClientTest):
    def test_unreachable_server_is_named_soon(self):
        begin = time.monotonic()
        for command in (["health"], ["info", "--json"], ["generate", "x"], ["schedule"],
                        ["score", MODEL / "evaluation.txt"], ["jobs"]):
            message = self.bad(*command, code="UNAVAILABLE", to="127.0.0.1:1")
            self.assertIn("127.0.0.1:1", message)
        self.assertLess(time.monotonic() - begin, 30)

    def test_files_are_checked_before_any_call(self):
        (scratch / "empty.txt").write_text("")
        (scratch / "latin1.txt").write_bytes("caf\u00e9 au lait".encode("latin-1"))
        (scratch / "surrogate.txt").write_bytes(b"a\xed\xa0\x80b")
        for command in ("score", "calibrate"):
            for name, code in (("missing.txt", "NOT_FOUND"), ("empty.txt", "INVALID_ARGUMENT"),
                               ("latin1.txt", "INVALID_ARGUMENT"),
                               ("surrogate.txt", "INVALID_ARGUMENT")):
                # No server there: the file is what is told.
                message = self.bad(command, scratch / name, code=code, to="127.0.0.1:1")
                self.assertIn(name, message)
        self.bad("score", scratch, code="FAILED_PRECONDITION", to="127.0.0.1:1")
        self.bad("activate", "missing.json", code="NOT_FOUND", to="127.0.0.1:1")
        self.bad("calibrate", scratch / "short.txt", "--out", scratch / "no/such/place",
                 code="NOT_FOUND", to="127.0.0.1:1")

    def test_usage(self):
        for command in ([], ["frobnicate"], ["score"], ["generate"],
                        ["score", "a", "--mode", "fast"],
                        ["generate", "a", "--temperature", "warm"],
                        ["generate", "a", "--max-tokens", "1.5"],
                        ["generate", "a", "b"], ["health", "--unknown"],
                        ["calibrate", "a", "--anchors", "many"],
                        ["calibrate", "a", "--dense-layers", "1,,2"],
                        ["calibrate", "a", "--preset", "best"],
                        ["calibrate", "a", "--threshold", "automatic"],
                        ["calibrate", "a", "--threshold", "nan"],
                        ["calibrate", "a", "--threshold", "1.5"],
                        ["calibrate", "a", "--max-tokens-per-text", "many"],
                        ["calibrate", "a", "--pooling", "mean"],
                        ["score", "a", "--baseline", "best"],
                        ["score", "a", "--page-size", "16"],
                        ["score", "a", "--first", "sparse"],
                        ["score", "a", "--second", "quest,pages=3"],
                        ["score", "a", "--baseline", "quest", "--dense-layers", "few"],
                        ["score", "a", "--baseline", "window"],
                        ["score", "a", "--baseline", "chunk", "--window", "9"],
                        ["score", "a", "--chunk", "9"],
                        ["score", "a", "--window", "9", "--window-tokens", "9"],
                        ["generate", "a", "--baseline", "window"],
                        ["generate", "a", "--window", "9"],
                        ["info", "--timeout", "-1"]):
            self.bad(*command, code="INVALID_ARGUMENT", exit_code=2)
        self.assertIn("frobnicate", self.bad("frobnicate", code="INVALID_ARGUMENT", exit_code=2))

    def test_help(self):
        for command in ([], ["calibrate"], ["score"], ["generate"], ["tokenize"], ["detokenize"],
                        ["info"], ["health"], ["schedule"], ["schedules"], ["activate"],
                        ["deactivate"], ["jobs"], ["watch"], ["cancel"], ["jobs", "delete"],
                        ["schedules", "delete"]):
            self.assertIn("Usage", self.good(*command, "--help"))
        self.assertRegex(self.good("--version"), r"^kascade \d+\.\d+\.\d+ \(commit ([0-9a-f]{7}|unknown)\)\n$")


class Dense(ClientTest):
    @classmethod
    def setUpClass(cls):
        kascade("deactivate")

    def test_health(self):
        self.assertEqual(self.good("health"), "SERVING\n")
        self.assertEqual(self.json("health"), {"status": "SERVING"})
        self.bad("health", "--service", "no.such.Service", code="NOT_FOUND")

    def test_info(self):
        info = self.json("info")
        self.assertEqual(info["model"]["layers"], LAYERS)
        self.assertEqual(info["model"]["vocab_size"], 4096)
        self.assertEqual(info["active_schedule_id"], "")
        self.assertEqual(len(info["model"]["weights_digest"]), 64)
        self.assertGreater(info["runtime"]["kv_pool_bytes"], 0)
        self.assertGreater(info["limits"]["max_sequences"], 0)
        self.assertIn(f"{LAYERS} layers", self.good("info"))

    def test_tokens_round_trip(self):
        text = "It was a cold morning: \u00a35, na\u00efve \u2013 12 \U0001f600"
        tokens = self.json("tokenize", text, "--no-bos", "--details")
        self.assertEqual(tokens["count"], len(tokens["token_ids"]))
        self.assertEqual(len(tokens["token_texts"]), tokens["count"])
        self.assertEqual(self.json("detokenize", *tokens["token_ids"])["text"], text)
        plain = self.good("tokenize", "-", "--no-bos", stdin=text + "\n")
        self.assertEqual(plain.split(), [str(token) for token in tokens["token_ids"]])
        with_bos = self.json("tokenize", text)["token_ids"]
        self.assertEqual(with_bos, [0] + tokens["token_ids"])
        self.bad("detokenize", 4096, code="INVALID_ARGUMENT")

    def test_generate(self):
        prompt = "The old man looked at her"
        options = ["--temperature", "0", "--max-tokens", "12"]
        result = self.json("generate", prompt, *options, "--logprobs", "2")
        self.assertEqual(result["mode"], "dense")
        self.assertEqual(result["finish_reason"], "max_new_tokens")
        self.assertEqual(result["generated_tokens"], 12)
        self.assertEqual(len(result["logprobs"]), 12)
        self.assertEqual([len(top["token_ids"]) for top in result["top"]], [2] * 12)
        self.assertEqual(result["keys_attended_ratio"], 1)
        self.assertGreater(result["timings"]["total_seconds"], 0)
        self.assertEqual(self.good("generate", prompt, *options), result["text"] + "\n")
        self.assertEqual(self.good("generate", "-", *options, stdin=prompt + "\n"),
                         result["text"] + "\n")

    def test_generate_is_seeded_and_stops(self):
        options = ["generate", "Once upon", "--max-tokens", "20"]
        first = self.json(*options, "--seed", "7")
        self.assertEqual(first["seed"], 7)
        self.assertEqual(self.json(*options, "--seed", "7")["text"], first["text"])
        # The prompt may follow --stop, which takes one value.
        greedy = ["--temperature", "0", "--max-tokens", "30"]
        whole = self.json("generate", "It was a", *greedy)["text"]
        stop = whole[5:9]
        cut = self.json("generate", *greedy, "--stop", stop, "--stop", "\u2603", "It was a")
        self.assertEqual(cut["finish_reason"], "stop_string")
        self.assertEqual(cut["stop_string"], stop)
        self.assertEqual(cut["text"], whole[:whole.index(stop)])

    def test_generate_refusals(self):
        message = self.bad("generate", "a", "--temperature", "-1", code="INVALID_ARGUMENT")
        self.assertIn("temperature", message)
        self.assertIn("-1", message)
        self.bad("generate", "", "--no-bos", code="INVALID_ARGUMENT")
        self.bad("generate", "a", "--max-tokens", "0", code="INVALID_ARGUMENT")
        self.bad("generate", "a", "--logprobs", "21", code="INVALID_ARGUMENT", exit_code=2)
        self.bad("generate", "word " * 5000, code="INVALID_ARGUMENT")
        self.bad("generate", "a", "--mode", "sparse", code="FAILED_PRECONDITION")

    def test_score(self):
        file = scratch / "short.txt"
        score = self.json("score", file, "--mode", "dense")
        self.assertEqual(score["mode"], "dense")
        self.assertNotIn("sparse", score)
        self.assertEqual(score["tokens_scored"], score["tokens"] - 1)
        self.assertAlmostEqual(score["dense"]["nll_sum"] / score["tokens_scored"],
                               score["dense"]["nll"], places=6)
        self.assertAlmostEqual(score["dense"]["bits_per_byte"], score["bits_per_byte"], places=9)
        self.assertFalse(score["suspect"])
        self.assertEqual(score["files"][0]["file"], str(file))
        without = self.json("score", file, "--mode", "dense", "--no-bos")
        self.assertEqual(without["tokens"], score["tokens"] - 1)
        self.assertIn("Perplexity", self.good("score", file))
        self.bad("score", file, "--mode", "compare", code="FAILED_PRECONDITION")

    def test_score_many_and_stdin(self):
        file = scratch / "short.txt"
        text = file.read_text()
        both = self.json("score", file, "-", "--mode", "dense", stdin=text)
        self.assertEqual(len(both["files"]), 2)
        self.assertEqual(both["tokens_scored"], 2 * both["files"][0]["tokens_scored"])
        self.assertAlmostEqual(both["files"][0]["dense"]["nll"], both["files"][1]["dense"]["nll"],
                               places=2)  # bf16, and in another place of the batch

    def test_score_protocols(self):
        file = scratch / "short.txt"
        whole = self.json("score", file, "--protocol", "whole")
        self.assertEqual((whole["words_scored"], whole["bytes_scored"]),
                         (len(re.split(r"\s+", file.read_text())), len(file.read_bytes())))
        tokens = whole["tokens"]
        self.assertEqual((whole["protocol"], whole["stride_tokens"]), ("whole", 0))
        rolling = self.json("score", file, "--protocol", "rolling", "--window", "101")
        self.assertEqual(rolling["windows"], -(-(tokens - 1) // 100))
        chunk = self.json("score", file, "--protocol", "chunk", "--window", "100", "--bos")
        self.assertEqual(chunk["tokens_scored"], tokens // 100 * 49)
        self.assertTrue(chunk["begins_with_bos"])
        strided = self.json("score", file, "--protocol", "strided", "--window-tokens", "100",
                            "--stride", "25")
        self.assertEqual((strided["tokens_scored"], strided["stride_tokens"]), (tokens - 1, 25))
        self.assertLess(whole["dense"]["nll"], strided["dense"]["nll"])
        self.assertLess(strided["dense"]["nll"], rolling["dense"]["nll"])
        run, size = strided["dense"], strided["bytes_scored"]
        self.assertAlmostEqual(run["byte_perplexity"], 2 ** run["bits_per_byte"], places=9)
        self.assertAlmostEqual(math.log(run["word_perplexity"]) * strided["words_scored"],
                               math.log(run["byte_perplexity"]) * size, places=6)
        text = self.good("score", file, "--protocol", "strided", "--window", "64", "--tokens")
        self.assertIn("of at most 64 tokens, stride 32, with BOS", text)
        self.bad("score", file, "--stride", "4", code="INVALID_ARGUMENT")
        self.bad("score", file, "--protocol", "chunk", "--window", "1000", code="INVALID_ARGUMENT")

    def test_score_tokens(self):
        columns = self.json("score", "-", "--mode", "dense", "--tokens",
                            stdin="It was a cold morning")["files"][0]["token_columns"]
        self.assertEqual(columns["positions"], list(range(1, len(columns["token_ids"]) + 1)))
        self.assertEqual(columns["texts"][:3], ["It", "\u0120was", "\u0120a"])
        self.assertTrue(all(logprob < 0 for logprob in columns["logprobs"]))
        table = self.good("score", "-", "--mode", "dense", "--tokens", stdin="It was a cold day")
        self.assertIn("\u0120cold", table)

    def test_baselines(self):
        file = scratch / "short.txt"
        attended = {}
        for kind in ("oracle", "streaming", "quest"):
            score = self.json("score", file, "--mode", "compare", "--baseline", kind, "--ratio",
                              "0.2", "--min-keys", "32", "--dense-layers", "0")
            self.assertEqual(score["baseline"]["kind"], kind)
            self.assertEqual(score["baseline"]["dense_layers"], [0])
            self.assertEqual(score["schedule_id"], "")
            self.assertGreater(score["mean_kl"], 0)
            attended[kind] = score["keys_attended_ratio"]
        self.assertEqual(attended["oracle"], attended["streaming"])
        # Whole pages: less than one page fewer.
        self.assertLessEqual(attended["quest"], attended["oracle"])
        self.assertGreater(attended["quest"], attended["oracle"] - 0.02)
        self.assertIn("baseline quest", self.good("score", file, "--baseline", "quest"))
        result = self.json("generate", file.read_text(), "--max-tokens", "2", "--baseline",
                           "streaming", "--ratio", "0.05", "--min-keys", "0", "--dense-layers",
                           "none")
        self.assertEqual((result["mode"], result["baseline"]["sink_keys"]), ("sparse", 4))
        self.assertLess(result["keys_attended_ratio"], 0.3)

    def test_window_and_chunk(self):
        file, text = scratch / "short.txt", (scratch / "short.txt").read_text()
        rows = self.json("score", file, "--mode", "dense")["positions"]  # the last token is not fed
        causal = rows * (rows + 1) // 2
        for kind, size in (("window", 33), ("chunk", 48)):
            score = self.json("score", file, "--mode", "compare", "--baseline", kind,
                              f"--{kind}", str(size))
            self.assertEqual(score["baseline"], {"kind": kind, kind: size, "dense_layers": []})
            keys = sum(min(t + 1, size) if kind == "window" else t % size + 1 for t in range(rows))
            self.assertAlmostEqual(score["keys_attended_ratio"], keys / causal, places=12)
            self.assertAlmostEqual(score["kv_bytes_read_per_token"] /
                                   score["dense_kv_bytes_read_per_token"], keys / causal, places=12)
            self.assertGreater(score["mean_kl"], 0)
            by_choice = self.json("score", file, "--second", f"{kind},{kind}={size}")
            self.assertEqual(by_choice["sparse"], score["sparse"])
            whole = self.json("score", file, "--mode", "compare", "--baseline", kind,
                              f"--{kind}", "4096")
            self.assertEqual(whole["keys_attended_ratio"], 1)
            self.assertLess(whole["mean_kl"], 1e-3)
            result = self.json("generate", text, "--max-tokens", "2", "--baseline", kind,
                               f"--{kind}", "16")
            self.assertEqual(result["baseline"][kind], 16)
            self.assertLess(result["keys_attended_ratio"], 0.3)
        # --window is the protocol's where no baseline of this name takes it.
        both = self.json("score", file, "--baseline", "window", "--window", "33",
                         "--window-tokens", "65")
        self.assertEqual((both["baseline"]["window"], both["window_tokens"]), (33, 65))
        self.assertEqual(self.json("score", file, "--baseline", "quest", "--window", "65")
                         ["window_tokens"], 65)

    def test_no_schedule(self):
        self.bad("schedule", code="NOT_FOUND")
        self.bad("schedule", "0" * 64, code="NOT_FOUND")
        self.bad("activate", "0" * 64, code="NOT_FOUND")
        self.bad("activate", "0" * 300, code="NOT_FOUND")
        self.bad("watch", "nothing", code="NOT_FOUND")
        self.bad("cancel", "nothing", code="NOT_FOUND")
        self.bad("jobs", "delete", "nothing", code="NOT_FOUND")
        self.bad("schedules", "delete", "nothing", code="NOT_FOUND")
        (scratch / "no-schedule.json").write_text('{"format_version": 1}')
        self.bad("activate", scratch / "no-schedule.json", code="INVALID_ARGUMENT")

    def test_timeout(self):
        done = kascade("score", MODEL / "calibration.txt", "--timeout", "0.05")
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
        # Lines of progress may stand before the error.
        message = done.stderr.splitlines()[-1]
        self.assertTrue(message.startswith("kascade: DEADLINE_EXCEEDED: "), message)
        self.assertIn("0.05 s", message)

    def test_interrupt_cancels(self):
        code, out, err = interrupt_at("scoring", "score", MODEL / "calibration.txt", "--json")
        self.assertEqual((code, out), (1, ""))
        self.assertEqual(err.splitlines()[-1], "kascade: CANCELLED: interrupted")

    def test_calibrate_refusals(self):
        self.bad("calibrate", scratch / "short.txt", "--json", code="INVALID_ARGUMENT")
        text = scratch / "calibration.txt"
        self.assertIn("--max-tokens-per-text",
                      self.bad("calibrate", text, "--max-tokens-per-text", "0",
                               code="INVALID_ARGUMENT", exit_code=2))
        for options in (["--ratio", "0"], ["--ratio", "1.5"], ["--top-k", "4", "--select", "kascade"],
                        ["--threshold", "0.5", "--maker", "dp"],
                        ["--threshold", "auto", "--anchors", "3"],
                        ["--anchors", str(LAYERS + 1)], ["--dense-layers", str(LAYERS)],
                        ["--select", "tile", "--ratio", "0.1"],
                        ["--preset", "long", "--ratio", "0.1"]):
            message = self.bad("calibrate", text, *options, "--json", code="INVALID_ARGUMENT")
            self.assertTrue(message.startswith("--"), message)  # an option, no field of the API
            self.assertNotIn("_", message)

    def test_calibrate_says_how_much_text_is_missing(self):
        (scratch / "rows.txt").write_text("\n\n = Heading = \n a few words only\n" * 20)
        for options in (["--lines"], []):
            message = self.bad("calibrate", scratch / "rows.txt", *options, "--json",
                               code="INVALID_ARGUMENT")
            self.assertRegex(message, r"^FILE: the held-out parts .* have \d+ tokens .*at least "
                                      r"1024; add \d+ tokens or more, about \d+ words$")
        message = self.bad("calibrate", scratch / "calibration.txt", "--held-out",
                           scratch / "rows.txt", "--json", code="INVALID_ARGUMENT")
        self.assertRegex(message, r"^--held-out: the texts have .* about \d+ words$")
        (scratch / "blank.txt").write_text("\n \n")
        self.assertIn("blank.txt", self.bad("calibrate", scratch / "blank.txt", "--lines",
                                            code="INVALID_ARGUMENT"))


def chat_model():
    """The bundled model with its four last tokens renamed to what Llama 3's chats need."""
    folder = scratch / "chat-model"
    folder.mkdir()
    for file in MODEL.iterdir():
        (folder / file.name).symlink_to(file)
    tokenizer = json.loads((MODEL / "tokenizer.json").read_text())
    model = tokenizer["model"]
    names = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    first = len(model["vocab"]) - len(names)
    model["vocab"] = {text: id for text, id in model["vocab"].items() if id < first}
    parts = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    model["merges"] = [merge for merge in parts
                       if {*merge, "".join(merge)} <= model["vocab"].keys()]
    tokenizer["added_tokens"] += [{"id": first + i, "content": name, "special": True,
                                   "normalized": False} for i, name in enumerate(names)]
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


class Chat(ClientTest):
    @classmethod
    def setUpClass(cls):
        cls.process, cls.address = start_server(chat_model(), "chat")

    @classmethod
    def tearDownClass(cls):
        cls.process.terminate()
        cls.process.wait(timeout=60)

    def test_chat(self):
        options = ["--temperature", "0", "--max-tokens", "4"]
        question = "Who <|eot_id|> are you?"
        chat = self.json("generate", "--chat", question, *options, to=self.address)
        # The same prompt spelled out, its own tokens and the question's as text: 8 bytes of
        # <|eot_id|> are several tokens.
        spelled = ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
                   "<|start_header_id|>assistant<|end_header_id|>\n\n")
        count = self.json("tokenize", spelled.format(""), "--no-bos", "--parse-special",
                          to=self.address)["count"]
        count += self.json("tokenize", question, "--no-bos", to=self.address)["count"]
        self.assertEqual(chat["prompt_tokens"], count)
        told = self.json("generate", "--chat", "--system", "Be brief.", "-", *options,
                         stdin=question + "\n", to=self.address)
        self.assertGreater(told["prompt_tokens"], count)
        named = self.json("generate", "--chat", "--chat-format", "llama3", question, *options,
                          to=self.address)
        self.assertEqual(named["text"], chat["text"])

    def test_recall_in_a_chat(self):
        recall = ("eval", "--suite", "recall", "--held-out", MODEL / "evaluation.txt", "--cases",
                  "5", "--lengths", "256")
        self.assertEqual(kascade("calibrate", scratch / "calibration.txt", *QUICK, "--anchors", "6",
                                 "--max-degradation", "100", to=self.address).returncode, 0)
        for choice, asked_in in (("auto", "chat in the format llama3"), ("off", "plain text")):
            result = self.json(*recall, "--chat", choice, to=self.address)
            self.assertEqual(result["asked_in"], asked_in)
            self.assertEqual([sums["tokens"] for sums in result["by_length"]], [256, 256])

    def test_special_tokens_are_spelled(self):
        score = self.json("score", "-", "--mode", "dense", "--tokens", "--parse-special",
                          stdin="Who <|eot_id|> are you?", to=self.address)
        self.assertIn("<|eot_id|>", score["files"][0]["token_columns"]["texts"])

    def test_refusals(self):
        self.assertIn("<s>", self.bad("generate", "--chat", "--chat-format", "llama2", "a",
                                      code="FAILED_PRECONDITION", to=self.address))
        # The bundled model has no header tokens.
        self.assertIn("name the chat format",
                      self.bad("generate", "--chat", "a", code="FAILED_PRECONDITION"))
        for options in (["--system", "a"], ["--chat-format", "llama3"], ["--chat", "--no-bos"],
                        ["--chat", "--parse-special"], ["--chat", "--chat-format", "other"]):
            self.assertEqual(kascade("generate", "a", *options).returncode, 2, options)


class Sparse(ClientTest):
    @classmethod
    def setUpClass(cls):
        kascade("deactivate")
        cls.out = scratch / "schedule.json"
        done = kascade("calibrate", scratch / "calibration.txt", *QUICK, "--anchors", "6",
                       "--max-degradation", "100", "--out", cls.out, "--json")
        if done.returncode != 0:
            raise AssertionError(done.stderr)
        cls.progress = done.stderr
        cls.result = json.loads(done.stdout)
        cls.id = cls.result["schedule"]["schedule_id"]

    def test_calibrate_json(self):
        result = self.result
        self.assertTrue(result["passed"])
        self.assertTrue(result["activated"])
        self.assertEqual(len(result["schedule"]["layers"]), LAYERS)
        self.assertEqual(json.loads(self.out.read_text()), result["schedule"])
        candidate = result["candidates"][-1]
        self.assertEqual(candidate["anchors"], 6)
        self.assertEqual(candidate["dense_layers"], 3)
        for key in ("predicted_similarity", "degradation_percent", "mean_kl", "same_top1",
                    "keys_attended_ratio", "passed"):
            self.assertIn(key, candidate)
        self.assertRegex(self.progress, r"measuring +100 %|gating")

    def test_calibrate_again_gives_the_same_at_once(self):
        done = kascade("calibrate", scratch / "calibration.txt", *QUICK, "--anchors", "6",
                       "--max-degradation", "100")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(self.id, done.stdout)
        lines = [line for line in done.stdout.splitlines()
                 if re.match(r" *\d+  (DENSE|ANCHOR|REUSE) ", line)]
        self.assertEqual(len(lines), LAYERS)
        self.assertRegex(done.stdout, r"Total: \d+ REUSE, \d+ ANCHOR/DENSE \(6 anchors, layer 0 "
                                      r"counted, and 3 more dense\)")
        self.assertRegex(done.stdout, r"(?m)^ *6 +3 .*passed$")
        self.assertIn("Verdict: PASSED", done.stdout)
        self.assertNotIn("\033", done.stdout + done.stderr)

    def test_schedule(self):
        shown = self.json("schedule")
        self.assertTrue(shown["active"])
        self.assertEqual(shown["schedule"], self.result["schedule"])
        self.assertIn("REUSE", self.good("schedule", self.id))
        listed = self.json("schedules")
        self.assertEqual(listed["active_schedule_id"], self.id)
        self.assertIn(self.id, [entry["schedule_id"] for entry in listed["schedules"]])
        self.assertIn("active", self.good("schedules"))
        self.assertIn(self.id, self.bad("schedules", "delete", self.id, code="FAILED_PRECONDITION"))

    def test_activation(self):
        self.assertEqual(self.json("deactivate")["schedule_id"], self.id)
        self.bad("schedule", code="NOT_FOUND")
        self.good("activate", self.id)
        self.assertEqual(self.json("deactivate")["schedule_id"], self.id)
        self.assertEqual(self.json("activate", self.out)["schedule_id"], self.id)
        self.assertTrue(self.json("schedule")["active"])

    def test_experiments(self):
        result = self.json("calibrate", scratch / "other.txt", *QUICK, "--anchors", "7",
                           "--max-degradation", "100", "--no-activate", "--pooling", "max",
                           "--all-heads", "--published-head-map-slip", "--paper-decode",
                           "--sink-keys", "4", "--plan-weight", "importance", "--mass", "0.9",
                           "--max-ratio", "0.5")
        selection = result["schedule"]["selection"]
        self.assertEqual((selection["pooling"], selection["all_heads"], selection["sink_keys"],
                          selection["decode_own_tile"]), ("max", True, 4, False))
        self.assertEqual((selection["mass"], selection["max_ratio"]), (0.9, 0.5))
        self.assertTrue(result["schedule"]["calibration"]["published_head_map_slip"])
        self.assertFalse(result["schedule"]["calibration"].get("weighted_by_loss"))

    def test_tile_family_as_documented(self):
        """One line per layer with its reason, totals, perplexities, a verdict by its tiers."""
        shape = ["--select", "tile", "--maker", "greedy", "--tile-size", "16"]
        cases = [[*shape, "--top-k", "12", "--threshold", "0.65", "--max-reuse-dist", "4"],
                 [*shape, "--top-k", "4", "--threshold", "0.2"]]
        cases += [["--preset", name] for name in ("balanced", "conservative", "aggressive",
                                                  "large-model", "cpu-8b", "long")]
        reasons = set()
        for options in cases:
            done = kascade("calibrate", scratch / "other.txt", *options, "--no-activate",
                           "--window-tokens", "1024")
            # 3: nothing passed the quality check; what was found is shown all the same.
            self.assertIn(done.returncode, (0, 3), done.stderr)
            lines = done.stdout.splitlines()
            self.assertTrue(lines[0].startswith("Model "), lines[0])
            self.assertRegex(lines[1], r"^Options +(preset|family tile, maker greedy, tiles of 16)")
            layers = [line.split() for line in lines
                      if re.match(r" *\d+  (DENSE|ANCHOR|REUSE) ", line)]
            self.assertEqual([int(cells[0]) for cells in layers], list(range(LAYERS)))
            for cells in layers:
                if cells[1] == "ANCHOR":
                    # No similarity and none of its spread; recall, importance, no head map.
                    self.assertRegex(" ".join(cells[2:10]), r"^- - - - - \d+\.\d\d % \d\.\d{4}$")
                    reason = " ".join(cells[11:]).split(":")[0]
                    self.assertIn(reason, ("first sparse layer", "low similarity", "distance"))
                    reasons.add(reason)
                elif cells[1] == "REUSE":
                    self.assertRegex(" ".join(cells[2:13]), r"^L\d+( \d+\.\d\d %){5}$")
            self.assertRegex(done.stdout, r"Total: \d+ REUSE, \d+ ANCHOR/DENSE")
            self.assertRegex(done.stdout, r"Dense perplexity +\d+\.\d{4}\nSparse perplexity +"
                             r"\d+\.\d{4}\nDegradation +[+-]\d+\.\d{4} % ± \d+\.\d{4}\n")
            # The limit of the quality check is the only threshold of the report.
            self.assertNotRegex(done.stdout, "SUCCESS|GOOD|TOO MUCH|below [0-9]+ %")
            self.assertRegex(done.stdout, "Verdict: (PASSED|NOT PASSED)")
            self.assertNotIn("-0.0000 %", done.stdout)
            if options == cases[0]:
                self.assertIn("65.00 %", done.stdout)
        self.assertLessEqual({"first sparse layer", "low similarity"}, reasons)

    def test_options_are_echoed(self):
        done = kascade("calibrate", scratch / "other.txt", *QUICK, "--anchors", "7", "--sink-keys",
                       "4", "--pooling", "max", "--paper-decode", "--plan-weight", "importance",
                       "--max-degradation", "100", "--no-activate")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.splitlines()[1],
                         "Options      at least 32 keys, 7 anchors, dense layers 1, 2, 3, windows "
                         "of 512 tokens, perplexity at most 100 % worse, 4 sink keys, pooling max, "
                         "layers weighted by importance, own tile not forced in decoding")

    def test_calibrate_without_activation(self):
        quick = [option if option != "1,2,3" else "3,1,0,2,2" for option in QUICK]
        result = self.json("calibrate", scratch / "other.txt", *quick, "--anchors", "7",
                           "--max-degradation", "100", "--no-activate", "--plan-weight", "importance")
        self.assertTrue(result["passed"])
        self.assertFalse(result["activated"])
        requested = result["schedule"]["calibration"]["requested"]
        self.assertEqual(requested["dense_layers"], [1, 2, 3])
        self.assertEqual(self.json("schedule")["schedule"]["schedule_id"], self.id)

    def test_jobs(self):
        jobs = self.json("jobs")["calibrations"]
        mine = [job for job in jobs if job["calibration_id"] == self.result["calibration_id"]]
        self.assertEqual([job["state"] for job in mine], ["succeeded"])
        self.assertIn("succeeded", self.good("jobs"))
        watched = self.json("watch", self.result["calibration_id"])
        self.assertEqual(watched["schedule"], self.result["schedule"])
        self.assertEqual(self.json("cancel", self.result["calibration_id"])["state"], "succeeded")

    def test_quality(self):
        out = scratch / "quality"
        self.good("activate", self.id, "--force")
        said = self.good("eval", "--calibration", scratch / "calibration.txt", "--held-out",
                         MODEL / "evaluation.txt", "--other", scratch / "domain.txt", "--groups", "domain",
                         "--tokens", "600", "--cases", "5", "--default-cases", "5", "--out", out,
                         timeout=1200)
        self.assertIn("Automatic schedule", said.splitlines()[0])
        with open(out / "quality.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual([row["group"] for row in rows], ["kascade"] + 4 * ["domain"])
        for row in rows:
            self.assertGreater(float(row["mean_kl_512"]), 0, row["row"])
            self.assertEqual(row["mean_kl_2048"], "")  # so many tokens are not scored
        # The other text differs from the held-out one, and the schedule may.
        self.assertNotEqual(rows[1]["mean_kl_512"], rows[2]["mean_kl_512"])
        self.assertEqual([int(row["tokens"]) for row in rows], [600] + 4 * [1800])
        for name in ("quality", "similarity", "schedule", "recall"):
            self.assertIn("</svg>", (out / f"{name}.svg").read_text())
        check = pathlib.Path(__file__).with_name("quality_docs_test.py")
        done = subprocess.run([sys.executable, str(check), str(out)], capture_output=True,
                              text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        # The schedule of before is active again.
        self.assertEqual(self.json("schedule")["schedule"]["schedule_id"], self.id)

    def test_quality_refuses_a_text_that_was_calibrated_on(self):
        whole = MODEL / "calibration.txt"
        for texts in (["--calibration", whole, "--held-out", whole],
                      ["--calibration", scratch / "other.txt", "--held-out", whole],
                      ["--calibration", whole, "--held-out", MODEL / "evaluation.txt", "--other",
                       scratch / "other.txt"]):
            message = self.bad("eval", "--suite", "quality", *texts, "--out", scratch / "no-report",
                               code="INVALID_ARGUMENT")
            self.assertIn("part of the other", message)

    def test_quality_needs_a_folder(self):
        done = kascade("eval", "--held-out", MODEL / "evaluation.txt")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--out is required", done.stderr)

    def test_recall(self):
        command = ("eval", "--suite", "recall", "--held-out", MODEL / "evaluation.txt", "--cases",
                   "5")
        result = self.json(*command)
        self.assertEqual(result["asked_in"], "plain text")  # the model has no chat template
        cells = result["pass_keys"]
        self.assertEqual(sorted({cell["tokens"] for cell in cells}), [1024, 2048, 4084])
        self.assertEqual([cell["cases"] for cell in cells], 15 * [1])
        # The bundled model is made for this.
        self.assertGreaterEqual(sum(cell["dense_found"] for cell in cells), 13)
        several = result["several_pass_keys"]
        self.assertEqual([(cell["tokens"], cell["keys"], cell["cases"]) for cell in several],
                         [(1024, 4, 5), (2048, 4, 5), (4084, 4, 5)])
        self.assertEqual([(sums["tokens"], sums["keys"]) for sums in result["by_length"]],
                         [(n, keys) for keys in (1, 4) for n in (1024, 2048, 4084)])
        for sums in result["by_length"]:
            self.assertEqual(sums["dense_found"] - sums["sparse_found"],
                             sums["dense_only"] - sums["sparse_only"])
            self.assertAlmostEqual(sums["difference_points"],
                                   20 * (sums["dense_only"] - sums["sparse_only"]))
            self.assertTrue(0 < sums["p_value"] <= 1)
        text = self.good(*command, "--lengths", "1024", "--needles", "2").splitlines()
        self.assertEqual(text[0], "Asked in plain text.")
        found = sum(cell["sparse_found"] for cell in cells if cell["tokens"] == 1024)
        self.assertIn(f"/5 found dense, {found}/5 sparse", text[1])
        self.assertIn("One of 2 pass keys in 1024 tokens: ", text[2])
        self.assertEqual(len(text), 3)

    def test_recall_refusals(self):
        recall = ("eval", "--suite", "recall", "--held-out")
        whole = MODEL / "evaluation.txt"
        self.assertIn("at most 4084", self.bad(*recall, whole, "--lengths", "1024,4085",
                                               code="INVALID_ARGUMENT"))
        self.assertIn("prompts of 2048 tokens need as many",
                      self.bad(*recall, scratch / "short.txt", "--lengths", "2048",
                               code="INVALID_ARGUMENT"))
        self.assertIn("name the chat format", self.bad(*recall, whole, "--chat", "on",
                                                       code="FAILED_PRECONDITION"))
        for options in (["--chat", "maybe"], ["--needles", "1"], ["--lengths", "20"]):
            self.assertEqual(kascade(*recall, whole, *options).returncode, 2, options)
        for options in (["--lengths", "1024"], ["--needles", "3"]):
            done = kascade("eval", "--calibration", MODEL / "calibration.txt", "--held-out", whole,
                           "--out", scratch / "no-report", *options)
            self.assertEqual(done.returncode, 2, options)

    def test_compare(self):
        score = self.json("score", scratch / "evaluation.txt", "--mode", "compare")
        for key in ("tokens", "tokens_scored", "degradation_percent", "mean_kl", "same_top1",
                    "reuse_layers_ratio", "keys_attended_ratio", "keys_scored_ratio",
                    "kv_bytes_read_per_token", "dense_kv_bytes_read_per_token", "phase",
                    "suspect", "suspect_causes", "protocol", "windows", "bits_per_byte"):
            self.assertIn(key, score)
        self.assertEqual((score["mode"], score["phase"]), ("compare", "row"))
        degradation = (score["sparse"]["perplexity"] / score["dense"]["perplexity"] - 1) * 100
        self.assertAlmostEqual(score["degradation_percent"], degradation, places=6)
        self.assertLess(score["keys_attended_ratio"], 1)
        self.assertLess(score["kv_bytes_read_per_token"], score["dense_kv_bytes_read_per_token"])
        # Layers 0 to 3 dense, of which the first counts as one of 6 anchors, reuse in all but 9.
        self.assertEqual(score["reuse_layers_ratio"], (LAYERS - 9) / LAYERS)

    def test_compare_text_and_modes(self):
        file = scratch / "short.txt"
        text = self.good("score", file, "--mode", "compare", "--tokens")
        for word in ("Dense", "Sparse", "Degradation", "Keys attended", "KV read", "Verdict",
                     "KL (nats)"):
            self.assertIn(word, text)
        sparse = self.json("score", file)
        self.assertEqual(sparse["mode"], "sparse")
        self.assertNotIn("dense", sparse)
        self.assertEqual(self.json("score", file, "--phase", "tile")["phase"], "tile")
        both = self.json("score", file, "--mode", "compare", "--phase", "both")
        self.assertEqual(list(both["logprob_difference_percentiles"]),
                         ["0.1", "1", "5", "25", "50", "75", "95", "99", "99.9"])
        values = list(both["tile"]["logprob_difference_percentiles"].values())
        self.assertEqual(values, sorted(values))
        self.assertLess(both["mean_kl"], both["max_kl"])
        self.assertGreater(both["degradation_percent_standard_error"], 0)
        text = self.good("score", file, "--mode", "compare", "--phase", "both")
        self.assertRegex(text, r"Per-query selection +Per-tile selection")
        self.assertIn("99.9 % are below", text)
        self.bad("score", file, "--mode", "dense", "--phase", "both", code="INVALID_ARGUMENT")
        # Every key chosen is dense attention.
        everything = ("score", file, "--mode", "compare", "--ratio", "1")
        self.assertAlmostEqual(self.json(*everything)["degradation_percent"], 0, places=1)
        text = self.good(*everything)
        self.assertIn("Verdict: NOTHING TO JUDGE", text)
        self.assertNotIn("SUCCESS", text)

    def test_any_two_runs_are_compared(self):
        file = scratch / "short.txt"
        active = self.json("info")["active_schedule_id"]
        same = self.json("score", file, "--first", "dense", "--second", "dense")
        self.assertEqual(same["mode"], "compare")
        self.assertEqual((same["mean_kl"], same["max_kl"], same["max_logprob_difference"]), (0, 0, 0))
        self.assertEqual(same["first"]["nll_sum"], same["second"]["nll_sum"])
        self.assertEqual(same["second"]["attention"], "dense")
        named = self.json("score", file, "--first", f"schedule:{active},ratio=0.5",
                          "--second", "quest,ratio=0.2,min_keys=16,dense_layers=none")
        self.assertEqual(named["first"]["attention"], {"schedule_id": active, "ratio": 0.5})
        self.assertEqual(named["first"]["schedule_id"], active)
        self.assertLess(named["first"]["keys_attended_ratio"], 1)
        self.assertEqual(named["baseline"]["kind"], "quest")
        self.assertEqual(named["baseline"]["dense_layers"], [])
        self.assertGreater(named["mean_kl"], 0)
        text = self.good("score", file, "--first", "schedule", "--second", "dense")
        self.assertIn(f"schedule {active} beside dense", text)
        self.assertRegex(text, r"First run +Second run")
        self.bad("score", file, "--first", "schedule:none", code="NOT_FOUND")
        self.bad("score", file, "--mode", "dense", "--second", "dense", code="INVALID_ARGUMENT")

    def test_demands(self):
        command = ["score", scratch / "short.txt", "--mode", "compare"]
        self.good(*command, "--keys-attended-below", "1", "--reuse-layers-at-least", "0.25",
                  "--degradation-below", "1000")
        for demand in (["--keys-attended-below", "0.01"],
                       ["--reuse-layers-at-least", "0.9"],
                       ["--degradation-below", "-50"]):
            done = kascade(*command, *demand)
            self.assertEqual(done.returncode, 3)
            self.assertIn("Verdict", done.stdout)
            self.assertRegex(done.stderr, r"kascade: FAILED_PRECONDITION: .*" + demand[0])
        for wrong in (["--keys-attended-below", "nan"], ["--reuse-layers-at-least", "1.5"],
                      ["--degradation-below", "inf"]):
            self.assertIn(wrong[0], self.bad(*command, *wrong, code="INVALID_ARGUMENT",
                                             exit_code=2))

    def test_generate(self):
        prompt = (MODEL / "pass-key.txt").read_text()
        done = kascade("generate", "-", "--max-tokens", "4", "--temperature", "0", "--stats",
                       stdin=prompt)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("sparse attention", done.stderr)
        result = self.json("generate", "-", "--max-tokens", "4", stdin=prompt)
        self.assertEqual((result["mode"], result["schedule_id"]), ("sparse", self.id))
        self.assertLess(result["keys_attended_ratio"], 1)
        dense = self.json("generate", "x", "--mode", "dense", "--max-tokens", "1")
        self.assertEqual((dense["mode"], dense["schedule_id"]), ("dense", ""))


class QualityCheck(ClientTest):
    """A schedule that is meant to fail: one selecting layer, hardly any keys."""

    COMMAND = ["calibrate", "calibration.txt", "--window-tokens", "512", "--anchors", "1",
               "--ratio", "0.01", "--min-keys", "1", "--max-degradation", "0"]

    def test_not_passed(self):
        kascade("deactivate")
        command = [self.COMMAND[0], scratch / self.COMMAND[1], *self.COMMAND[2:]]
        done = kascade(*command)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("NOT PASSED", done.stdout)
        self.assertTrue(done.stderr.splitlines()[-1].startswith(
            "kascade: FAILED_PRECONDITION: no candidate passed the quality check"), done.stderr)
        # The same job, as the object that calibrate --json prints.
        job = self.json("jobs")["calibrations"][0]
        self.assertEqual(job["state"], "succeeded")
        result = self.json("watch", job["calibration_id"], expect=3)
        self.assertFalse(result["passed"] or result["activated"])
        schedule = result["schedule"]["schedule_id"]
        self.bad("schedule", code="NOT_FOUND")
        self.assertIn("force", self.bad("activate", schedule, code="FAILED_PRECONDITION"))
        self.good("activate", schedule, "--force")
        self.assertEqual(self.json("schedule")["schedule"]["schedule_id"], schedule)
        self.good("deactivate")

    def test_nothing_saved(self):
        done = kascade("calibrate", scratch / "calibration.txt", "--window-tokens", "512",
                       "--select", "tile", "--maker", "greedy", "--threshold", "1")
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("saves nothing", done.stdout)
        self.assertIn("NOT PASSED: every layer attends to all keys", done.stdout)
        self.assertNotIn("SUCCESS", done.stdout)
        self.assertRegex(done.stderr.splitlines()[-1],
                         r"the highest similarity met is \d+\.\d\d %, of layer \d+ to layer \d+, "
                         r"below the threshold 100\.00 %; --threshold 0\.\d\d lets it reuse, "
                         r"--threshold auto")
        result = self.json("watch", self.json("jobs")["calibrations"][0]["calibration_id"], expect=3)
        self.assertIn("saves nothing", result["warning"])
        # The threshold that was told lets the layer reuse.
        pair = result["most_similar_pair"]
        again = self.json("calibrate", scratch / "calibration.txt", "--window-tokens", "512",
                          "--threshold", pair["threshold"], "--max-degradation", "1000",
                          "--no-activate")
        layer = again["schedule"]["layers"][pair["layer"]]
        self.assertEqual((layer["role"], layer["anchor"]), ("reuse", pair["anchor"]))
        # Activation by force says that nothing is saved.
        done = kascade("activate", result["schedule"]["schedule_id"], "--force")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("warning: the schedule saves nothing: no layer reuses", done.stderr)
        self.good("deactivate")


class Presets(ClientTest):
    """Each preset in the windows of the documents: 512 tokens, or 2,048."""

    def test_presets_act_or_say_why_not(self):
        reusing = set()
        for name in ("balanced", "conservative", "aggressive", "large-model", "cpu-8b", "long"):
            done = kascade("calibrate", scratch / "calibration.txt", "--preset", name,
                           "--no-activate", "--json")
            self.assertIn(done.returncode, (0, 3), done.stderr)
            result = json.loads(done.stdout)
            calibration = result["schedule"]["calibration"]
            self.assertEqual(calibration["window_tokens"], 2048 if name == "long" else 512)
            self.assertEqual(result["schedule"]["selection"]["family"], "tile")
            pair = result["most_similar_pair"]
            self.assertEqual(pair["threshold"], math.floor(pair["similarity"] * 100) / 100)
            roles = [layer["role"] for layer in result["schedule"]["layers"]]
            if "reuse" in roles:
                reusing.add(name)
                self.assertGreaterEqual(pair["similarity"], calibration["threshold"])
            else:
                self.assertLess(pair["similarity"], calibration["threshold"])
                self.assertIn(f"of layer {pair['layer']} to layer {pair['anchor']}", done.stderr)
                self.assertIn(f"--threshold {pair['threshold']:.2f} lets it reuse", done.stderr)
        self.assertLessEqual({"aggressive", "cpu-8b"}, reusing)

    def test_help_lists_their_values(self):
        self.assertRegex(self.good("calibrate", "--help"),
                         r"aggressive +--threshold 0\.55 --top-k 10 --max-reuse-dist 5 "
                         r"--tile-size 16 --window-tokens 512")

    def test_threshold_auto(self):
        done = kascade("calibrate", scratch / "calibration.txt", "--threshold", "auto", "--window",
                       "512", "--max-degradation", "1000", "--no-activate")
        self.assertEqual(done.returncode, 0, done.stderr)
        told = re.search(r"0\.9 × median similarity (\d\.\d{4}) = (\d\.\d{4})", done.stdout)
        self.assertAlmostEqual(0.9 * float(told[1]), float(told[2]), delta=1e-4)
        self.assertRegex(done.stdout, rf"threshold {100 * float(told[2]):.1f}\d % \(auto\)")
        self.assertRegex(done.stdout, r"Similarity to the layer before +min \d+\.\d\d %, median")
        self.assertIn(" REUSE ", done.stdout)


class Rows(ClientTest):
    """Texts as people have them: a file with a row in each line, as WikiText has them."""

    @classmethod
    def setUpClass(cls):
        words = (MODEL / "calibration.txt").read_text().split()
        rows, begin = [], 0
        for i in range(100):
            count = (0, 4, 150, 60, 7, 290, 0, 110)[i % 8]
            rows.append(" " + " ".join(words[begin:begin + count]) + " " if count else " ")
            begin += count
        cls.rows = [row for row in rows if row.strip()]
        (scratch / "wiki.txt").write_text("\n".join(rows) + "\n")

    def test_calibrate_on_rows(self):
        result = self.json("calibrate", scratch / "wiki.txt", "--lines", "--max-tokens-per-text",
                           "200", "--window", "512", "--min-keys", "32", "--anchors", "5",
                           "--plan-weight", "importance", "--max-degradation", "1000",
                           "--no-retrieval", "--no-activate")
        self.assertTrue(result["passed"])
        self.assertEqual(result["note"], "")
        quality = result["schedule"]["quality"]
        self.assertEqual([row["kind"] for row in quality["kinds"]], ["wiki.txt"])
        self.assertNotIn("retrieval", quality)
        held_out = result["candidates"][0]["tokens"]
        self.assertGreaterEqual(held_out, 1024)
        tokens = sum(min(200, self.json("tokenize", row, "--no-bos")["count"]) for row in self.rows)
        # A fifth of the rows and the line breaks between them, less than half a window left out.
        self.assertAlmostEqual(held_out, (tokens + len(self.rows)) / 5, delta=len(self.rows) + 256)

    def test_calibrate_with_texts_of_their_own_held_out(self):
        done = kascade("calibrate", scratch / "wiki.txt", "--lines", "--held-out",
                       scratch / "evaluation.txt", "--window", "512", "--min-keys", "32",
                       "--anchors", "5", "--plan-weight", "importance", "--max-degradation",
                       "1000", "--no-retrieval", "--no-activate")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"Text +[\d,]+ tokens, [\d,]+ tokens of other texts held out")
        self.assertIn(f"{len(self.rows)} lines joined, those of a kind to one text", done.stdout)

    def test_score_rows(self):
        result = self.json("score", scratch / "wiki.txt", "--lines", "--mode", "dense",
                           "--max-tokens-per-text", "50")
        self.assertEqual(len(result["files"]), len(self.rows))
        self.assertEqual([entry["line"] for entry in result["files"]][:3], [2, 3, 4])
        self.assertEqual(max(entry["tokens_scored"] for entry in result["files"]), 50)
        self.assertEqual(result["tokens_scored"],
                         sum(entry["tokens_scored"] for entry in result["files"]))
        text = self.good("score", scratch / "wiki.txt", "--lines", "--mode", "dense")
        self.assertTrue(text.startswith(f"{len(self.rows)} lines scored one by one\n"), text[:80])

    def test_score_more_files_than_a_request_takes(self):
        folder = scratch / "many"
        folder.mkdir()
        for i in range(4100):
            (folder / f"{i}.txt").write_text(f"the sea {i}")
        files = sorted(folder.iterdir())
        result = self.json("score", *files, "--mode", "dense")
        self.assertEqual(len(result["files"]), 4100)
        self.assertEqual(result["tokens_scored"],
                         sum(entry["tokens_scored"] for entry in result["files"]))
        nll = sum(entry["dense"]["nll_sum"] for entry in result["files"])
        self.assertAlmostEqual(result["dense"]["nll_sum"], nll, delta=1e-6 * nll)
        parts = [self.json("score", *files[:4096], "--mode", "dense"),
                 self.json("score", *files[4096:], "--mode", "dense")]
        self.assertAlmostEqual(sum(part["dense"]["nll_sum"] for part in parts), nll, delta=1e-6 * nll)
        self.assertLess(result["nll_standard_error"], parts[1]["nll_standard_error"])


class Jobs(ClientTest):
    """Calibrations that outlive their client: long ones, none of which is waited for."""

    def test_detach_watch_and_cancel(self):
        command = ["calibrate", MODEL / "calibration.txt", "--max-degradation", "0"]
        job = self.json(*command, "--detach")
        name = job["calibration_id"]
        self.assertFalse(job["attached"])
        self.assertGreater(job["tokens"], 40_000)
        running = self.json("jobs")["calibrations"][0]
        self.assertEqual((running["calibration_id"], running["state"]), (name, "running"))
        self.assertIn(name, self.bad("jobs", "delete", name, code="FAILED_PRECONDITION"))
        refused = self.bad("calibrate", scratch / "calibration.txt", "--json", code="ABORTED")
        self.assertIn(name, refused)

        code, _, err = interrupt_at("measuring", "watch", name, "--json")
        self.assertEqual(code, 1)
        self.assertIn("detached; the calibration goes on", err.splitlines()[-1])
        self.assertIn("kascade watch " + name, err)

        self.assertEqual(self.json("cancel", name)["state"], "cancelled")
        self.bad("watch", name, "--json", code="CANCELLED")
        again = self.json(*command, "--detach")
        self.assertEqual((again["calibration_id"], again["attached"]), (name, False))
        self.assertEqual(self.good("cancel", name), name + ": cancelled\n")
        self.assertEqual(self.good("jobs", "delete", name), name + " is deleted\n")
        self.assertNotIn(name, self.good("jobs"))


class StandardOutput(ClientTest):
    """What cannot be written is told, whatever the command, and the exit code is 1."""

    COMMANDS = (["generate", "Hi", "--max-tokens", "3"],
                ["generate", "Hi", "--max-tokens", "3", "--json"],
                ["generate", "Hi", "--max-tokens", "3", "--stats", "--logprobs", "2"],
                ["score", "-"], ["score", "-", "--tokens", "--json"], ["tokenize", "the sea"],
                ["detokenize", "65", "66"], ["info"], ["health"], ["schedules"], ["jobs"],
                ["score", "--help"], ["--version"])

    def check(self, command, words, **streams):
        done = subprocess.run([client_path, "--server", address, *command], text=True,
                              input="It was a dark and stormy night; the rain fell.",
                              stderr=subprocess.PIPE, timeout=120, env=ENVIRONMENT, **streams)
        self.assertEqual(done.returncode, 1, command)
        # Where a part was lost before the end, the reason of the system is, too.
        self.assertRegex(done.stderr, "kascade: DATA_LOSS: standard output: "
                         f"({words}|cannot be written to)", command)

    def test_full(self):
        for command in self.COMMANDS:
            with open("/dev/full", "w", encoding="utf-8") as full:
                self.check(command, "No space left on device", stdout=full)

    def test_closed(self):
        for command in self.COMMANDS:
            # The number 1 must not go to the connection to the server instead.
            self.check(command, "it is closed", preexec_fn=lambda: os.close(1))

    def test_pipe_that_nobody_reads(self):
        for command in self.COMMANDS:
            reader, writer = os.pipe()
            os.close(reader)
            try:
                self.check(command, "Broken pipe", stdout=writer)
            finally:
                os.close(writer)


if __name__ == "__main__":
    server_path, client_path = sys.argv[1:3]
    unittest.main(argv=[sys.argv[0]] + sys.argv[3:], verbosity=2)
