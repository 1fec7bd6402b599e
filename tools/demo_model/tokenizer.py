"""The byte-level BPE tokenizer that tools/demo_model/bpe.cpp trains.

Id 0 is <|endoftext|>; ids 1 to 256 are the bytes in GPT-2's order; then come the merges.
"""

import json
import os
import re

import numpy as np

BOS, BOS_NAME = 0, "<|endoftext|>"
FIRST_MERGE = 257
# Python's re has no \p{L}; [^\W\d_] is its class of letters.
WORD = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"
)


def byte_order():
    """The 256 bytes in the order of their ids: the printable ones first."""
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    return printable + [b for b in range(256) if b not in set(printable)]


def printable_names():
    """The character that stands for each byte in tokenizer.json."""
    names, added = {}, 0
    for b in range(256):
        printable = 33 <= b <= 126 or 161 <= b <= 172 or b >= 174
        names[b] = chr(b if printable else 256 + added)
        added += not printable
    return names


NAMES = printable_names()


class Tokenizer:
    """Encodes and decodes text with merges: pairs of ids, in the order of their ranks."""

    def __init__(self, merges):
        self.merges = merges
        self.rank = {pair: FIRST_MERGE + i for i, pair in enumerate(self.merges)}
        self.bytes_of = [b""] + [bytes([b]) for b in byte_order()]
        for left, right in self.merges:
            self.bytes_of.append(self.bytes_of[left] + self.bytes_of[right])
        self.id_of_byte = {b: i + 1 for i, b in enumerate(byte_order())}
        self.size = len(self.bytes_of)
        self.byte_count = np.array([len(b) for b in self.bytes_of])
        self.words = {}

    @classmethod
    def from_bpe(cls, folder):
        """What bpe.cc wrote to a folder."""
        pairs = np.fromfile(os.path.join(folder, "merges.bin"), np.uint16).reshape(-1, 2)
        return cls([(int(left), int(right)) for left, right in pairs])

    @classmethod
    def from_model(cls, folder):
        """The tokenizer of a model folder that export.py wrote."""
        with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as file:
            model = json.load(file)["model"]
        pairs = [merge.split(" ") for merge in model["merges"]]
        return cls([(model["vocab"][left], model["vocab"][right]) for left, right in pairs])

    def name(self, token):
        """The token as tokenizer.json writes it."""
        return "".join(NAMES[b] for b in self.bytes_of[token])

    def encode_word(self, word):
        """Ids of one word of the pre-tokenisation; the lowest rank is merged first."""
        known = self.words.get(word)
        if known is not None:
            return known
        ids = [self.id_of_byte[b] for b in word.encode()]
        while len(ids) > 1:
            ranks = [self.rank.get(pair, 1 << 30) for pair in zip(ids, ids[1:])]
            rank = min(ranks)
            if rank == 1 << 30:
                break
            left, right = self.merges[rank - FIRST_MERGE]
            merged, i = [], 0
            while i < len(ids):
                if i + 1 < len(ids) and ids[i] == left and ids[i + 1] == right:
                    merged.append(rank)
                    i += 2
                else:
                    merged.append(ids[i])
                    i += 1
            ids = merged
        self.words[word] = ids
        return ids

    def encode(self, text):
        """Ids of a text, without BOS."""
        return [i for word in WORD.findall(text) for i in self.encode_word(word)]

    def decode(self, ids):
        """The text of ids; bytes that are no UTF-8 are replaced."""
        return b"".join(self.bytes_of[i] for i in ids).decode("utf-8", "replace")
