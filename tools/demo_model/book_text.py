"""Stretches of the encoded books, for the documents of tasks.py."""

import numpy as np

SEGMENT = 512  # Book text is visited in this grain, each segment once per epoch.


class BookText:
    """Serves stretches of the encoded books, in an order that visits all before any again."""

    def __init__(self, ids, tokenizer, seed, cursor=0):
        newline, stop = tokenizer.id_of_byte[10], tokenizer.id_of_byte[46]
        self.ids, self.stop, self.seed, self.cursor = ids, stop, seed, cursor
        self.starts = np.flatnonzero((ids[:-1] == newline) & (ids[1:] != newline)) + 1
        self.segments = max(1, len(ids) // SEGMENT)
        self.epoch, self.order = -1, None

    def take(self, count):
        """The next `count` ids; they begin at a paragraph where the book allows it."""
        while True:
            epoch, i = divmod(self.cursor, self.segments)
            if epoch != self.epoch:
                self.epoch = epoch
                self.order = np.random.default_rng([self.seed, epoch]).permutation(self.segments)
            self.cursor += 1
            near = np.searchsorted(self.starts, self.order[i] * SEGMENT)
            start = int(self.starts[near]) if near < len(self.starts) else 0
            if start + count <= len(self.ids):
                return np.asarray(self.ids[start : start + count], np.int64)
