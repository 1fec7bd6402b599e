"""Attention to nearby keys alone, in float64: a sliding window or chunks.

Row t attends to the keys (t - window, t], or to those of its chunk, [t // chunk * chunk, t].
"""

from dataclasses import dataclass

import numpy as np

from llama import dense_attention, probabilities, weighted_values


@dataclass(frozen=True)
class Nearby:
    kind: str  # window | chunk
    size: int
    dense_layers: tuple = ()

    def first_key(self, row):
        """The first key that a row attends to."""
        if self.kind == "window":
            return max(0, row - self.size + 1)
        return row // self.size * self.size

    def attention(self, layer, q, k, v):
        """Of a whole sequence; pass it to llama.forward. q [H, L, D], k and v [G, L, D]."""
        if layer in self.dense_layers:
            return dense_attention(layer, q, k, v)
        rows = np.arange(q.shape[1])
        first = np.array([self.first_key(row) for row in rows])
        p = probabilities(q, k, 0)
        p[:, rows[None, :] < first[:, None]] = 0.0
        return weighted_values(p / p.sum(axis=-1, keepdims=True), v)

    def baseline(self):
        """As engine_probe takes it."""
        return {"kind": self.kind, self.kind: self.size, "dense_layers": list(self.dense_layers)}

    def __str__(self):
        return f"{self.kind} {self.size}"
