"""Integer weights and an integer KV cache, in float64 but for the rounding itself.

Written from the definitions in engine/backend/quantization.h. A *level* is the small integer that a
value is rounded to.

int8   an output channel is level · scale, scale = largest magnitude / 127.
int4   an output channel is level · multiple · scale, scale = largest magnitude / 120, with 16 levels
       and one multiple of ±5 to ±12 for each 8 inputs, the best by squared error; the output head is
       int8.
Rows of activations are rounded like int8 channels wherever they meet integer weights; rows and
channels are rotated first. An int8 cache rounds each key and each value of a head like an int8
channel, without rotation.
"""

import numpy as np

from llama import Model, dense_attention

GROUP = 8
LEVELS = np.array([-10, -8, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 7, 9], dtype=np.float64)
MULTIPLES = [sign * size for size in range(5, 13) for sign in (1, -1)]


def changes_sign(index):
    bits = index * 0x9E3779B9 & 0xFFFFFFFF
    bits = (bits ^ bits >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    return (bits ^ bits >> 13) & 1 == 1


def rotation(block):
    """The matrix [block, block] by which a block of inputs is multiplied."""
    ones = np.array([[(i & j).bit_count() for j in range(block)] for i in range(block)])
    signs = np.array([-1.0 if changes_sign(j) else 1.0 for j in range(block)])
    return (-1.0) ** ones * signs / np.sqrt(block)


ROTATIONS = {block: rotation(block) for block in (256, 64, 16, 4)}


def rotated(rows):
    """Rows of the last axis, in blocks of 256 inputs, and the rest in blocks of 64, 16, 4 and 1."""
    out, first = np.array(rows, dtype=np.float64), 0
    for block, matrix in ROTATIONS.items():
        while rows.shape[-1] - first >= block:
            out[..., first:first + block] = rows[..., first:first + block] @ matrix.T
            first += block
    return out


def int8_levels(rows):
    """[n, size] -> levels [n, size] and scales [n, 1]."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scales = np.where(largest > 0, largest / 127.0, 1.0)
    return np.rint(rows / scales), scales


def int8_rounded(rows):
    """Rows of the last axis, rounded to int8."""
    levels, scales = int8_levels(rows.reshape(-1, rows.shape[-1]))
    return (levels * scales).reshape(rows.shape)


def int4_steps(rows):
    """[n, size] -> level · multiple [n, size] and scales [n, 1]."""
    n, size = rows.shape
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scales = np.where(largest > 0, largest, 1.0) / 120.0
    padded = np.zeros((n, -(-size // GROUP) * GROUP))
    padded[:, :size] = rows / scales
    groups = padded.reshape(-1, GROUP)
    best, least = np.zeros_like(groups), np.full((len(groups), 1), np.inf)
    for multiple in MULTIPLES:
        nearest = np.searchsorted((LEVELS[1:] + LEVELS[:-1]) / 2, groups / multiple)
        steps = LEVELS[nearest] * multiple
        error = ((groups - steps) ** 2).sum(axis=1, keepdims=True)
        best = np.where(error < least, steps, best)
        least = np.minimum(error, least)
    return best.reshape(n, -1)[:, :size], scales


class IntegerMatrix:
    """A matrix [outputs, inputs] that stands for its transpose: `x @ matrix`, x [L, inputs]."""

    __array_ufunc__ = None  # numpy asks __rmatmul__

    def __init__(self, weight, form):
        round_off = int8_levels if form == "int8" else int4_steps
        self.steps, self.scales = round_off(rotated(weight))
        self.shape = weight.shape[::-1]

    def __rmatmul__(self, x):
        levels, scales = int8_levels(rotated(x))
        return (levels @ self.steps.T) * self.scales.T * scales


class QuantizedModel(Model):
    """A model whose projections and head are integers (weights: int8, int4; else f32), and whose
    keys and values are (cache: int8; else f32).
    """

    def __init__(self, folder, weights="f32", cache="f32"):
        super().__init__(folder)
        self.cache = cache
        if weights == "f32":
            return
        self.projections = {name: IntegerMatrix(weight, weights)
                            for name, weight in self.weights.items() if "_proj." in name}
        self.head = IntegerMatrix(self.output, "int8")

    def over_cache(self, attention=dense_attention):
        if self.cache == "f32":
            return attention
        return lambda layer, q, k, v: attention(layer, q, int8_rounded(k), int8_rounded(v))
