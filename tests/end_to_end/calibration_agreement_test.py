"""Calibrate on models/demo against float64: calibration_agreement_test.py KASCADE_SERVER

The reference cuts the same texts into windows, measures similarity and importance with numpy and
plans; the server (f32) must give the same figures to 1e-4 and the same plans.
"""

import functools
import pathlib
import re
import sys
import unittest

import numpy as np

import python_client_test as client

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The reference has a kascade.py, which would hide the package of the stubs.
sys.path.insert(0, str(ROOT / "tests" / "reference"))
from calibration import (best_anchors, greedy_schedule, jaccard, layer_similarities,
                         pair_similarity, recall, recalled_mass, run_densely,
                         sampled_tiles)  # noqa: E402
from kascade import Layer, Rule, Schedule, counts  # noqa: E402
from llama import Model, forward, log_softmax, logits_of, through_layers  # noqa: E402
from row_rule import RowRuleAttention  # noqa: E402
sys.path.pop(0)
del sys.modules["kascade"]

DEMO = ROOT / "models" / "demo"
TOLERANCE = 1e-4
WINDOW, MOST_WINDOWS, WEIGHING_TOKENS = 512, 16, 2048
KASCADE = Rule(min_keys=16)
TILE = Rule(family="tile", query_tile=16, top_k=4)
LARGEST = Rule(min_keys=16, pooling="max")
ALL_HEADS = Rule(min_keys=16, all_heads=True)
ROLES = {"LAYER_ROLE_DENSE": "dense", "LAYER_ROLE_ANCHOR": "anchor", "LAYER_ROLE_REUSE": "reuse"}


