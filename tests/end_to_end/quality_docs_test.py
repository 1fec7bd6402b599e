"""The figures in docs/quality/README.md are those of its CSV files, cell by cell."""

import csv
import hashlib
import json
import pathlib
import re
import struct
import sys
import unittest

FOLDER = pathlib.Path(sys.argv.pop(1)) if len(sys.argv) > 1 else pathlib.Path("docs/quality")

# Title in the page → column of quality.csv.
COLUMNS = {
    "Row": "row",
    "Selecting": "selecting_layers",
    "Dense": "dense_layers",
    "Predicted": "predicted_similarity",
    "Check Δ %": "gate_change_percent",
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


def weights_digest(file):
    """As the server computes it: name, dtype, shape, first and last 64 KiB of each tensor."""
    data = file.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8:8 + size]), data[8 + size:]
    sha = hashlib.sha256()
    for name in sorted(header.keys() - {"__metadata__"}):
        tensor = header[name]
        begin, end = tensor["data_offsets"]
        part = min(end - begin, 65536)
        sha.update(f"{name} {tensor['dtype']} {tensor['shape']}\n".encode())
        sha.update(body[begin:begin + part] + body[end - part:end])
    return sha.hexdigest()


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
        self.assertIn(f"({first['dense_perplexity']} dense, {first['tokens']} tokens)", finding)
        self.assertIn(f" layers {first['selecting_layers']} select and "
                      f"{first['dense_layers']} attend to all", finding)
        read = re.search(r"([\d.]+) % of the bytes", finding)
        self.check_share(read.group(1), first["kv_bytes_ratio"])

        if first["gate_change_percent"]:
            self.assertIn(f"quality check at {first['gate_change_percent']} ± "
                          f"{first['gate_change_error_percent']} %", finding)

    def test_is_about_the_bundled_model(self):
        demo = pathlib.Path(__file__).resolve().parents[2] / "models/demo"
        found = dict(re.findall(r"(weights|config\.json|tokenizer\.json) `([0-9a-f]{64})`",
                                self.page))
        self.assertEqual(found.pop("weights"), weights_digest(demo / "model.safetensors"))
        self.assertEqual(sorted(found), ["config.json", "tokenizer.json"])
        for name, digest in found.items():
            self.assertEqual(digest, hashlib.sha256((demo / name).read_bytes()).hexdigest(), name)
        self.assertRegex(self.page, r"with kascade [\d.]+ \(commit ([0-9a-f]{7,40}|unknown)\)")

    def test_is_complete(self):
        self.assertNotIn("INCOMPLETE", self.page)

    def test_other_texts(self):
        beginnings = {"the one text": "- The automatic schedule on more of each text: ",
                      "texts of all kinds": "- Calibrated on texts of all kinds instead "}
        rows = [row for row in self.rows if row["group"] == "domain"]
        for row in rows:
            text, kind = row["row"].split(", calibrated on ")
            finding = next(line for line in self.page.splitlines()
                           if line.startswith(beginnings[kind]))
            window = row["longest_window"]
            self.assertIn(f" {text} {row[f'change_percent_{window}']} ± "
                          f"{row[f'change_error_percent_{window}']} % ({row['tokens']} tokens)",
                          finding)
        told = "".join(line for line in self.page.splitlines()
                       if line.startswith(tuple(beginnings.values())))
        self.assertEqual(told.count(" tokens)"), len(rows))

    def test_what_reads_less_without_more_loss(self):
        first = self.rows[0]
        kl, share = f"mean_kl_{first['longest_window']}", "kv_bytes_ratio"
        rows = {row["row"]: row for row in self.rows
                if row["group"] == "kascade" and float(row[share]) < float(first[share])}
        better = [float(row[share]) for row in rows.values() if float(row[kl]) < float(first[kl])]
        findings = [line for line in self.page.splitlines() if line.startswith("- Read least")]
        self.assertLessEqual(len(findings), 1)
        if better:
            self.assertEqual(len(findings), 1)
        for finding in findings:
            label, percent = re.search(r"\): (.*), ([\d.]+) % of the bytes", finding).groups()
            self.check_share(percent, rows[label][share])
            self.assertLessEqual(float(rows[label][share]), min(better, default=1))

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
            self.check_verdict(finding, row, "**The baseline wins** by", "Kascade is ahead by",
                               "No difference beyond the error")

    def check_verdict(self, finding, row, less, more, neither):
        """The words for KL below, above and beside the compared row's, with the CSV's figures."""
        lead, error = row["kl_above_compared"], row["kl_above_compared_error"]
        if neither in finding:
            self.assertIn(f"({lead} ± {error})", finding)
            # Both figures are rounded.
            self.assertLessEqual(abs(float(lead)), 2 * float(error) + 2e-4, finding)
            return
        self.assertIn(f"{less if float(lead) < 0 else more} {lead[1:]} ± {error}", finding)
        self.assertGreaterEqual(abs(float(lead)), 2 * float(error) - 2e-4, finding)

    def test_findings_on_plans(self):
        rows = {row["row"]: row for row in self.rows}
        findings = [line for line in self.page.splitlines() if " selecting layers, greedy, " in line]
        compared = [row for row in self.rows if row["group"] == "greedy" and row["compared_with"]
                    and float(rows[row["compared_with"]]["reuse_layers_ratio"]) > 0]
        self.assertEqual(len(findings), len(compared))
        for finding, row in zip(findings, compared):
            greedy = rows[row["compared_with"]]
            self.assertIn(f"{greedy['selecting_layers']} selecting layers, greedy, "
                          f"{greedy['row']}: KL {greedy['mean_kl_4096']} ±", finding)
            self.assertIn(f"planned by dynamic programming: KL {row['mean_kl_4096']} ±", finding)
            self.check_verdict(finding, row, ": better by", ": **worse** by",
                               "as good, within the error")

    def test_the_upper_bound(self):
        findings = [line for line in self.page.splitlines() if "choosing anew" in line]
        rows = [row for row in self.rows if row["row"] == "oracle, 10 %"]
        self.assertEqual(len(findings), len(rows))  # none without the group of baselines
        for finding, oracle in zip(findings, rows):
            self.assertIn(f"KL {oracle['mean_kl_4096']} ± {oracle['mean_kl_error_4096']}, "
                          f"{oracle['change_percent_4096']} %, {oracle['pass_keys_found']}/"
                          f"{oracle['pass_key_cases']} pass keys", finding)

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
