"""kascade-train as users run it: killed and continued, interrupted, refused; on a tiny model."""

import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRAIN = ""


class TrainTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.model = self.folder / "tiny"
        subprocess.run([sys.executable, ROOT / "tools/make_tiny_model.py", self.model], check=True,
                       stdout=subprocess.DEVNULL)
        self.text = self.folder / "text.txt"
        words = random.Random(1)
        self.text.write_text(" ".join(words.choice(["the", "in", "thin", "ring", "on", "error"])
                                      for _ in range(2000)), encoding="utf-8")

    def command(self, output, **changes):
        options = {"model_id": self.model, "data_path": self.text, "output_name": "a",
                   "output_folder": self.folder / output, "max_length": "48,64", "n_epochs": 2,
                   "batch_size": 2, "gradient_accumulation_steps": 1, "save_every": 3,
                   "check_every": 7, "v_compress_method": "max_pool", "learning_rate": 1e-2}
        arguments = [TRAIN]
        for name, value in (options | changes).items():
            arguments += ["--" + name.replace("_", "-"), str(value)]
        return arguments

    def train(self, output, **changes):
        return subprocess.run(self.command(output, **changes), capture_output=True, text=True,
                              check=False, timeout=120)

    def adapter(self, output):
        folder = self.folder / output / "a-text-2epoch-tiny-sparse"
        return (folder / "adapter.safetensors").read_bytes(), folder

    def test_killed_training_continues_with_the_same_bits(self):
        done = self.train("whole")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("best held-out loss", done.stdout)
        whole, folder = self.adapter("whole")
        lines = (folder / "training.jsonl").read_text(encoding="utf-8").splitlines()
        log = [json.loads(line) for line in lines]
        self.assertLess(log[-1]["loss"], log[0]["loss"])
        self.assertEqual(len(list((folder / "checkpoints").iterdir())), 5)

        moments = random.Random(2)
        for _ in range(5):
            with subprocess.Popen(self.command("parts"), stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL) as process:
                time.sleep(moments.uniform(0.05, 0.4))
                process.kill()
        done = self.train("parts")
        self.assertEqual(done.returncode, 0, done.stderr)
        parts, folder = self.adapter("parts")
        self.assertEqual(parts, whole)
        self.assertEqual([], [path for path in folder.rglob("*") if ".tmp" in path.name])

    def test_an_interrupted_training_says_how_to_go_on(self):
        with subprocess.Popen(self.command("out", n_epochs=100000), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as process:
            log = self.folder / "out" / "a-text-100000epoch-tiny-sparse" / "training.jsonl"
            deadline = time.monotonic() + 60
            while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130)
        self.assertIn("the same command continues", errors)

    def test_other_settings_are_refused_in_the_same_folder(self):
        self.assertEqual(self.train("out").returncode, 0)
        other = self.train("out", seed=2)
        self.assertEqual(other.returncode, 1)
        self.assertIn("other settings", other.stderr)

    def test_a_second_stage_starts_from_an_adapter(self):
        self.assertEqual(self.train("first").returncode, 0)
        _, folder = self.adapter("first")
        done = self.train("second", start_from=folder, stage="model", loss_mode="mixed")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotEqual(self.adapter("first")[0], self.adapter("second")[0])

    def evaluate(self, folder, *arguments):
        return subprocess.run([TRAIN, "--model-id", self.model, "--data-path", self.text,
                               "--max-length", "64", "--evaluate", folder, *arguments],
                              capture_output=True, text=True, check=False, timeout=120)

    def evaluation(self, folder):
        done = self.evaluate(folder, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_an_adapter_that_is_dense_costs_nothing(self):
        # Only the window counts, it is as long as the texts, and training hardly moves anything.
        self.train("out", gate="softmax", gate_start_window=60, gate_start_compressed=-60,
                   gate_start_selected=-60, sliding_window_size=64, learning_rate=1e-12)
        _, folder = self.adapter("out")
        result = self.evaluation(folder)
        self.assertGreater(result["texts"], 10)
        self.assertEqual(result["tokens"], 64 * result["texts"])
        self.assertEqual(result["predicted_tokens"], 63 * result["texts"])
        self.assertAlmostEqual(result["nll_rise"], 0, delta=1e-5)
        self.assertAlmostEqual(result["kl"], 0, delta=1e-5)
        self.assertGreater(result["dense_perplexity"], 1)

    def test_an_adapter_is_evaluated_beside_dense_attention(self):
        self.train("out", sliding_window_size=4, num_selected_blocks=2, compress_block_size=4,
                   memory_slots=0)
        _, folder = self.adapter("out")
        result = self.evaluation(folder)
        self.assertGreater(abs(result["nll_rise"]), 1e-5)
        self.assertGreater(result["kl"], 0)
        self.assertGreater(result["nll_rise_error"], 0)
        # Windows of 4 that ended, one whole block and the row's own, and the last 4 keys.
        keys = sum(t // 4 + min(t // 4, 1) * 4 + t % 4 + 1 + min(4, t + 1) for t in range(64))
        self.assertAlmostEqual(result["keys_read_share"], keys / (64 * 65 / 2))
        words = self.evaluate(folder).stdout
        self.assertIn(f"adapter {result['adapter_perplexity']:.4f}", words)
        self.assertIn(f"keys read   {100 * result['keys_read_share']:.2f} %", words)

    def test_faults_are_named(self):
        for arguments, code, words in [
                (["--start-from", self.folder], 2, "--start-from"),
                ([], 1, "adapter.json")]:
            done = self.evaluate(self.folder / "none", *arguments)
            self.assertEqual(done.returncode, code)
            self.assertIn(words, done.stderr)
        done = subprocess.run([TRAIN, "--model-id", self.model, "--data-path", self.text],
                              capture_output=True, text=True, check=False, timeout=120)
        self.assertEqual((done.returncode, "--output-name" in done.stderr), (2, True))
        for changes, code, words in [
                ({"learning_rate": 9, "warmup_ratio": 0, "clip_norm": 0, "lr_decay": "none",
                  "weight_decay": 10, "n_epochs": 50}, 3, "not finite"),
                ({"compress_stride": 5}, 2, "compress_stride: must divide"),
                ({"max_length": 99999}, 1, "--max-length: must be at most the model's"),
                ({"loss_mode": "l1"}, 2, "loss mode"),
                ({"max_length": 0}, 2, "--max-length: expected"),
                ({"start_from": self.folder / "none"}, 1, "adapter.json"),
                ({"task_name": "gsm8k"}, 1, "text.txt:1")]:
            done = self.train(f"fault-{code}-{next(iter(changes))}", **changes)
            with self.subTest(changes=changes):
                self.assertEqual(done.returncode, code, done.stderr + done.stdout[-300:])
                self.assertIn(words, done.stderr)


if __name__ == "__main__":
    TRAIN = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()
