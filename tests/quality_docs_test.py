"""The figures in docs/quality/README.md are those of its CSV files, cell by cell."""

import csv
import pathlib
import re
import sys
import unittest

FOLDER = pathlib.Path(sys.argv.pop(1)) if len(sys.argv) > 1 else pathlib.Path("docs/quality")

# Title in the page → column of quality.csv.
COLUMNS = {
    "Row": "row",
    "Selecting": "selecting_layers",
    "Predicted": "predicted_similarity",
    "Reuse layers": "reuse_layers_ratio",
    "Attended": "keys_attended_ratio",
    "Scored": "keys_scored_ratio",
    "Bytes": "kv_bytes_ratio",
    "Δ % 512": "change_percent_512",
    "KL 512": "mean_kl_512",
    "Δ % 2,048": "change_percent_2048",
    "KL 2,048": "mean_kl_2048",
    "Δ % 4,096": "change_percent_4096",
    "±": "change_error_percent_4096",
    "KL 4,096": "mean_kl_4096",
    "tile Δ %": "tile_change_percent_4096",
    "Found": "pass_keys_found",
    "of": "pass_key_cases",
}
RECALL = {
    "Tokens": "tokens",
    "Depth": "depth",
    "Cases": "cases",
    "Dense": "dense_found",
    "Sparse": "sparse_found",
}


def read_csv(name):
    with open(FOLDER / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tables(text):
    """(heading, titles, rows of cells) of each table of the page."""
    heading, titles, rows = "", None, []
    for line in text.splitlines() + [""]:
        if line.startswith("## "):
            heading = line[3:].strip()
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if titles is None:
                titles = cells
            elif not set(line) <= set("|-: "):
                rows.append(cells)
        elif titles is not None:
            yield heading, titles, rows
            titles, rows = None, []


class QualityDocsTest(unittest.TestCase):
    def setUp(self):
        self.page = (FOLDER / "README.md").read_text(encoding="utf-8")
        self.rows = read_csv("quality.csv")

    def test_every_cell_is_that_of_the_csv(self):
        shown = 0
        for heading, titles, rows in tables(self.page):
            recall = heading.startswith("Recall")
            source = read_csv("recall.csv") if recall else [
                row for row in self.rows if row["group"] == heading]
            names = RECALL if recall else COLUMNS
            self.assertEqual(len(rows), len(source), heading)
            for cells, row in zip(rows, source):
                for title, cell in zip(titles, cells):
                    self.assertEqual(cell, row[names[title]], f"{heading}: {row}, {title}")
                shown += 1
        self.assertEqual(shown, len(self.rows) + len(read_csv("recall.csv")))

    def test_the_first_finding_is_the_automatic_schedule(self):
        first = self.rows[0]
        finding = next(line for line in self.page.splitlines() if line.startswith("- Automatic"))
        window = max(int(name.rsplit("_", 1)[1]) for name in first
                     if name.startswith("mean_kl_") and first[name])
        change = re.search(r"perplexity ([+-][\d.]+) ± ([\d.]+) %", finding)
        self.assertEqual(change.group(1), first[f"change_percent_{window}"])
        self.assertEqual(change.group(2), first[f"change_error_percent_{window}"])
        self.assertIn(f"KL {first[f'mean_kl_{window}']} nats", finding)
        read = re.search(r"([\d.]+) % of the bytes", finding)
        self.check_share(read.group(1), first["kv_bytes_ratio"])

    def check_share(self, percent, ratio):
        """A percentage of one decimal, and the ratio of four that it comes from."""
        self.assertAlmostEqual(float(percent), 100 * float(ratio), delta=0.056)

    def test_findings_at_equal_bytes(self):
        rows = {row["row"]: row for row in self.rows}
        compared = [row for row in self.rows if row["group"] == "equal bytes"]
        findings = [line for line in self.page.splitlines() if line.startswith("- At ")]
        self.assertEqual(len(findings), len(compared))
        figures = re.compile(r"(?:At|Kascade at) ([\d.]+) % of the bytes|Kascade at ([\d.]+) %|"
                             r"KL ([\d.]+) ± ([\d.]+), ([+-][\d.]+) %, (\d+)/(\d+) pass keys")
        for row, finding in zip(compared, findings):
            pair = row, rows[row["compared_with"]]
            found = figures.findall(finding)
            self.assertEqual(len(found), 4, finding)
            for (share, told), one in zip((found[:2], found[2:]), pair):
                self.check_share(share[0] or share[1], one["kv_bytes_ratio"])
                self.assertEqual(told[2:], (
                    one["mean_kl_4096"], one["mean_kl_error_4096"], one["change_percent_4096"],
                    one["pass_keys_found"], one["pass_key_cases"]), finding)
            # The same bytes, to interpolation.
            self.assertAlmostEqual(float(pair[0]["kv_bytes_ratio"]) /
                                   float(pair[1]["kv_bytes_ratio"]), 1, delta=0.05)
            wins = float(pair[0]["mean_kl_4096"]) < float(pair[1]["mean_kl_4096"])
            if "**The baseline wins**" in finding:
                self.assertTrue(wins, finding)
            elif "Kascade is ahead" in finding:
                self.assertFalse(wins, finding)

    def test_pass_keys_add_up(self):
        sums = {}
        for cell in read_csv("recall.csv"):
            total = sums.setdefault(cell["tokens"], [0, 0, 0])
            for i, name in enumerate(("cases", "dense_found", "sparse_found")):
                total[i] += int(cell[name])
        for tokens, (cases, dense, sparse) in sums.items():
            self.assertIn(f"Pass keys in {tokens} tokens: {dense}/{cases} found dense, "
                          f"{sparse}/{cases} sparse.", self.page)


if __name__ == "__main__":
    unittest.main()
