#!/usr/bin/env python3
"""Tests of tools/train_demo_model.py: books, tokenizer and tasks; with PyTorch, the model too.

The tokenizer and the text of models/demo serve as data. Without PyTorch the tests of the model are
skipped, and say so.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from demo_model import (book_text, books, cases, figures, tables, tasks,
                        wordings)  # noqa: E402
from demo_model.tokenizer import BOS, FIRST_MERGE, Tokenizer  # noqa: E402

try:
    import torch
except ImportError:
    torch = None

DEMO = ROOT / "models/demo"
WORDS = "harbour lantern copper meadow winter saddle silver orchard thunder candle".split()
KINDS = ("passkey", "chain", "crowd", "register", "copy", "recopy", "rand", "plain")


def make_tasks(seed=1):
    tokenizer = Tokenizer.from_model(DEMO)
    text = (DEMO / "evaluation.txt").read_text(encoding="utf-8")
    return tasks.Tasks(tokenizer, np.array(tokenizer.encode(text)), WORDS, seed)


class BooksTest(unittest.TestCase):
    def test_wrapped_paragraphs_are_joined_and_notes_left_out(self):
        lines = ["Notes", "*** START OF THIS BOOK X ***", "", "It was a _cold_", "morning.", "",
                 "  a verse", "  of two lines", "", "*** END OF THIS BOOK X ***", "More notes"]
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "x.txt")
            pathlib.Path(path).write_bytes("\r\n".join(lines).encode("utf-8-sig"))
            self.assertEqual(books.read_book(path),
                             "It was a cold morning.\n\na verse\nof two lines\n")
            self.assertEqual([books.book_name(p) for p in books.find_books([folder])], ["x"])

    def test_long_lines_stay(self):
        text = "A paragraph in one line. " * 20 + "\n\nAnother.\n"
        self.assertFalse(books.is_hard_wrapped(text))


class TokenizerTest(unittest.TestCase):
    def test_decoding_gives_the_text_back(self):
        tokenizer = Tokenizer.from_model(DEMO)
        for text in ("It's 48213, isn't it?\n\n  Ja – naïve “quotes”…", " ", "", "\n\n\n x"):
            self.assertEqual(tokenizer.decode(tokenizer.encode(text)), text)

    def test_program_trains_merges_without_digits_and_encodes_as_python_does(self):
        text = (DEMO / "evaluation.txt").read_text(encoding="utf-8")[:20000]
        text += " Naïve, “so” 1234 and  12  more…\n\n\n  End"
        with tempfile.TemporaryDirectory() as folder:
            path, program = os.path.join(folder, "a.txt"), os.path.join(folder, "bpe")
            pathlib.Path(path).write_text(text, encoding="utf-8")
            subprocess.run(["g++", "-std=c++20", "-o", program, ROOT / "tools/demo_model/bpe.cc"],
                           check=True)
            subprocess.run([program, "400", folder, path], check=True, capture_output=True)
            tokenizer = Tokenizer.from_bpe(folder)
            encoded = np.fromfile(os.path.join(folder, "corpus.bin"), np.uint16)
        self.assertEqual(tokenizer.size, 400)
        for token in tokenizer.bytes_of[FIRST_MERGE:]:
            self.assertFalse(any(chr(b).isdigit() for b in token), token)
        self.assertEqual(encoded.tolist(), [BOS] + tokenizer.encode(text))


class TasksTest(unittest.TestCase):
    def test_documents_have_their_length_and_their_answers_were_stated(self):
        made = make_tasks()
        for kind in KINDS:
            for length in (128, 512, 2048):
                ids, weights = getattr(made, kind)(length)
                self.assertEqual((len(ids), len(weights)), (length + 1, length + 1), kind)
                self.assertEqual((ids[0], weights[0]), (BOS, 0), kind)
                self.assert_answers_stated(made.tokenizer, ids, weights)

    def assert_answers_stated(self, tokenizer, ids, weights):
        marked = np.flatnonzero(weights == tasks.ANSWER_WEIGHT)
        for run in np.split(marked, np.flatnonzero(np.diff(marked) > 1) + 1):
            if len(run) and run[-1] < len(ids) - 1:  # The last answer may be cut off.
                answer = tokenizer.decode(ids[run]).strip().lower()  # A sentence may begin with it.
                self.assertIn(answer, tokenizer.decode(ids[: run[0]]).lower())

    def test_the_same_seed_gives_the_same_batch(self):
        mix = dict.fromkeys(KINDS, 1.0)
        first, again, other = (make_tasks(seed).batch(6, 256, mix, 0.5) for seed in (1, 1, 2))
        for a, b in zip(first, again):
            self.assertTrue(np.array_equal(a, b))
        self.assertFalse(np.array_equal(first[0], other[0]))

    def test_skipped_positions_rise_and_stay_in_the_context(self):
        positions = make_tasks().batch(32, 256, {"plain": 1.0}, 1.0)[2]
        self.assertTrue((np.diff(positions, axis=1) >= 1).all())
        self.assertLess(positions.max(), 4096)
        self.assertGreater(positions.max(), 256)

    def test_cases_end_with_the_answer_that_was_stated(self):
        made = make_tasks()
        for wording in wordings.SETS:
            for _ in range(20):
                case = cases.recall_case(made, 640, 3, wording)
                self.assertEqual(len(case.ids), 640)
                stated = made.tokenizer.decode(case.ids[slice(*case.stated)])
                self.assertIn(made.tokenizer.decode(case.ids[case.answer_at :]).strip(), stated)
                before = made.tokenizer.decode(case.ids[case.question_at - 1 : case.question_at])
                self.assertTrue(before.endswith("\n"), before)
                self.assertLess(case.question_at, case.answer_at)
        self.assertEqual(len(cases.chain_case(made, 640, 3).ids), 640)

    def test_of_a_question_only_the_answer_is_learned(self):
        made = make_tasks()
        for _ in range(20):
            parts = made.question(made.asking(), "pass key", "James", "12345")
            self.assertEqual([weight for _, weight in parts][-2:], [tasks.ANSWER_WEIGHT, 1.0])
            self.assertFalse(any(weight for _, weight in parts[1:-2]))

    def test_reserved_wordings_are_not_trained(self):
        self.assertFalse(set(wordings.RESERVED_STATEMENTS) & set(wordings.STATEMENTS))
        made = make_tasks()
        parts = {f"{asking.replace('{O}', owned)} {answering}" for asking in wordings.ASKING
                 for owned in wordings.OWNED for answering in wordings.ANSWERING}
        parts |= {name + lead for name in wordings.NAMING for lead in wordings.LEADING}
        asked = parts | set(wordings.QUESTIONS) | set(wordings.ASKING_SENTENCES)
        drawn = [made.asking() for _ in range(2000)]
        self.assertLess(0.2, np.mean([question in asked for question in drawn]))
        for question in drawn:
            self.assertIn("{N}", question)
            self.assertNotIn(question, wordings.RESERVED_QUESTIONS)
        self.assertGreater(len(asked), 5000)
        self.assertFalse(set(wordings.RESERVED_QUESTIONS) & asked)
        self.assertFalse(set(wordings.RESERVED_KINDS) & set(wordings.KINDS))

    def test_book_text_visits_every_segment_once_per_epoch(self):
        tokenizer = Tokenizer.from_model(DEMO)
        ids = np.array(tokenizer.encode("A sentence of a book.\n\n" * 4000))
        book = book_text.BookText(ids, tokenizer, seed=3)
        starts = [tuple(book.take(8)) for _ in range(book.segments)]
        self.assertEqual(book.cursor, len(starts))
        self.assertEqual(sorted(book.order), list(range(book.segments)))


class FiguresTest(unittest.TestCase):
    def test_curve_and_bars_are_drawn(self):
        records = [{"tokens": n, "bits_per_byte": 3 - n / 10, "recall_512": n / 10}
                   for n in range(1, 9)]
        self.assertIn("<polyline", figures.training_curve(records))
        layers = {"mean": [0.1, 0.5], "largest_head": [0.2, 0.9]}
        drawn = figures.attention_bars({"length": 2048, "far_means_tokens": 256,
                                        "book": {"far": layers},
                                        "questions": {"far": layers, "stated": layers},
                                        "answers": {"far": layers, "stated": layers}})
        self.assertEqual(drawn.count("<rect"), 1 + 3 * 2)


class TablesTest(unittest.TestCase):
    def test_every_figure_has_a_cell(self):
        layers = {"mean": [0.125, 0.5], "largest_head": [0.25, 0.9]}
        regions = {"far": layers, "bos": layers, "stated": layers}
        made = tables.all_tables({
            "text": {"a-book": [{"window": 512, "tokens": 1024, "nll_per_token": 3.5,
                                 "bits_per_byte": 1.61}]},
            "recall": {"trained_1": {"1024": {"right": 97, "of": 100}},
                       "never_trained_3": {"1024": {"right": 83, "of": 100}}},
            "chains": {"1": {"right": 42, "of": 50}},
            "attention": {"book": regions, "questions": regions, "answers": regions}})
        for cell in ("| `a-book` | 512 | 1024 | 3.5000 | 1.6100 |", "| trained | 1 | 97 / 100 |",
                     "| never trained | 3 | 83 / 100 |", "| right | 42 / 50 |",
                     "| 1 " + 5 * "| 0.50 / 0.90 " + "|"):
            self.assertIn(cell, made)


@unittest.skipIf(torch is None, "SKIPPED: PyTorch is not installed")
class ModelTest(unittest.TestCase):
    """A tiny model: the two implementations agree, training goes on as if never stopped."""

    @classmethod
    def setUpClass(cls):
        from demo_model.model import Shape, initial_parameters

        torch.set_num_threads(1)
        cls.tasks = make_tasks()
        cls.shape = Shape(layers=2, width=64, kv_heads=2, group=3, head_dim=32, ffn=96,
                          vocabulary=cls.tasks.tokenizer.size)
        cls.parameters = lambda _: initial_parameters(cls.shape, 1)

    def plan(self, tokens, growth):
        from demo_model.training import Plan

        return Plan({"seed": 1, "shape": vars(self.shape), "growth": growth, "warm_up_steps": 1,
                     "learning_rate": {"muon": 0.02, "adam": 0.003},
                     "evaluate_every_tokens": 1 << 30, "mixes": {"all": {"plain": 1, "passkey": 1}},
                     "decay": {"from_tokens": 10**6, "to_tokens": tokens, "floor": 0.03},
                     "stages": [{"to_tokens": 10**9, "mix": "all", "lengths": {"64": 1},
                                 "tokens_per_step": 256, "skipped_positions": 0.5}]})

    def trained(self, folder, tokens, resume=None, growth=None):
        from demo_model.model import PlainModel
        from demo_model.training import Trainer

        trainer = Trainer(PlainModel, make_tasks(), self.plan(tokens, growth), folder)
        trainer.log = lambda *_, **__: None
        if resume:
            trainer.load(resume)
        trainer.train(lambda _: {})
        return trainer.model.parameters

    def test_resumed_training_equals_one_run(self):
        for growth_at in (None, 512, 1024):
            growth = growth_at and {"at_tokens": growth_at, "layers": [0, 1, 1]}
            with tempfile.TemporaryDirectory() as folder:
                whole = self.trained(folder, 1536, growth=growth)
                self.trained(folder, 768, growth=growth)
                resumed = self.trained(folder, 1536, os.path.join(folder, "final.pt"), growth)
            self.assertEqual(len(whole["qkv"]), 3 if growth else 2)
            for name, value in whole.items():
                self.assertTrue(torch.allclose(value, resumed[name], atol=1e-5), name)

    def test_fused_model_agrees_with_autograd(self):
        from demo_model.fused_model import FusedModel, processor_has_kernels
        from demo_model.model import PlainModel

        if not processor_has_kernels():
            self.skipTest("SKIPPED: this processor has no AVX-512 bf16")
        ids, weights, positions, _ = self.tasks.batch(2, 301, {"passkey": 1.0}, 1.0)
        plain = PlainModel(self.shape, self.parameters())
        expected = plain.run(ids, weights, positions, train=True)
        with tempfile.TemporaryDirectory() as folder:
            fused = FusedModel(self.shape, self.parameters(), folder)
            found = fused.run(ids, weights, positions, train=True)
        self.assertAlmostEqual(found[0], expected[0], delta=2e-3)
        for name, gradient in plain.gradients.items():
            cosine = torch.nn.functional.cosine_similarity(
                gradient.flatten().double(), fused.gradients[name].flatten().double(), 0)
            self.assertGreater(float(cosine), 0.999, name)

    def test_repeated_layers_compute_nearly_the_same(self):
        from demo_model.model import PlainModel, repeat_layers

        ids, _, _, _ = self.tasks.batch(2, 64, {"plain": 1.0})
        parameters = self.parameters()
        for name in ("output", "down"):
            parameters[name] *= 0.01  # Small steps: two halves of a layer are nearly the whole.
        nll = PlainModel(self.shape, parameters).run(ids)[1]
        deep = PlainModel(dataclasses.replace(self.shape, layers=4),
                          repeat_layers(parameters, [0, 1, 1, 1]))
        self.assertTrue(torch.allclose(deep.run(ids)[1], nll, atol=1e-3))
        other = PlainModel(deep.shape, repeat_layers(parameters, [0, 0, 0, 1]))
        self.assertTrue(torch.allclose(other.run(ids)[1], nll, atol=1e-3))
        self.assertTrue(torch.equal(deep.parameters["qkv"][3], parameters["qkv"][1]))

    def test_sizes_that_the_kernels_cannot_take_are_refused(self):
        from demo_model.fused_model import check_shape

        check_shape(self.shape)
        for name in ("width", "ffn", "vocabulary", "head_dim"):
            with self.assertRaisesRegex(ValueError, name):
                check_shape(dataclasses.replace(self.shape, **{name: 40}))

    def test_an_exported_folder_reads_back(self):
        from demo_model.export import read_model, write_model

        with tempfile.TemporaryDirectory() as folder:
            write_model(folder, self.shape, self.parameters(), self.tasks.tokenizer)
            shape, read = read_model(folder)
            tokenizer = Tokenizer.from_model(folder)
            config = json.loads(pathlib.Path(folder, "config.json").read_text(encoding="utf-8"))
        self.assertEqual((shape, config["num_attention_heads"]), (self.shape, 6))
        self.assertEqual(tokenizer.merges, self.tasks.tokenizer.merges)
        for name, value in self.parameters().items():
            self.assertTrue(torch.equal(read[name], value.to(torch.bfloat16).float()), name)

    def test_attention_figures_are_shares(self):
        from demo_model.evaluation import attention_by_layer
        from demo_model.model import PlainModel

        case = cases.recall_case(self.tasks, 400)
        found = attention_by_layer(PlainModel(self.shape, self.parameters()), case.ids,
                                   [398, 399], case.stated)
        self.assertEqual(set(found), {"far", "bos", "stated", "top"})
        for name, layers in found.items():
            self.assertEqual(layers.shape, (2, 6))
            self.assertTrue(((layers >= 0) & (layers <= 1 + 1e-5)).all(), name)


if __name__ == "__main__":
    unittest.main()
