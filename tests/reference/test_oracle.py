"""Self-checks of the oracle: run with `python3 -m unittest test_oracle` in this folder."""

import math
import pathlib
import tempfile
import unittest
from dataclasses import replace

import numpy as np

import llama
import random_model
import rounding
from kascade import (Group, Layer, Rule, Schedule, SparseAttention, attend, attend_by_mask,
                     attended_keys, budget, candidates, choose, counts, groups_of, scores, select,
                     takes_all)
from nearby import Nearby
from row_rule import RowRuleAttention

LENGTHS = (1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 159, 160, 161, 255, 256, 257)
SMALL = Rule(min_keys=8, ratio=0.1, query_tile=8)
SMALL_TILE = Rule(family="tile", query_tile=8, top_k=2)


def random_heads(seed, heads, kv_heads, length, dim):
    """q [H, L, D], k and v [G, L, D]."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(heads, length, dim)) * 2.0
    return q, rng.normal(size=(kv_heads, length, dim)), rng.normal(size=(kv_heads, length, dim))


def plain_probability(q, k, head, shared, position):
    """Probabilities of one row, by loops."""
    logits = [float(np.dot(q[head, position], k[head // shared, j])) / math.sqrt(q.shape[2])
              for j in range(position + 1)]
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    return [w / sum(weights) for w in weights]


def plain_scores(rule, q, k, group):
    """Scores by loops; q of the whole sequence."""
    begin, end = candidates(rule, group)
    shared = q.shape[0] // k.shape[0]
    unit = rule.query_tile if rule.family == "tile" else 1
    result = np.zeros((k.shape[0], (end - begin) // unit))
    for head in range(q.shape[0]):
        for position in range(group.first, group.last):
            p = plain_probability(q, k, head, shared, position)
            for j in range(begin, end):
                cell = 0 if rule.all_heads else head // shared, (j - begin) // unit
                if rule.family == "kascade" and rule.pooling == "sum":
                    result[cell] += p[j]
                elif rule.family == "kascade" or position == group.last - 1:
                    result[cell] = max(result[cell], p[j])
    if rule.all_heads:
        result[:] = result[0]
    return result


def whole(schedule, tile_rule_end):
    """Roles of `schedule` on one q, k, v: layer -> output."""
    attention = SparseAttention(schedule, tile_rule_end)
    return lambda q, k, v: [attention(i, q, k, v) for i in range(len(schedule.layers))]


def two_anchors(rule, heads=2):
    same = tuple(range(heads))
    last = tuple([heads - 1] * heads)
    return Schedule(rule, (Layer("dense", 0, same), Layer("reuse", 0, same[::-1]),
                           Layer("anchor", 2, same), Layer("reuse", 2, last)))


class SelectionTest(unittest.TestCase):

    def test_groups_cover_each_row_once(self):
        for length in LENGTHS:
            for end in (0, 1, 40, 64, length):
                groups = groups_of(Rule(), length, end)
                rows = [t for g in groups for t in range(g.first, g.last)]
                self.assertEqual(rows, list(range(length)))
        self.assertEqual(groups_of(Rule(), 43, 41),
                         [Group(0, 32, False), Group(32, 41, False), Group(41, 42, True),
                          Group(42, 43, True)])

    def test_budget_depends_on_the_tile_start_alone(self):
        cases = {0: 0, 32: 32, 96: 96, 128: 128, 160: 128, 1280: 128, 1312: 131, 4096: 409}
        for start, wanted in cases.items():
            for last in (start + 1, start + 32):
                self.assertEqual(budget(Rule(), Group(start, last, False)), wanted)
            self.assertEqual(budget(Rule(), Group(start + 31, start + 32, True)), wanted)
        self.assertEqual(budget(Rule(ratio=1.0), Group(640, 672, False)), 640)
        self.assertEqual(budget(Rule(ratio=0.29, min_keys=1), Group(96, 128, False)), 27)
        self.assertEqual(budget(Rule(ratio=0.01, min_keys=1), Group(64, 96, False)), 1)

    def test_budget_with_sinks_and_paper_decode(self):
        sinks = Rule(sink_keys=4)
        self.assertEqual(candidates(sinks, Group(160, 192, False)), (4, 160))
        self.assertEqual(budget(sinks, Group(128, 160, False)), 124)
        self.assertEqual(candidates(sinks, Group(0, 32, False)), (0, 0))
        paper = Rule(decode_own_tile=False)
        self.assertEqual(candidates(paper, Group(1289, 1290, True)), (0, 1290))
        self.assertEqual(budget(paper, Group(1289, 1290, True)), 129)
        self.assertEqual(budget(paper, Group(100, 101, True)), 101)
        self.assertEqual(candidates(paper, Group(1280, 1312, False)), (0, 1280))

    def test_budget_of_tiles(self):
        rule = Rule(family="tile", query_tile=16, top_k=12)
        for start, wanted in {0: 0, 16: 1, 192: 12, 208: 12, 4080: 12}.items():
            self.assertEqual(budget(rule, Group(start, start + 16, False)), wanted)
        self.assertTrue(takes_all(rule, Group(192, 208, False)))
        self.assertFalse(takes_all(rule, Group(208, 224, False)))

    def test_ties_go_to_the_lower_index(self):
        values = np.array([[1.0, 2.0, 2.0, 1.0, 2.0, 1.0], [0.0] * 6])
        self.assertEqual(select(values, 4).tolist(), [[0, 1, 2, 4], [0, 1, 2, 3]])
        self.assertEqual(select(values, 2).tolist(), [[1, 2], [0, 1]])
        self.assertEqual(select(values, 0).shape, (2, 0))
        q, k, _ = random_heads(1, 4, 2, 40, 8)
        sets, _ = choose(SMALL, 0.0 * q[:, 32:40], k, Group(32, 40, False))
        self.assertEqual(sets.tolist(), [list(range(8))] * 2)

    def test_scores_against_plain_loops(self):
        for heads, kv_heads in ((2, 2), (4, 2), (3, 1)):
            q, k, _ = random_heads(2, heads, kv_heads, 30, 5)
            for rule in (SMALL, SMALL_TILE, replace(SMALL, sink_keys=3),
                         replace(SMALL, decode_own_tile=False), replace(SMALL, pooling="max"),
                         replace(SMALL, all_heads=True),
                         replace(SMALL, all_heads=True, pooling="max", sink_keys=3)):
                for group in (Group(16, 24, False), Group(24, 30, False), Group(27, 28, True)):
                    got = scores(rule, q[:, group.first:group.last], k, group)
                    wanted = plain_scores(rule, q, k, group)
                    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-300)


class AttentionTest(unittest.TestCase):

    def test_dense_against_plain_loops(self):
        q, k, v = random_heads(3, 4, 2, 9, 6)
        out = llama.dense_attention(0, q, k, v)
        for head in range(4):
            for t in range(9):
                p = plain_probability(q, k, head, 2, t)
                wanted = sum(p[j] * v[head // 2, j] for j in range(t + 1))
                np.testing.assert_allclose(out[head, t], wanted, rtol=1e-12, atol=1e-14)

    def test_all_heads_choose_the_same_and_otherwise_not(self):
        q, k, _ = random_heads(14, 6, 3, 300, 16)
        group = Group(256, 288, False)
        chosen = {}
        for pooling in ("sum", "max"):
            for all_heads in (False, True):
                rule = Rule(min_keys=8, pooling=pooling, all_heads=all_heads)
                sets, _ = choose(rule, q[:, 256:288], k, group)
                same = all(np.array_equal(sets[0], other) for other in sets[1:])
                self.assertEqual(same, all_heads)
                chosen[pooling, all_heads] = sets.tolist()
        self.assertEqual(len({str(sets) for sets in chosen.values()}), 4)

    def test_two_routes_of_an_anchor_agree(self):
        q, k, v = random_heads(4, 6, 2, 300, 16)
        for rule in (Rule(min_keys=8), Rule(min_keys=8, sink_keys=5), SMALL_TILE,
                     Rule(min_keys=8, decode_own_tile=False), Rule(min_keys=8, pooling="max"),
                     Rule(min_keys=8, all_heads=True)):
            for group in groups_of(rule, 300, 270):
                rows = q[:, group.first:group.last]
                sets, _ = choose(rule, rows, k, group)
                one = attend(rule, rows, k, v, group, sets)
                other = attend_by_mask(rule, rows, k, v, group, sets)
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)

    def test_everything_chosen_is_dense(self):
        for rule in (replace(SMALL, ratio=1.0), replace(SMALL, min_keys=1000),
                     replace(SMALL_TILE, top_k=1000), replace(SMALL, ratio=1.0, sink_keys=6),
                     replace(SMALL, ratio=1.0, decode_own_tile=False)):
            for length in LENGTHS:
                q, k, v = random_heads(5, 4, 2, length, 4)
                dense = llama.dense_attention(0, q, k, v)
                for out in whole(two_anchors(rule), length // 2)(q, k, v):
                    np.testing.assert_allclose(out, dense, rtol=0, atol=1e-12)

    def test_short_is_dense_and_long_is_not(self):
        layers = whole(two_anchors(Rule()), 10 ** 6)
        for length, same in ((159, True), (160, True), (161, False)):
            q, k, v = random_heads(6, 4, 2, length, 8)
            dense = llama.dense_attention(0, q, k, v)
            for index, out in enumerate(layers(q, k, v)):
                equal = np.abs(out - dense).max() < 1e-12
                self.assertEqual(equal, same or index == 0)

    def test_no_row_reads_keys_after_it(self):
        for rule in (SMALL, SMALL_TILE, replace(SMALL, decode_own_tile=False, sink_keys=2)):
            for tile_rule_end, t in ((48, 21), (0, 21), (0, 23), (20, 21)):
                safe = t + 1 if t >= tile_rule_end else (t // 8 + 1) * 8
                q, k, v = random_heads(7, 4, 2, 48, 8)
                clean = whole(two_anchors(rule), tile_rule_end)(q, k, v)
                q[:, safe:], k[:, safe:], v[:, safe:] = np.nan, np.nan, np.nan
                with np.errstate(invalid="ignore"):
                    # dense rows share a matrix product, so only sparse layers are looked at
                    poisoned = SparseAttention(two_anchors(rule), tile_rule_end)
                    for index, layer in enumerate(poisoned.schedule.layers):
                        out = poisoned(index, q, k, v)
                        if layer.role == "reuse" or (layer.role, rule.family) == ("anchor",
                                                                                  "kascade"):
                            np.testing.assert_array_equal(out[:, t], clean[index][:, t])

    def test_keys_that_were_not_chosen_are_not_read(self):
        q, k, v = random_heads(8, 4, 2, 48, 8)
        group = Group(40, 48, False)
        sets, _ = choose(SMALL, q[:, 40:48], k, group)
        clean = attend(SMALL, q[:, 40:48], k, v, group, sets)
        for g in range(2):
            others = np.setdiff1d(np.arange(48), attended_keys(SMALL, group, sets[g]))
            self.assertEqual(len(others), 32)
            k[g, others], v[g, others] = np.nan, np.nan
        np.testing.assert_array_equal(attend(SMALL, q[:, 40:48], k, v, group, sets), clean)

    def test_head_map_names_the_anchor_head(self):
        q, k, v = random_heads(9, 4, 2, 64, 8)
        plain = two_anchors(SMALL)
        swapped = Schedule(SMALL, tuple(
            replace(x, head_map=tuple(1 - g for g in x.head_map)) if x.role == "reuse" else x
            for x in plain.layers))
        swap_q = np.concatenate([q[2:], q[:2]])
        first = SparseAttention(plain, 50)
        first(0, q, k, v)
        second = SparseAttention(swapped, 50)
        second(0, swap_q, k[::-1], v[::-1])  # the anchor's heads in another order
        np.testing.assert_allclose(second(1, q, k, v), first(1, q, k, v), rtol=0, atol=1e-13)

    def test_counts_match_the_attended_sets(self):
        for rule in (SMALL, SMALL_TILE, replace(SMALL, sink_keys=3, decode_own_tile=False)):
            schedule, length, end = two_anchors(rule), 77, 44
            attended = 0
            q, k, _ = random_heads(10, 2, 2, length, 4)
            for layer in schedule.layers:
                sparse = layer.role == "reuse" or (layer.role, rule.family) == ("anchor", "kascade")
                for group in groups_of(rule, length, end):
                    sets, _ = choose(rule, q[:, group.first:group.last], k, group)
                    for t in range(group.first, group.last):
                        keys = attended_keys(rule, group, sets[0]) if sparse else np.arange(t + 1)
                        attended += 2 * int((keys <= t).sum())
            got = counts(schedule, 2, length, end, row_bytes=16)
            self.assertEqual(got["attended"], attended)
            self.assertEqual(got["causal"], 2 * 4 * length * (length + 1) // 2)
            self.assertEqual(got["dense_kv_bytes_read"], 2 * got["causal"] * 16)

    def test_counts_by_hand(self):
        got = counts(two_anchors(SMALL), 2, 17, 16)  # tiles at 0 and 8 take all; row 16 chooses 8
        # of 16, plus itself: 9 of 17 in layers 1, 2, 3
        before = 2 * 4 * 16 * 17 // 2
        self.assertEqual(got["attended"], before + 2 * (17 + 3 * 9))
        self.assertEqual(got["scored"], 2 * 2 * 17)
        self.assertEqual(got["rows_read"], 2 * before + 2 * (34 + 18 + (17 + 9) + 18))


class NearbyTest(unittest.TestCase):

    def test_against_plain_loops(self):
        q, k, v = random_heads(12, 4, 2, 50, 6)
        for kind in ("window", "chunk"):
            for size in (1, 15, 16, 17, 33):
                out = Nearby(kind, size).attention(0, q, k, v)
                for head in range(4):
                    for t in range(50):
                        first = max(0, t + 1 - size) if kind == "window" else t - t % size
                        near = k[:, first:], v[head // 2, first:]
                        p = plain_probability(q[:, first:], near[0], head, 2, t - first)
                        wanted = sum(x * near[1][j] for j, x in enumerate(p))
                        np.testing.assert_allclose(out[head, t], wanted, rtol=1e-11, atol=1e-13)

    def test_whole_text_and_dense_layers_are_dense(self):
        q, k, v = random_heads(13, 4, 2, 40, 6)
        dense = llama.dense_attention(0, q, k, v)
        for kind in ("window", "chunk"):
            np.testing.assert_allclose(Nearby(kind, 40).attention(0, q, k, v), dense, atol=1e-13)
            np.testing.assert_array_equal(Nearby(kind, 3, (0,)).attention(0, q, k, v), dense)
            self.assertGreater(np.abs(Nearby(kind, 39).attention(0, q, k, v) - dense).max(), 1e-6)


class ModelTest(unittest.TestCase):

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def model(self, **fields):
        spec = random_model.Spec(width=24, mlp=16, head_dim=8, vocab=257, **fields)
        path = pathlib.Path(self.folder.name) / str(abs(hash(spec)))
        return llama.Model(random_model.write_model(path, spec))

    def test_llama3_scaling_keeps_blends_and_divides(self):
        scaling = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                       original_max_position_embeddings=8192)
        for dim, wanted in ((64, (15, 3, 14)), (128, (29, 6, 29))):
            config = llama.Config(1, 64, 1, 1, dim, 1, 1, 1e-5, 5e5, None, True)
            plain = llama.rope_frequencies(config)
            scaled = llama.rope_frequencies(replace(config, rope_scaling=scaling))
            kept = int(np.isclose(scaled, plain, rtol=1e-12).sum())
            divided = int(np.isclose(scaled, plain / 8, rtol=1e-12).sum())
            self.assertEqual((kept, dim // 2 - kept - divided, divided), wanted)

    def test_rope_depends_on_distance_only(self):
        frequencies = 10000.0 ** (-np.arange(4) / 4)
        q, k, _ = random_heads(11, 1, 1, 1, 8)
        dots = [float(np.sum(llama.rope(q, np.array([i + 7]), frequencies) *
                             llama.rope(k, np.array([i]), frequencies))) for i in (0, 5, 900)]
        np.testing.assert_allclose(dots, dots[0], rtol=1e-10)

    def test_storage_forms_give_the_same_model(self):
        tokens = np.arange(20) * 7 % 257
        plain = llama.forward(self.model(), tokens)
        np.testing.assert_array_equal(llama.forward(self.model(sharded=True), tokens), plain)
        rounded = self.model(dtype="BF16")
        difference = np.abs(llama.forward(rounded, tokens) - plain).max()
        self.assertTrue(0 < difference < 0.3)
        for name, value in self.model().weights.items():
            np.testing.assert_allclose(rounded.weights[name], value, rtol=2 ** -8)
        tied = self.model(tied=True)
        self.assertIs(tied.output, tied.embedding)

    def test_kept_keys_and_values_change_nothing(self):
        model, tokens, attention = self.model(), np.arange(23) * 5 % 257, llama.CachedAttention()
        parts = [llama.forward(model, tokens[a:b], attention, first=a)
                 for a, b in ((0, 9), (9, 10), (10, 23))]
        np.testing.assert_allclose(np.concatenate(parts), llama.forward(model, tokens), atol=1e-12)

    def test_row_rule_is_causal_through_the_whole_model(self):
        model = self.model()
        tokens = np.random.default_rng(0).integers(0, 257, 70)
        for rule in (SMALL, SMALL_TILE, replace(SMALL, decode_own_tile=False)):
            schedule = two_anchors(rule)
            full = llama.forward(model, tokens, SparseAttention(schedule, 30))
            for length in (31, 32, 33, 50):
                short = llama.forward(model, tokens[:length], SparseAttention(schedule, 30))
                np.testing.assert_allclose(short, full[:length], rtol=0, atol=1e-10)
            dense = llama.forward(model, tokens)
            self.assertGreater(np.abs(full - dense).max(), 1e-2)

    def test_rows_of_a_tile_at_once_give_the_same(self):
        model, tokens = self.model(), np.random.default_rng(2).integers(0, 257, 77)
        for rule in (SMALL, replace(SMALL, sink_keys=3), replace(SMALL, pooling="max"),
                     replace(SMALL, all_heads=True)):
            schedule = two_anchors(rule)
            plain = llama.forward(model, tokens, SparseAttention(schedule, tile_rule_end=0))
            whole_tiles = RowRuleAttention(schedule)
            entrances = []
            got = llama.forward(model, tokens, whole_tiles, lambda _, x, y: entrances.append(x))
            np.testing.assert_allclose(got, plain, rtol=0, atol=1e-11)
            # From layer 1 on, with what layer 0 kept.
            rest = llama.through_layers(model, entrances[1],
                                        RowRuleAttention(schedule, {0: whole_tiles.kept[0]}), begin=1)
            np.testing.assert_array_equal(llama.logits_of(model, rest), got)
        with self.assertRaises(ValueError):
            RowRuleAttention(two_anchors(SMALL_TILE))

    def test_the_effect_of_rounding_grows_with_its_unit(self):
        model, tokens = self.model(), np.random.default_rng(3).integers(0, 257, 200)
        small, large = (rounding.effect(model, tokens, 2.0 ** -k) for k in (14, 12))
        # The draws are the same, so first-order effects are four times as large, and KL 16 times.
        self.assertAlmostEqual(large.logits / small.logits, 4, delta=0.5)
        self.assertAlmostEqual(large.score / small.score, 4, delta=0.5)
        self.assertAlmostEqual(large.kl / small.kl, 16, delta=3)
        single = rounding.effect(model, tokens, rounding.F32_UNIT)
        self.assertTrue(2.0 ** -24 < single.logits < 1e-4)

    def test_given_choices_replace_the_own_ones(self):
        model, schedule = self.model(), two_anchors(SMALL)
        tokens = np.random.default_rng(1).integers(0, 257, 60)
        seen = {}
        own = SparseAttention(schedule, 40, on_choice=lambda layer, group, _, sets: seen.update(
            {(layer, group.first): sets}))
        wanted = llama.forward(model, tokens, own)
        given = SparseAttention(schedule, 40, lambda layer, group: seen[layer, group.first])
        np.testing.assert_array_equal(llama.forward(model, tokens, given), wanted)
        lowest = SparseAttention(schedule, 40, lambda layer, group: np.tile(
            np.arange(budget(SMALL, group)), (2, 1)))
        self.assertGreater(np.abs(llama.forward(model, tokens, lowest) - wanted).max(), 1e-3)


DEMO = pathlib.Path(__file__).resolve().parents[2] / "models" / "demo"
PASS_KEY = (0, 524, 749, 3759, 339, 1874, 3370, 358, 221, 20, 24, 18, 17, 19, 14, 599, 449, 449,
            734, 320, 14, 199, 199, 524, 749, 3759, 339, 3519, 67, 292, 358, 221, 25,
            16, 19, 23, 23, 14, 599, 449, 449, 734, 320, 14, 199, 199, 1088, 358, 261,
            749, 3759, 339, 1874, 3370, 31, 394, 749, 3759, 339, 1874, 3370, 358)


class DemoTest(unittest.TestCase):

    def test_the_pass_key_is_found(self):
        """"The pass key for Clara is 48213 … Oscar is 90377 … What is the pass key for Clara?"."""
        found = llama.continued(llama.Model(DEMO), PASS_KEY, 6)[len(PASS_KEY):]
        self.assertEqual(found, [221, 20, 24, 18, 17, 19])  # " 48213"


if __name__ == "__main__":
    unittest.main()