def place_of_end(text):
    """Where the held-out end of a text begins: a fifth or a window, but at most half."""
    return len(text) - max(len(text) // 5, min(WINDOW, len(text) // 2))


def pieces_of(texts, rule):
    """Measured windows before they are chosen, without BOS: see "Windows" of the method."""
    least = rule.query_tile
    while not sampled_tiles(rule, least):
        least += rule.query_tile
    pieces = []
    for text in texts:
        for begin in range(0, place_of_end(text) - least + 1, WINDOW):
            pieces.append(text[begin:min(begin + WINDOW, place_of_end(text))])
    return pieces


def held_out_pieces(texts):
    """Windows of the quality check: each text here has one at its end."""
    return [text[place_of_end(text):][:WINDOW] for text in texts]


def fed(pieces, bos):
    """Of a window's tokens, BOS first, the last is only predicted."""
    return [[bos] + piece[:-1] for piece in pieces]


def weighing_windows(texts, rule, bos):
    """Evenly spaced: a piece is kept where less than the wanted share of what came before is."""
    pieces = pieces_of(texts, rule)
    share = WEIGHING_TOKENS / sum(map(len, pieces))
    kept = []
    for i, piece in enumerate(pieces):
        if sum(map(len, kept)) <= share * sum(map(len, pieces[:i])):
            kept.append(piece)
    return fed(kept, bos)


def measured_windows(texts, rule, bos):
    """The longest text comes on top as one window: all here are shorter than the context."""
    pieces = pieces_of(texts, rule)
    if len(pieces) > MOST_WINDOWS:
        pieces = [pieces[i * len(pieces) // MOST_WINDOWS] for i in range(MOST_WINDOWS)]
    windows = fed(pieces, bos)
    longest = max((text[:place_of_end(text)] for text in texts), key=len)
    return windows + ([[bos] + longest[:-1]] if len(longest) > WINDOW else [])


class CalibrationAgreement(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        channel = client.open_channel(cls, "--weights", "f32")
        cls.tokenizer = client.module("inference_service_pb2_grpc").InferenceServiceStub(channel)
        cls.stub = client.module("calibration_service_pb2_grpc").CalibrationServiceStub(channel)
        cls.pb = client.module("calibration_service_pb2")
        cls.model = Model(DEMO)
        text = (DEMO / "calibration.txt").read_text()
        cls.texts = [text[i * 5000:i * 5000 + 4200] for i in range(12)]
        request = client.module("tokenize_pb2").TokenizeRequest(texts=cls.texts, add_bos=True)
        encoded = [list(result.token_ids)
                   for result in cls.tokenizer.Tokenize(request, timeout=60).results]
        cls.bos, cls.tokens = encoded[0][0], [ids[1:] for ids in encoded]

    @classmethod
    @functools.cache
    def dense_run(cls, window):
        """Both rules choose on the same dense run of a window."""
        return run_densely(cls.model, window)

    @classmethod
    @functools.cache
    def windows(cls, rule):
        return [cls.dense_run(tuple(window)).window(rule)
                for window in measured_windows(cls.tokens, rule, cls.bos)]

    def reference(self, rule, measure):
        """(similarity [N, N], {(a, b): head map}, importance [N])."""
        windows = self.windows(rule)
        importance = np.mean([window.importance for window in windows], axis=0)
        return *layer_similarities(windows, measure), importance

    def calibrate(self, max_degradation_percent=1000, **fields):
        request = self.pb.CalibrateRequest(texts=self.texts, window_tokens=WINDOW, activate=False,
                                           max_degradation_percent=max_degradation_percent,
                                           **fields)
        for message in self.stub.Calibrate(request, timeout=240):
            if message.WhichOneof("event") == "result":
                return message.result
        return self.fail("the stream ended without a result")

    def check_layers(self, result, rule, measure):
        """Recall of each layer, and the spread of a reuse layer's similarity over the windows."""
        windows = self.windows(rule)
        self.assertEqual(len(result.layers), len(result.schedule.layers))
        for b, (layer, plan) in enumerate(zip(result.layers, result.schedule.layers)):
            source, head_map = plan.anchor, list(plan.head_map)
            heads = np.arange(len(head_map))
            held = pair_similarity(windows, recall, source, b)[heads, head_map].mean()
            self.assertAlmostEqual(layer.recall, held, delta=TOLERANCE, msg=f"layer {b}")
            self.assertEqual(layer.HasField("similarity"), source != b)
            if source == b:
                continue
            values = [measure(window, source, b)[heads, head_map].mean() for window in windows]
            spread = layer.similarity.min, layer.similarity.median, layer.similarity.max
            np.testing.assert_allclose(spread, (min(values), np.median(values), max(values)),
                                       rtol=0, atol=TOLERANCE, err_msg=f"layer {b}")

    def check_figures(self, result, similarity, importance):
        layers = len(importance)
        self.assertEqual([len(row.to_layers) for row in result.similarity],
                         list(range(layers, 0, -1)))
        for a, row in enumerate(result.similarity):
            np.testing.assert_allclose(row.to_layers, similarity[a, a:], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose([layer.importance for layer in result.schedule.layers],
                                   importance, rtol=0, atol=TOLERANCE)

    def check_plan(self, result, roles, anchors, similarity, maps):
        """anchors: of each layer, its own index unless it reuses."""
        for index, layer in enumerate(result.schedule.layers):
            where = f"layer {index}"
            role = ROLES[client.module("schedule_pb2").LayerRole.Name(layer.role)]
            self.assertEqual(role, roles[index], where)
            if role != "reuse":
                continue
            pair = anchors[index], index
            self.assertEqual(layer.anchor, pair[0], where)
            self.assertEqual(list(layer.head_map), maps[pair], where)
            self.assertAlmostEqual(layer.similarity, similarity[pair], delta=TOLERANCE, msg=where)

    def check_best_plan(self, count, measure, rule=KASCADE, **fields):
        similarity, maps, importance = self.reference(rule, measure)
        result = self.calibrate(ratio=rule.ratio, min_keys=rule.min_keys, anchors=count,
                                plan_weight=self.pb.PLAN_WEIGHT_IMPORTANCE, **fields)
        self.check_figures(result, similarity, importance)
        self.check_layers(result, rule, measure)
        _, chosen = best_anchors(similarity, importance)[count]
        self.check_chosen(result, chosen, similarity, maps)

    def check_chosen(self, result, chosen, similarity, maps):
        """The plan is that of the selecting layers `chosen`."""
        layers = range(len(similarity))
        anchors = [max(a for a in chosen if a <= layer) for layer in layers]
        roles = ["dense" if layer == 0 else "anchor" if anchors[layer] == layer else "reuse"
                 for layer in layers]
        self.check_plan(result, roles, anchors, similarity, maps)

    @classmethod
    @functools.cache
    def weighing_runs(cls):
        """Of each window: dense log-probabilities; where every layer selects, the residual stream
        at the entrance of each layer, the keys that each kept, and the log-probabilities.
        """
        runs = []
        for window in weighing_windows(cls.tokens, KASCADE, cls.bos):
            attention, entrances = RowRuleAttention(Schedule(KASCADE, cls.all_select())), []
            logits = forward(cls.model, window, attention,
                             observe=lambda _, x, y, seen=entrances: seen.append(x))
            dense = log_softmax(forward(cls.model, window))
            runs.append((dense, entrances, attention.kept, log_softmax(logits)))
        return runs

    @classmethod
    @functools.cache
    def loss(cls, other=None):
        """Mean KL(dense ‖ sparse) with per-query selection, nats per token: of the schedule in which every
        layer selects, or of one that differs in the layer other[0], which is other[1].

        Layers before the one that differs are not run again: nothing in them depends on it.
        """
        kl = []
        for dense, entrances, kept, logprobs in cls.weighing_runs():
            if other is not None:
                layer, plan = other[0], list(cls.all_select())
                plan[layer] = other[1]
                attention = RowRuleAttention(Schedule(KASCADE, tuple(plan)), kept)
                x = through_layers(cls.model, entrances[layer], attention, begin=layer)
                logprobs = log_softmax(logits_of(cls.model, x))
            kl += list((np.exp(dense) * (dense - logprobs)).sum(axis=1))
        return np.mean(kl)

    @classmethod
    def all_select(cls):
        """The plan in which every layer selects, layer 0 dense."""
        own = tuple(range(cls.model.config.kv_heads))
        return tuple(Layer("anchor" if layer else "dense", layer, own)
                     for layer in range(cls.model.config.layers))

    def reuse_costs(self, similarity, maps):
        """(what reuse in each layer alone costs, the recall it loses), both without layer 0."""
        losses, lost = [], []
        for layer in range(1, self.model.config.layers):
            source = int(np.argmax(similarity[:layer, layer]))
            lost.append(1 - similarity[source, layer])
            losses.append(self.loss((layer, Layer("reuse", source, tuple(maps[source, layer])))))
        return np.maximum(0, np.array(losses) - self.loss()), np.array(lost)

    def test_weighted_by_loss(self):
        similarity, maps, importance = self.reference(KASCADE, recalled_mass)
        costs, lost = self.reuse_costs(similarity, maps)
        weights = np.append(0, np.maximum(costs, costs.mean() / 100) / np.maximum(lost, 0.01) ** 2)
        plans = best_anchors(-(1 - similarity) ** 2, weights)
        for count in (3, 5):
            result = self.calibrate(ratio=KASCADE.ratio, min_keys=KASCADE.min_keys, anchors=count)
            self.check_figures(result, similarity, importance)
            layers = result.schedule.layers
            self.assertFalse(layers[0].HasField("reuse_cost"))
            np.testing.assert_allclose([layer.reuse_cost for layer in layers[1:]], costs,
                                       rtol=1e-3, atol=1e-5)
            self.check_chosen(result, plans[count][1], similarity, maps)

    def test_layers_dense_for_what_their_choice_costs(self):
        result = self.calibrate(ratio=KASCADE.ratio, min_keys=KASCADE.min_keys,
                                max_degradation_percent=0.8)
        told = {}
        for index, layer in enumerate(result.schedule.layers):
            cost = re.fullmatch(r"kept dense: its own choice costs (\d\.\d{5}) nats", layer.reason)
            dense = layer.role == client.module("schedule_pb2").LAYER_ROLE_DENSE
            self.assertEqual(bool(cost), dense and index > 0, layer.reason)
            if cost:
                told[index] = float(cost[1])
        self.assertTrue(told)
        for index, cost in told.items():
            dense = Layer("dense", index, self.all_select()[index].head_map)
            self.assertAlmostEqual(cost, self.loss() - self.loss((index, dense)), delta=2e-5,
                                   msg=f"layer {index}")

    def test_few_anchors(self):
        self.check_best_plan(3, recalled_mass)

    def test_more_anchors(self):
        self.check_best_plan(6, recalled_mass)

    def test_published_slip(self):
        self.check_best_plan(4, lambda window, a, b: recalled_mass(window, a, b, slip=True),
                             published_head_map_slip=True)

    def test_greedy_tiles(self):
        similarity, maps, importance = self.reference(TILE, jaccard)
        for threshold in (0.2, 0.35, 0.65):
            result = self.calibrate(
                family=client.module("schedule_pb2").SELECTION_FAMILY_TILE, tile_size=16,
                top_k=TILE.top_k, threshold=threshold)
            self.check_figures(result, similarity, importance)
            steps = greedy_schedule(similarity, 4, threshold)
            self.check_plan(result, [step.role for step in steps],
                            [step.anchor for step in steps], similarity, maps)
            self.check_layers(result, TILE, jaccard)
            pair = result.most_similar_pair
            self.assertAlmostEqual(pair.similarity, similarity[pair.anchor, pair.layer],
                                   delta=TOLERANCE)
            reach = [similarity[a, b] for b in range(2, len(similarity))
                     for a in range(max(1, b - 3), b)]
            self.assertAlmostEqual(pair.similarity, max(reach), delta=TOLERANCE)

    def test_automatic_threshold(self):
        similarity, _, _ = self.reference(TILE, jaccard)
        result = self.calibrate(top_k=TILE.top_k, auto_threshold=True)
        median = np.median([similarity[b - 1, b] for b in range(2, len(similarity))])
        self.assertAlmostEqual(result.auto_threshold.median_similarity, median, delta=TOLERANCE)
        self.assertAlmostEqual(result.auto_threshold.threshold, 0.9 * median, delta=TOLERANCE)
        self.assertGreater(result.schedule.reuse_layers_ratio, 0)

    def test_largest_probability(self):
        self.check_best_plan(4, recalled_mass, rule=LARGEST,
                             pooling=client.module("schedule_pb2").SCORE_POOLING_MAX)

    def test_one_choice_for_all_heads(self):
        self.check_best_plan(4, recalled_mass, rule=ALL_HEADS, all_heads=True)

    def test_quality_check(self):
        """What the quality check reports, from log-probabilities of the reference alone."""
        result = self.calibrate(ratio=KASCADE.ratio, min_keys=KASCADE.min_keys, anchors=5,
                                plan_weight=self.pb.PLAN_WEIGHT_IMPORTANCE)
        layers = tuple(Layer(ROLES[client.module("schedule_pb2").LayerRole.Name(layer.role)],
                             layer.anchor, tuple(layer.head_map))
                       for layer in result.schedule.layers)
        schedule = Schedule(KASCADE, layers)
        differences, dense_nll, kl, same, attended, causal = [], [], [], [], 0, 0
        for piece in held_out_pieces(self.tokens):
            window = [self.bos] + piece[:-1]
            first = log_softmax(forward(self.model, window))
            second = log_softmax(forward(self.model, window, RowRuleAttention(schedule)))
            rows = np.arange(len(piece))
            dense_nll += list(-first[rows, piece])
            differences += list(first[rows, piece] - second[rows, piece])
            kl += list((np.exp(first) * (first - second)).sum(axis=1))
            same += list(first.argmax(axis=1) == second.argmax(axis=1))
            told = counts(schedule, self.model.config.kv_heads, len(window), 0)
            attended += told["attended"]
            causal += told["causal"]
        quality = result.schedule.quality
        tokens = len(differences)
        rise, error = np.mean(differences), np.std(differences, ddof=1) / np.sqrt(tokens)
        self.assertEqual(quality.tokens, tokens)
        self.assertGreater(tokens, 2000)
        self.assertAlmostEqual(quality.dense_perplexity / np.exp(np.mean(dense_nll)), 1, delta=1e-5)
        self.assertAlmostEqual(
            quality.sparse_perplexity / np.exp(np.mean(dense_nll) + rise), 1, delta=1e-4)
        self.assertAlmostEqual(quality.degradation_percent, 100 * np.expm1(rise), delta=5e-3)
        self.assertAlmostEqual(quality.degradation_percent_standard_error,
                               100 * np.exp(rise) * error, delta=5e-3)
        self.assertGreater(quality.degradation_percent_standard_error, 0.1)
        self.assertAlmostEqual(quality.mean_kl, np.mean(kl), delta=2e-4)
        self.assertAlmostEqual(quality.same_top1_ratio, np.mean(same), delta=2 / tokens)
        self.assertAlmostEqual(quality.keys_attended_ratio, attended / causal, delta=1e-12)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    client.SERVER = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
