#!/usr/bin/env python3
"""The soak in short: seconds instead of an hour, without the trend of the memory; and its arithmetic.

Usage: soak_test.py SERVER [unittest arguments]
"""

import collections
import sys
import unittest

import soak
import soak_load
import soak_readings

SECONDS = 20

server_path = None


class Readings(unittest.TestCase):
    def test_the_trend_of_a_line_is_its_slope(self):
        found = soak_readings.trend([0, 1, 2, 3], [5, 7, 9, 11])
        self.assertAlmostEqual(found.slope, 2)
        self.assertAlmostEqual(found.standard_error, 0)

    def test_the_standard_error_is_that_of_the_textbook(self):
        # Residuals ±1/2 of y = x at x = 0 to 3: their squares sum to 0.8 about the best line.
        found = soak_readings.trend([0, 1, 2, 3], [0.5, 0.5, 2.5, 2.5])
        self.assertAlmostEqual(found.slope, 0.8)
        self.assertAlmostEqual(found.standard_error, (0.8 / 2 / 5) ** 0.5)

    def test_means_are_those_of_whole_spans(self):
        times, values = soak_readings.means([0, 4, 10, 14, 20], [1, 3, 5, 7, 100], span=10)
        self.assertEqual((times, values), ([2, 12], [2, 6]))

    def test_a_percentile_is_one_of_the_values(self):
        self.assertEqual(soak_readings.percentile([3, 1, 2], 0.5), 2)
        self.assertIsNone(soak_readings.percentile([], 0.5))


class Accounts(unittest.TestCase):
    def account(self, issued, answered, abandoned):
        account = soak_load.Account()
        account.issued["Score"] = issued
        account.answered = collections.Counter(answered)
        account.abandoned["Score"] = abandoned
        return account

    def test_an_abandoned_call_may_have_ended_in_any_way_or_never_arrived(self):
        account = self.account(10, {("Score", "OK"): 7, ("Score", "NOT_FOUND"): 1}, 2)
        for abandoned in {}, {"OK": 9}, {"OK": 8, "CANCELLED": 1}, {"CANCELLED": 2}:
            counted = {("Score", "OK"): 7, ("Score", "NOT_FOUND"): 1,
                       **{("Score", code): count for code, count in abandoned.items()}}
            self.assertEqual(account.faults({}, counted), [], abandoned)

    def test_what_does_not_agree_is_told(self):
        account = self.account(10, {("Score", "OK"): 8}, 2)
        for counted in {"OK": 7}, {"OK": 8, "CANCELLED": 3}, {"INTERNAL": 8}:
            self.assertNotEqual(
                account.faults({}, {("Score", code): count for code, count in counted.items()}), [])
        self.assertNotEqual(self.account(10, {("Score", "OK"): 8}, 1).faults(
            {}, {("Score", "OK"): 8}), [])

    def test_what_was_counted_before_does_not_count(self):
        account = self.account(1, {("Score", "OK"): 1}, 0)
        self.assertEqual(account.faults({("Score", "OK"): 5}, {("Score", "OK"): 6}), [])
        self.assertNotEqual(account.faults({("Score", "OK"): 5}, {("Score", "OK"): 5}), [])


class Soak(unittest.TestCase):
    def test_a_server_under_a_mixed_load_stays_as_it_was(self):
        report = soak.soak(server_path, SECONDS, seed=1, options=["--threads", "1"])
        self.assertEqual(report["faults"], [], report)
        for kind in "Generate", "Score", "Tokenize", "Calibrate", "ActivateSchedule":
            self.assertGreater(report["issued"].get(kind, 0), 0, report["issued"])
        self.assertGreater(sum(report["abandoned"].values()), 0)
        self.assertTrue(any(not code.endswith(" OK") for code in report["answered"]))


if __name__ == "__main__":
    server_path = sys.argv.pop(1)
    unittest.main()
