"""Calibrate on models/demo against float64: calibration_agreement_test.py KASCADE_SERVER

The reference cuts the same texts into windows, measures similarity and importance with numpy and
plans; the server (f32) must give the same figures to 1e-4 and the same plans.
"""

import pathlib
import sys
import unittest

import numpy as np

import python_client_test as client

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The reference has a kascade.py, which would hide the package of the stubs.
sys.path.insert(0, str(ROOT / "tests" / "reference"))
from calibration import (best_anchors, collect, greedy_schedule, jaccard, layer_similarities,
                         recalled_mass, sampled_tiles)  # noqa: E402
from kascade import Rule  # noqa: E402
from llama import Model  # noqa: E402
sys.path.pop(0)
del sys.modules["kascade"]

DEMO = ROOT / "models" / "demo"
TOLERANCE = 1e-4
WINDOW, MOST_WINDOWS = 512, 16
KASCADE = Rule(min_keys=16)
TILE = Rule(family="tile", query_tile=16, top_k=4)
ROLES = {"LAYER_ROLE_DENSE": "dense", "LAYER_ROLE_ANCHOR": "anchor", "LAYER_ROLE_REUSE": "reuse"}


def windows_of(texts, rule, bos):
    """The tokens that are fed of each measured window: see "Windows" of the calibration's method.

    The last fifth of each text is held out. Of a window's tokens, BOS first, the last is only
    predicted. The longest text comes on top as one window: all here are shorter than the context.
    """
    measured = [text[:len(text) - len(text) // 5] for text in texts]
    least = rule.query_tile
    while not sampled_tiles(rule, least):
        least += rule.query_tile
    pieces = []
    for text in measured:
        for begin in range(0, len(text) - least + 1, WINDOW):
            pieces.append(text[begin:begin + WINDOW])
    if len(pieces) > MOST_WINDOWS:
        pieces = [pieces[i * len(pieces) // MOST_WINDOWS] for i in range(MOST_WINDOWS)]
    longest = max(measured, key=len)
    if len(longest) > WINDOW:
        pieces.append(longest)
    return [[bos] + piece[:-1] for piece in pieces]


class CalibrationAgreement(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        channel = client.open_channel(cls, "--weights", "f32")
        cls.tokenizer = client.module("inference_service_pb2_grpc").InferenceServiceStub(channel)
        cls.stub = client.module("calibration_service_pb2_grpc").CalibrationServiceStub(channel)
        cls.pb = client.module("calibration_service_pb2")
        cls.model = Model(DEMO)
        text = (DEMO / "calibration.txt").read_text()
        cls.texts = [text[i * 5000:i * 5000 + 3800] for i in range(12)]
        request = client.module("tokenize_pb2").TokenizeRequest(texts=cls.texts, add_bos=True)
        encoded = [list(result.token_ids)
                   for result in cls.tokenizer.Tokenize(request, timeout=60).results]
        cls.bos, cls.tokens = encoded[0][0], [ids[1:] for ids in encoded]
        cls.measured = {}

    def reference(self, rule, measure):
        """(similarity [N, N], {(a, b): head map}, importance [N])."""
        if rule not in self.measured:
            self.measured[rule] = [collect(self.model, window, rule)
                                   for window in windows_of(self.tokens, rule, self.bos)]
        windows = self.measured[rule]
        importance = np.mean([window.importance for window in windows], axis=0)
        return *layer_similarities(windows, measure), importance

    def calibrate(self, **fields):
        request = self.pb.CalibrateRequest(texts=self.texts, window_tokens=WINDOW, activate=False,
                                           max_degradation_percent=1000, **fields)
        for message in self.stub.Calibrate(request, timeout=240):
            if message.WhichOneof("event") == "result":
                return message.result
        return self.fail("the stream ended without a result")

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

    def check_best_plan(self, count, measure, **fields):
        similarity, maps, importance = self.reference(KASCADE, measure)
        result = self.calibrate(ratio=KASCADE.ratio, min_keys=KASCADE.min_keys, anchors=count,
                                plan_weight=self.pb.PLAN_WEIGHT_IMPORTANCE, **fields)
        self.check_figures(result, similarity, importance)
        _, chosen = best_anchors(similarity, importance)[count]
        anchors = [max(a for a in chosen if a <= layer) for layer in range(len(importance))]
        roles = ["dense"] + ["anchor" if anchors[layer] == layer else "reuse"
                             for layer in range(1, len(importance))]
        self.check_plan(result, roles, anchors, similarity, maps)

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


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    client.SERVER = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
