"""Self-checks of quantized.py: run with `python3 -m unittest test_quantized` in this folder."""

import unittest

import numpy as np

from quantized import LEVELS, IntegerMatrix, int4_steps, int8_levels, int8_rounded, rotated


class QuantizedTest(unittest.TestCase):

    def setUp(self):
        self.rows = np.random.default_rng(3).normal(size=(40, 50)) * np.geomspace(1e-3, 1e3, 40)[:, None]

    def test_int8_is_the_nearest_level(self):
        levels, scales = int8_levels(self.rows)
        self.assertEqual(np.abs(levels).max(axis=1).tolist(), [127.0] * 40)
        self.assertLessEqual((np.abs(levels * scales - self.rows) / scales).max(), 0.5 + 1e-12)
        self.assertEqual(int8_levels(np.zeros((1, 4)))[0].tolist(), [[0.0] * 4])

    def test_int4_is_the_best_of_those_tried(self):
        steps, scales = int4_steps(self.rows)
        # By plain loops, one group at a time.
        for channel in (0, 17, 39):
            scale = np.abs(self.rows[channel]).max() / 120
            self.assertAlmostEqual(scales[channel, 0] / scale, 1, places=12)
            for first in range(0, 50, 8):
                group = self.rows[channel, first:first + 8] / scale
                best = min(sum(min((x - level * sign * size) ** 2 for level in LEVELS)
                               for x in group) for size in range(5, 13) for sign in (1, -1))
                error = ((group - steps[channel, first:first + 8]) ** 2).sum()
                self.assertAlmostEqual(error / best, 1, places=9)
        self.assertLess(np.abs(steps * scales - self.rows).max(axis=1).max(), 1e3)
        # The error of a normal channel is some 6 % of its spread, and not that of int8.
        miss = np.sqrt(((steps * scales - self.rows) ** 2).mean(axis=1)) / self.rows.std(axis=1)
        self.assertTrue(np.all((miss > 0.02) & (miss < 0.15)))

    def test_a_rotation_keeps_products_and_spreads_a_large_value(self):
        rows = np.random.default_rng(5).normal(size=(6, 256 + 64 + 16 + 4 + 3))
        np.testing.assert_allclose(rotated(rows) @ rotated(rows).T, rows @ rows.T, rtol=1e-12)
        rows[:, 17] = 1000
        self.assertLess(np.abs(rotated(rows)).max(), 70)

    def test_products_are_those_of_the_rounded_values(self):
        x, weight = self.rows[:5], np.random.default_rng(4).normal(size=(7, 50))
        for form in ("int8", "int4"):
            round_off = int8_levels if form == "int8" else int4_steps
            steps, scales = round_off(rotated(weight))
            wanted = int8_rounded(rotated(x)) @ (steps * scales).T
            np.testing.assert_allclose(x @ IntegerMatrix(weight, form), wanted, rtol=1e-12)


if __name__ == "__main__":
    unittest.main()
