#!/usr/bin/env python3
"""Writes expectations.json: what the library `tokenizers` (pip install tokenizers==0.23.3) makes of
awkward texts, for each named pre-tokenizer, and what Python's unicodedata makes of them in each
normalization form. tests/tokenizer/pre_tokenizer_test.cc compares ours with it.

Usage: make_expectations.py. The texts are random but always the same ones.
"""

import json
import pathlib
import random
import unicodedata

from tokenizers import Tokenizer

LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1"
    "\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd"
    "\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d"
    "\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec"
    "\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b"
    "\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787"
    "\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943")
WIDE = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
START = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
TAIL = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
DIGITS = {"type": "Digits", "individual_digits": True}


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def byte_level(use_regex=False):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
            "use_regex": use_regex}


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


NAMED = {  # those of GGUF's tokenizer.ggml.pre
    "llama-bpe": sequence(split(CONTRACTIONS + r"\p{N}{1,3}" + REST), byte_level()),
    "gpt-2": byte_level(True),
    "smollm": sequence(DIGITS, byte_level(True)),
    "qwen2": sequence(split(CONTRACTIONS + r"\p{N}" + REST), byte_level()),
    "tekken": sequence(
        split(START + "*" + TAIL + "+|" + START + "+" + TAIL + r"*|\p{N}" +
              REST.replace(r"[\r\n]*", r"[\r\n/]*")), byte_level()),
    "deepseek-llm": sequence(
        split("[\r\n]"), split("\\s?[" + LETTERS + "]+"),
        split("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"),
        split("\\s+$"), split(WIDE), DIGITS, byte_level()),
    "deepseek-coder": sequence(split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"),
                               split(WIDE), DIGITS, byte_level()),
    "deepseek-v3": sequence(
        split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
        split(r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"""
              r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|"
              r"\s+(?!\S)|\s+"), byte_level()),
    "default": sequence(
        split(r"[\p{P}\$\+<=>\^~\|]+"),
        split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"),
        split(r"\p{N}+"), split("[0-9][0-9][0-9]"), byte_level()),
}
OTHER = {  # steps that none of the named ones has
    "punctuation": sequence({"type": "Punctuation", "behavior": "Isolated"}, byte_level()),
    "punctuation runs": sequence({"type": "Punctuation", "behavior": "Contiguous"}, byte_level()),
    "removed": sequence(split(r"\s+", "Removed"), byte_level()),
    "removed gaps": sequence(split(r"\p{L}+", "Removed", True), byte_level()),
    "line anchors": sequence(split(r"^\s+|\s+$|^[a-z]|[.!?]$"), byte_level()),
}
ATOMS = [
    "a", "e", "the", "ing", " ", " ", "  ", "\n", "\r\n", "\t", "\n\n", "\u00a0", "\u3000", "\u2003",
    "1", "12", "345", "\u0663", "\u2163", "\u00bd", "\uff11", "'s", "'S", "'LL", "\u2019s", ".", "!?",
    "...", "-", "_", "$", "+", "=", "</", "//", "\\", "`", "~", "^", "|", "#", "\u00e9", "e\u0301",
    "\u0301", "\ufb01", "\u017f", "\u00df", "\u0130", "\u03a9", "\u2126", "\u212a", "\u0451",
    "\u043c\u0438\u0440", "\u1f60", "\u1f7d", "\u4e2d", "\u4f60\u597d", "\u3002", "\uff01", "\u300c",
    "\u30ab", "\u304c", "\u304b\u3099", "\uac01", "\u1100\u1161", "\u0627\u0644", "\u0939\u093f",
    "\u0e44\u0e17", "\U0001f600", "\u200d", "\ufe0f", "\u200b", "\x00", "\x7f", "\u0085", "\u2028",
    "\ufeff", "\U00010400", "\U0001e900", "CamelCase", "HTML", "iPhone", "dEf", "\u01c5", "\u02b0",
    "q\u0323\u0307", "q\u0307\u0323", "\uffff"]


def texts(count):
    draw = random.Random(1)
    return ["".join(draw.choices(ATOMS, k=draw.randint(2, 16))) for _ in range(count)]


def pieces(pre_tokenizer, text):
    """Lengths in bytes. A byte is one character of the byte alphabet."""
    frame = Tokenizer.from_str(json.dumps({
        "version": "1.0", "added_tokens": [], "normalizer": None, "decoder": None,
        "post_processor": None, "pre_tokenizer": pre_tokenizer,
        "model": {"type": "BPE", "vocab": {}, "merges": []}}))
    return [len(piece) for piece, _ in frame.pre_tokenizer.pre_tokenize_str(text)]


def main():
    awkward = texts(100)
    out = {
        "texts": awkward,
        "named": {name: [pieces(steps, text) for text in awkward]
                  for name, steps in NAMED.items()},
        "other": {name: {"pre_tokenizer": steps, "pieces": [pieces(steps, text)
                                                            for text in awkward]}
                  for name, steps in OTHER.items()},
        "forms": {form: [unicodedata.normalize(form, text) for text in awkward]
                  for form in ("NFC", "NFD", "NFKC", "NFKD")}}
    path = pathlib.Path(__file__).with_name("expectations.json")
    lines = json.dumps(out, separators=(",", ":")).replace('],"', '],\n"')
    path.write_text(lines + "\n")


if __name__ == "__main__":
    main()
