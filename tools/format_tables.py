#!/usr/bin/env python3
"""Fills the tables of docs/quality/formats.md from the records beside it.

Usage: format_tables.py [--check] [PAGE]

A record is formats-NAME.json, what `kascade-convert --report DIR --json` printed. The tables of a
record stand in PAGE between the lines

    <!-- formats: NAME -->
    <!-- end -->

and are rewritten; --check fails instead if they are not those of the record.
"""

import argparse
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def mebibytes(count):
    return f"{count / 2**20:,.1f}"


def signed(value, digits):
    """What rounds to zero has no minus sign."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def error(value, deviation, digits):
    return f"{signed(value, digits)} ± {deviation:.{digits}f}"


def format_table(record):
    """The formats over all texts."""
    f32 = record["f32"]
    lines = ["| Weights | KV cache | MiB | Bits per weight | Perplexity | ΔNLL | Mean KL | 99 % of KL below | Same top token |",
             "|---|---|--:|--:|--:|--:|--:|--:|--:|",
             f"| f32 | {f32['kv_cache']} | {mebibytes(f32['bytes'])} | {f32['bits_per_weight']:.2f} | "
             f"{record['formats'][0]['f32_perplexity']:.4f} | | | | |"]
    for row in record["formats"]:
        lines.append(
            f"| {row['weights']} | {row['kv_cache']} | {mebibytes(row['bytes'])} | "
            f"{row['bits_per_weight']:.2f} | {row['perplexity']:.4f} | "
            f"{error(row['nll_rise'], row['nll_rise_standard_error'], 5)} | "
            f"{row['mean_kl']:.6f} ± {row['mean_kl_standard_error']:.6f} | "
            f"{row['kl_percentile_99']:.4f} | {100 * row['same_top1']:.2f} % |")
    return lines


def text_table(record):
    """ΔNLL and mean KL of each text."""
    formats = record["formats"]
    names = [row["weights"] for row in formats]
    lines = ["| Text | Tokens | f32 perplexity | " + " | ".join(f"{name}: ΔNLL; KL" for name in names) + " |",
             "|---|--:|--:|" + "--:|" * len(names)]
    for index, text in enumerate(formats[0]["by_text"]):
        own = [row["by_text"][index] for row in formats]
        cells = [f"{error(row['nll_rise'], row['nll_rise_standard_error'], 4)}; {row['mean_kl']:.5f}"
                 for row in own]
        lines.append(f"| {text['text']} | {text['tokens']:,} | {text['f32_perplexity']:.3f} | " +
                     " | ".join(cells) + " |")
    return lines


def described(record):
    windows = record["windows_per_text"]
    return [f"{record['model']}: {record['parameters']:,} parameters, weights digest "
            f"`{record['weights_digest']}`; {windows} window{'s' if windows > 1 else ''} of "
            f"{record['window_tokens']:,} tokens in each text, {record['formats'][0]['tokens']:,} tokens compared; "
            f"cpu backend with {record['instruction_set']}; {record['program']}."]


def filled(page, folder):
    """The page with the tables of every record."""
    def replace(match):
        record = json.loads((folder / f"formats-{match[1]}.json").read_text())
        lines = described(record) + [""] + format_table(record) + [""] + text_table(record)
        return "\n".join([f"<!-- formats: {match[1]} -->", *lines, "<!-- end -->"])
    return re.sub(r"<!-- formats: (\S+) -->\n.*?<!-- end -->", replace, page, flags=re.DOTALL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", nargs="?", type=pathlib.Path, default=ROOT / "docs/quality/formats.md")
    parser.add_argument("--check", action="store_true", help="fail if the page's tables are not up to date")
    options = parser.parse_args()
    page = options.page.read_text()
    new = filled(page, options.page.parent)
    unused = [path.name for path in options.page.parent.glob("formats-*.json")
              if f"<!-- formats: {path.stem.removeprefix('formats-')} -->" not in page]
    if unused:
        sys.exit(f"{options.page}: has no table of {', '.join(unused)}")
    if not options.check:
        options.page.write_text(new)
    elif new != page:
        sys.exit(f"{options.page}: its tables are not those of the records; run tools/format_tables.py")


if __name__ == "__main__":
    main()
