#!/usr/bin/env python3
"""Summarises the recorded runs of kascade-bench for docs/performance.md.

Usage: performance_summary.py [--check] [--records FOLDER] [PAGE]

A record is a Markdown file in tests/bench/results. Every table row of a record with the columns Mode,
Depth, ms and tokens/s is one run, whose figure is a median over samples. For each kind of step, weights, mode
and depth the summary gives the median of these figures over all runs, their range, and the number of
runs. Sparse steps by the schedule of a file are left out, because the tables are about the synthetic
schedule of kascade-bench. In PAGE (default: docs/performance.md) the tables stand between the lines

    <!-- performance_summary: NAME -->
    <!-- end -->

and are rewritten; --check fails instead if they are not what the records give.
"""

import argparse
import collections
import pathlib
import re
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
WEIGHTS = ("bf16", "int8", "int4")

Run = collections.namedtuple("Run", "record kind weights cache mode depth ms tokens share")


def number(cell):
    """The figure at the beginning of a cell: "2508.63 [2428.84–2560.40]" → 2508.63."""
    found = re.match(r"-?[\d.]+", cell)
    return float(found[0]) if found else None


def kind_of(row, section):
    """What a table row measured, or None for what is summarised nowhere."""
    first, rows = row.get("", ""), row.get("Rows")
    if first in ("attend", "select"):
        return f"{first} {rows}"
    if first in ("qkv", "attention_out", "gate_up", "down"):
        return f"matmul {rows}"
    if first == "by tiles" and rows in (None, "512"):
        return "prefill"
    if first == "by rows" and rows == "512":
        return "prefill per query"
    if (first == "by rows" and rows in (None, "1")) or "decode" in section and "" not in row:
        return "decode"
    return None


def heading_says(heading, known):
    """Weights and cache that a heading names, or what was known before."""
    weights, cache = known
    named = re.search(r"\b(bf16|int8|int4)\b", heading)
    if named:
        weights = named[1]
    named = re.search(r"\b(f32|bf16|int8) cache\b", heading)
    return weights, named[1] if named else cache


def runs_of(path):
    runs, header, known, section, synthetic = [], None, (None, "bf16"), "", True
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            known, section, header = heading_says(line, known), line.lower(), None
            if line.startswith("# "):
                synthetic = True  # as in records that do not tell
            continue
        if line.startswith("Sparse steps: "):
            synthetic = line.startswith("Sparse steps: synthetic")
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if header is None:
            header = cells
            continue
        if set(line) <= set("|-: "):
            continue
        row = dict(zip(header, cells))
        if not {"Mode", "Depth", "ms", "tokens/s"} <= row.keys():
            continue
        kind = kind_of(row, section)
        if kind is None or not (synthetic or row["Mode"] == "dense"):
            continue
        runs.append(Run(path.name, kind, row.get("Weights", known[0]), row.get("Cache", known[1]),
                        row["Mode"], int(row["Depth"]), number(row["ms"]), number(row["tokens/s"]),
                        number(row["share of floor"])))
    return runs


def summary(values, digits):
    """"median (least–most, n)", or a figure alone for one run."""
    def show(value):
        return f"{value:,.{digits}f}"
    if not values:
        return ""
    if len(values) == 1:
        return f"{show(values[0])} (1)"
    return f"{show(statistics.median(values))} ({show(min(values))}–{show(max(values))}, {len(values)})"


def depths(runs):
    return sorted({run.depth for run in runs})


def steps_table(runs, kind, figure, digits, cache="bf16", modes=("dense", "sparse")):
    runs = [run for run in runs if run.kind == kind and run.cache == cache]
    columns = [(weights, mode) for weights in WEIGHTS for mode in modes
               if any((run.weights, run.mode) == (weights, mode) for run in runs)]
    lines = ["| Depth | " + " | ".join(f"{weights} {mode}" for weights, mode in columns) + " |",
             "|--:|" + "--:|" * len(columns)]
    for depth in depths(runs):
        cells = [summary([getattr(run, figure) for run in runs
                          if (run.weights, run.mode, run.depth) == (weights, mode, depth)], digits)
                 for weights, mode in columns]
        lines.append(f"| {depth:,} | " + " | ".join(cells) + " |")
    return lines


def attention_table(runs, rows):
    columns = [("attend", "dense", "Dense"), ("select", "sparse", "Anchor: scoring and selecting"),
               ("attend", "sparse", "Attending to a selection")]
    found = [run for run in runs if run.kind.endswith(f" {rows}") and not run.kind.startswith("matmul")]
    lines = ["| Depth | " + " | ".join(title for *_, title in columns) + " |",
             "|--:|" + "--:|" * len(columns)]
    for depth in depths([run for run in found if run.depth > 0]):
        cells = [summary([run.ms for run in found
                          if (run.kind, run.mode, run.depth) == (f"{kind} {rows}", mode, depth)], 2)
                 for kind, mode, _ in columns]
        lines.append(f"| {depth:,} | " + " | ".join(cells) + " |")
    return lines


def matmul_table(runs):
    lines = ["| Rows | " + " | ".join(WEIGHTS) + " |", "|--:|" + "--:|" * len(WEIGHTS)]
    rows = sorted({int(run.kind.split()[1]) for run in runs if run.kind.startswith("matmul")})
    for count in rows:
        cells = [summary([run.share for run in runs
                          if (run.kind, run.weights) == (f"matmul {count}", weights)], 0)
                 for weights in WEIGHTS]
        lines.append(f"| {count} | " + " | ".join(cells) + " |")
    return lines


def tables(folder):
    """{name: lines} of every table."""
    files = sorted(folder.glob("*.md"))
    runs = [run for path in files for run in runs_of(path)]
    made = {
        "prefill tokens/s": steps_table(runs, "prefill", "tokens", 1),
        "prefill share": steps_table(runs, "prefill", "share", 0),
        "prefill per query ms": steps_table(runs, "prefill per query", "ms", 0),
        "decode tokens/s": steps_table(runs, "decode", "tokens", 1),
        "decode share": steps_table(runs, "decode", "share", 0),
        "decode int8 cache tokens/s": steps_table(runs, "decode", "tokens", 1, cache="int8"),
        "attention prefill ms": attention_table(runs, 512),
        "attention decode ms": attention_table(runs, 1),
        "matmul share": matmul_table(runs),
    }
    used = sorted({run.record for run in runs})
    made["records"] = [f"- [{name}](../tests/bench/results/{name})" for name in used]
    return made


def filled(page, made):
    """The page with every table as the records give it."""
    def replace(match):
        if match[1] not in made:
            sys.exit(f"performance_summary: unknown table {match[1]!r}; known: {', '.join(made)}")
        return "\n".join([f"<!-- performance_summary: {match[1]} -->", *made[match[1]], "<!-- end -->"])
    return re.sub(r"<!-- performance_summary: (.*?) -->\n.*?<!-- end -->", replace, page, flags=re.DOTALL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", nargs="?", type=pathlib.Path, default=ROOT / "docs/performance.md")
    parser.add_argument("--records", type=pathlib.Path, default=ROOT / "tests/bench/results")
    parser.add_argument("--check", action="store_true", help="fail if the page's tables are not up to date")
    options = parser.parse_args()
    page = options.page.read_text()
    new = filled(page, tables(options.records))
    if not options.check:
        options.page.write_text(new)
    elif new != page:
        sys.exit(f"{options.page}: its tables are not those of {options.records}; "
                 "run tools/performance_summary.py")


if __name__ == "__main__":
    main()
