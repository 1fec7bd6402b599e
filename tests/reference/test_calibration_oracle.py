"""Self-checks of the calibration oracle: run with `python3 -m unittest` in this folder."""

import itertools
import pathlib
import tempfile
import unittest

import numpy as np

import llama
import random_model
from calibration import (Window, best_anchors, collect, greedy_schedule, head_map, importance,
                         jaccard, layer_similarities, recalled_mass, sampled_tiles, total_of,
                         unit_masses)
from kascade import Group, Rule, scores


def hand_made():
    """Two layers, two heads, one tile of four units; the right map is known.

    Layer 1 head 0 wants units {0, 1} as layer 0 head 1 does; head 1 wants {2, 3} as head 0 does.
    """
    masses = np.array([[0.3, 0.3, 0.05, 0.05], [0.01, 0.01, 0.02, 0.06]])
    return Window(choices=[[np.array([[2, 3], [0, 1]])], [np.array([[0, 1], [2, 3]])]],
                  masses=[[masses], [masses]],
                  own=[[np.array([0.3, 0.9])], [np.array([0.3, 0.9])]])


class SimilarityTest(unittest.TestCase):

    def test_hand_made_recalled_mass(self):
        wanted = [[(0.1 + 0.3) / (0.6 + 0.3), 1.0], [1.0, (0.02 + 0.9) / (0.08 + 0.9)]]
        pair = recalled_mass(hand_made(), 0, 1)
        np.testing.assert_allclose(pair, wanted, rtol=1e-14)
        self.assertEqual(head_map(pair), [1, 0])

    def test_the_slip_changes_values_and_maps(self):
        window = hand_made()
        window.choices[0] = [np.array([[0, 2], [2, 3]])]  # head 0 recalls more of target 0
        right, wrong = recalled_mass(window, 0, 1), recalled_mass(window, 0, 1, slip=True)
        np.testing.assert_allclose(right[0], [(0.35 + 0.3) / 0.9, (0.1 + 0.3) / 0.9])
        np.testing.assert_allclose(wrong[0], [(0.35 + 0.3) / 0.9, (0.1 + 0.9) / 1.5])
        window.own[1] = [np.array([0.3, 9.0])]
        self.assertEqual(head_map(recalled_mass(window, 0, 1))[0], 0)
        self.assertEqual(head_map(recalled_mass(window, 0, 1, slip=True))[0], 1)

    def test_minimum_over_tiles_and_lowest_head_on_ties(self):
        window = hand_made()
        window.choices[0].append(np.array([[0, 1], [0, 1]]))
        window.choices[1].append(np.array([[0, 1], [0, 1]]))
        window.masses[1].append(np.full((2, 4), 0.1))
        window.own[1].append(np.array([0.6, 0.6]))
        np.testing.assert_allclose(recalled_mass(window, 0, 1)[0], [0.4 / 0.9, 1.0])
        self.assertEqual(head_map(np.array([[0.5, 0.7, 0.7], [0.2, 0.2, 0.2]])), [1, 0])

    def test_jaccard_by_hand(self):
        window = hand_made()
        np.testing.assert_allclose(jaccard(window, 0, 1), [[0, 1], [1, 0]])
        window.choices[0].append(np.array([[0, 2], [1, 3]]))
        window.choices[1].append(np.array([[0, 1], [2, 3]]))
        np.testing.assert_allclose(jaccard(window, 0, 1), [[1 / 6, 2 / 3], [2 / 3, 1 / 6]])

    def test_sampled_tiles(self):
        rule = Rule(min_keys=16, ratio=0.1)
        self.assertEqual(sampled_tiles(rule, 63), [])
        self.assertEqual(sampled_tiles(rule, 64), [Group(32, 64, False)])
        firsts = [group.first // 32 for group in sampled_tiles(rule, 2048 + 31)]
        self.assertEqual(firsts, list(range(1, 64)))
        firsts = [group.first // 32 for group in sampled_tiles(rule, 16384)]
        self.assertEqual((len(set(firsts)), firsts[0], firsts[-1]), (64, 1, 511))

    def test_masses_of_both_families(self):
        rng = np.random.default_rng(0)
        q, k = rng.normal(size=(4, 8, 6)), rng.normal(size=(2, 40, 6))
        group = Group(32, 40, False)
        for rule, rows in ((Rule(query_tile=8), 8), (Rule(family="tile", query_tile=8), 1)):
            masses, own = unit_masses(rule, q, k, group)
            np.testing.assert_allclose(masses.sum(axis=1) + own, rows * 2.0, rtol=1e-12)
            if rule.family == "kascade":
                np.testing.assert_array_equal(masses, scores(rule, q, k, group))
            else:
                self.assertEqual(masses.shape, (2, 4))

    def test_collected_model(self):
        with tempfile.TemporaryDirectory() as folder:
            model = llama.Model(random_model.write_model(pathlib.Path(folder), random_model.Spec()))
        tokens = np.random.default_rng(2).integers(0, 257, 200)
        for rule in (Rule(min_keys=8), Rule(family="tile", query_tile=16, top_k=2)):
            windows = [collect(model, tokens, rule), collect(model, tokens[:150], rule)]
            for measure in (recalled_mass, jaccard):
                similarity, maps = layer_similarities(windows, measure)
                np.testing.assert_allclose(np.diag(similarity), 1.0, rtol=1e-12)
                self.assertTrue((similarity <= 1 + 1e-12).all())
                if measure is jaccard:
                    self.assertEqual([maps[i, i] for i in range(4)], [[0, 1]] * 4)
            right = recalled_mass(windows[0], 0, 2)
            wrong = recalled_mass(windows[0], 0, 2, slip=True)
            np.testing.assert_allclose(np.diag(right), np.diag(wrong), rtol=1e-12)
            self.assertGreater(np.abs(right - wrong).max(), 1e-4)
            self.assertTrue(all(0 < x < 2 for x in windows[0].importance))

    def test_importance_by_hand(self):
        x = np.array([[1.0, 0.0], [0.0, 2.0]])
        y = np.array([[3.0, 0.0], [1.0, 0.0]])
        self.assertAlmostEqual(importance(x, y), 0.5)


class MakerTest(unittest.TestCase):

    def test_dynamic_programming_equals_brute_force(self):
        rng = np.random.default_rng(3)
        for count in range(1, 10):
            for trial in range(4):
                # small integers give many ties, and exact sums
                similarity = np.triu(rng.integers(0, 4 if trial % 2 else 1000, (count, count)))
                weights = rng.integers(1, 3, count)
                best = best_anchors(similarity, weights)
                for size in range(1, count + 1):
                    sets = [(0,) + rest
                            for rest in itertools.combinations(range(1, count), size - 1)]
                    # most similar first; ties: smallest last anchor, then the one before it
                    wanted = min(sets, key=lambda s: (-total_of(similarity, weights, s), s[::-1]))
                    total = total_of(similarity, weights, wanted)
                    self.assertEqual(best[size], (total, wanted))

    def test_greedy_rules(self):
        ones = np.ones((9, 9))
        steps = greedy_schedule(ones)
        self.assertEqual([step.role[0] for step in steps], list("darrrarrr"))
        self.assertEqual([step.anchor for step in steps], [0, 1, 1, 1, 1, 5, 5, 5, 5])
        self.assertEqual((steps[1].reason, steps[5].reason), ("first sparse layer", "distance"))
        self.assertTrue(all(step.role == "anchor" for step in greedy_schedule(ones, 1)[1:]))

    def test_greedy_compares_with_anchors_in_reach(self):
        similarity = np.full((6, 6), 0.9)
        similarity[1, 2] = 0.5
        similarity[1, 3] = 0.95
        similarity[1, 4], similarity[2, 4] = 0.65, 0.65
        steps = greedy_schedule(similarity)
        self.assertEqual(steps[2].role + ": " + steps[2].reason, "anchor: low similarity")
        self.assertEqual(steps[3].anchor, 1)  # the better one, not the nearer
        self.assertEqual(steps[4].anchor, 2)  # equal: the nearer; at the threshold: reuse
        self.assertEqual(steps[5].anchor, 2)


if __name__ == "__main__":
    unittest.main()
