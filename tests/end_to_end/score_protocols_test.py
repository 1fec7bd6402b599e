"""Score's protocols on models/demo against float64: score_protocols_test.py KASCADE_SERVER

The windows are cut and evaluated by protocols.py; the server (f32) must give the same log-probability
for the same tokens, and the same counts, sums and errors.
"""

import pathlib
import sys
import unittest

import numpy as np

import python_client_test as client

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The reference has a kascade.py, which would hide the package of the stubs.
sys.path.insert(0, str(ROOT / "tests" / "reference"))
import protocols  # noqa: E402
from llama import Model  # noqa: E402
sys.path.pop(0)

DEMO = ROOT / "models" / "demo"
NATS = 1e-4  # of one token in f32


def byte_of_characters():
    """The alphabet of byte-level tokenizers: printable bytes are themselves, the rest come after."""
    printable = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    other = [byte for byte in range(0x100) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(0x100 + i): byte for i, byte in enumerate(other)})
    return table


class ScoreProtocols(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        channel = client.open_channel(cls, "--weights", "f32")
        cls.stub = client.module("inference_service_pb2_grpc").InferenceServiceStub(channel)
        cls.pb = client.module("score_pb2")
        cls.model = Model(DEMO)
        cls.alphabet = byte_of_characters()
        text = (DEMO / "evaluation.txt").read_text()
        cls.text = text[:1500] + " a\u00a0b\u2003 c\u0085d \x1ce \u3000 f\n"
        cls.tokens, cls.spelled = cls.tokenize(cls.text)
        cls.bos = cls.tokens[0]

    @classmethod
    def tokenize(cls, text, add_bos=True):
        request = client.module("tokenize_pb2").TokenizeRequest(texts=[text], details=True,
                                                                add_bos=add_bos)
        result = cls.stub.Tokenize(request, timeout=60).results[0]
        return list(result.token_ids), list(result.token_texts)

    def score(self, **fields):
        """Summaries, started message, and columns (positions, tokens, log-probabilities) by input."""
        request = self.pb.ScoreRequest(response=self.pb.ScoreResponseOptions(tokens=True), **fields)
        count, summaries, started = len(request.inputs), {}, None
        columns = [([], [], []) for _ in range(count)]
        for message in self.stub.Score(request, timeout=120):
            kind = message.WhichOneof("event")
            if kind == "started":
                started = message.started
            elif kind == "summary":
                summaries[message.summary.input_index] = message.summary
            elif kind == "total":
                summaries["total"] = message.total
            elif kind == "tokens":
                part, column = message.tokens, columns[message.tokens.input_index]
                column[0].extend(range(part.first_position,
                                       part.first_position + len(part.token_ids)))
                column[1].extend(part.token_ids)
                column[2].extend(part.logprobs)
        return summaries, started, columns

    def compare(self, summary, expected):
        tolerance = NATS * expected["tokens_scored"]
        for name, value in expected.items():
            got = getattr(summary, name)
            if isinstance(value, int):
                self.assertEqual(got, value, name)
            elif name == "nll_sum":
                self.assertLess(abs(got - value), tolerance, name)
            else:
                self.assertLess(abs(got / value - 1), 5 * NATS, name)

    def check(self, windows, text, *, tokens=None, inputs=None, **fields):
        """One request with one input, by default self.text."""
        inputs = inputs or [self.pb.ScoreInput(text=self.text)]
        summaries, started, columns = self.score(inputs=inputs, **fields)
        positions, scored, logprobs = protocols.score(self.model, windows)
        self.assertEqual(columns[0][0], positions)
        self.assertEqual(columns[0][1], scored)
        self.assertLess(np.abs(np.array(columns[0][2]) - logprobs).max(), NATS)
        expected = protocols.figures(logprobs, text)
        for summary in (summaries[0], summaries["total"]):
            self.compare(summary, expected)
            self.assertEqual(summary.windows, len(windows))
            self.assertEqual(summary.tokens, len(tokens or self.tokens))
            self.assertEqual(summary.protocol, fields["protocol"])
            self.assertEqual(summary.window_tokens, started.window_tokens)
        for ours, theirs in (("tokens_to_score", "tokens_scored"),
                             ("words_to_score", "words_scored"),
                             ("bytes_to_score", "bytes_scored")):
            self.assertEqual(getattr(started, ours), expected[theirs])
        return summaries[0], started

    def text_of(self, positions):
        """Text that the tokens at these positions of self.text stand for, joined."""
        characters = "".join(self.spelled[position] for position in positions)
        return bytes(self.alphabet[c] for c in characters).decode(errors="surrogateescape")

    def test_whole(self):
        summary, started = self.check(protocols.whole(self.tokens), self.text, protocol=1)
        self.assertTrue(summary.begins_with_bos)
        self.assertTrue(started.begins_with_bos)
        self.assertEqual(started.protocol, 1)
        self.assertEqual(started.tokens, len(self.tokens))
        tokens = self.tokens[1:]
        summary, _ = self.check(protocols.whole(tokens), self.text_of(range(2, len(self.tokens))),
                                tokens=tokens, protocol=1, add_bos=False)
        self.assertFalse(summary.begins_with_bos)

    def test_rolling(self):
        for window in (2, 64, 65, len(self.tokens) - 1, len(self.tokens)):
            with self.subTest(window=window):
                windows = protocols.harness_rolling(self.tokens, window - 1)
                self.check(windows, self.text, protocol=2, window_tokens=window)

    def test_chunk(self):
        for window in (3, 16, 65, len(self.tokens) // 2):
            with self.subTest(window=window):
                windows = protocols.llama_cpp_chunks(self.tokens, window, self.bos)
                positions = [w.origin + i for w in windows for i in w.scored]
                _, started = self.check(windows, self.text_of(positions), protocol=3,
                                        window_tokens=window)
                self.assertEqual(started.stride_tokens, 0)
                self.assertEqual(started.windows, len(windows))

    def test_chunk_without_bos(self):
        tokens = self.tokens[1:]
        windows = protocols.llama_cpp_chunks(tokens, 50, None)
        text = self.text_of([w.origin + i + 1 for w in windows for i in w.scored])
        summary, _ = self.check(windows, text, tokens=tokens, protocol=3, window_tokens=50,
                                add_bos=False)
        self.assertFalse(summary.begins_with_bos)
        ids = client.module("generate_pb2").TokenIds(ids=tokens)
        self.check(windows, text, tokens=tokens, protocol=3, window_tokens=50,
                   inputs=[self.pb.ScoreInput(token_ids=ids)])

    def test_chunk_default_window_is_512(self):
        tokens, _ = self.tokenize((DEMO / "evaluation.txt").read_text()[:6000])
        windows = protocols.llama_cpp_chunks(tokens, 512, self.bos)
        ids = client.module("generate_pb2").TokenIds(ids=tokens)
        summaries, started, _ = self.score(inputs=[self.pb.ScoreInput(token_ids=ids)], protocol=3)
        self.assertEqual(started.window_tokens, 512)
        self.assertEqual(summaries["total"].tokens_scored, 255 * len(windows))
        self.assertLess(summaries["total"].tokens_scored, len(tokens))
        logprobs = protocols.score(self.model, windows)[2]
        self.assertAlmostEqual(summaries["total"].mean_nll, -logprobs.mean(), delta=NATS)

    def test_strided(self):
        size = len(self.tokens)
        for window, stride in ((64, 32), (64, 63), (65, 7), (size - 1, 1), (size, 5), (9, 8)):
            with self.subTest(window=window, stride=stride):
                windows = protocols.sliding(self.tokens, window, stride)
                summary, started = self.check(windows, self.text, protocol=4,
                                              window_tokens=window, stride_tokens=stride)
                self.assertEqual(summary.tokens_scored, size - 1)
                self.assertEqual((summary.stride_tokens, started.stride_tokens), (stride, stride))
        windows = protocols.sliding(self.tokens, 101, 50)
        summary, _ = self.check(windows, self.text, protocol=4, window_tokens=101)
        self.assertEqual(summary.stride_tokens, 50)  # half a window

    def test_the_total_of_many(self):
        parts = [self.text[:700], self.text[700:]]
        expected = []
        for part in parts:
            tokens = self.tokenize(part)[0]
            expected.append(protocols.score(self.model, protocols.sliding(tokens, 60, 20))[2])
        inputs = [self.pb.ScoreInput(text=part) for part in parts]
        summaries, _, _ = self.score(inputs=inputs, protocol=4, window_tokens=60, stride_tokens=20)
        figures = [protocols.figures(*pair) for pair in zip(expected, parts)]
        for index in range(2):
            self.compare(summaries[index], figures[index])
        total = protocols.figures(np.concatenate(expected), self.text)
        words = figures[0]["words_scored"] + figures[1]["words_scored"]
        total["word_perplexity"] = np.exp(total["nll_sum"] / words)
        total["words_scored"] = words
        self.compare(summaries["total"], total)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    client.SERVER = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
