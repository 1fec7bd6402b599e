"""How far rounding alone moves a model: what the tolerances of the judge follow from.

The engine stores what goes into and comes out of a matrix product in some precision, where each value
gets a relative error of at most `unit`, independent of the others. Here the reference runs with just
such errors, drawn at random, and the difference from the run without them is the scale of what
rounding does to this model and text. An engine that computes rightly differs by about as much; the
judge allows SAFETY times as much, because the engine rounds in a few more places (norms, rotations,
probabilities) and its errors are one draw of many.
"""

from dataclasses import dataclass

import numpy as np

from llama import Model, dense_attention, forward, log_softmax, probabilities

SAFETY = 4.0
DRAWS = 2
LAST_ROWS = 64  # of a text, whose attention is compared
NEGLIGIBLE = 0.1  # of the mean probability: keys below are never near a threshold

F32_UNIT = 2.0 ** -24
BF16_UNIT = 2.0 ** -9  # 8 bits of significand, rounded to nearest


@dataclass(frozen=True)
class Effect:
    """What rounding did in one or more runs, the largest of each."""

    logits: float  # largest difference of a row, relative to its largest magnitude
    kl: float  # KL(exact ‖ rounded) of a row, nats
    score: float  # relative change of the probability of a key


class Product:
    """A matrix whose products round their inputs and results: h @ Product."""

    __array_ufunc__ = None  # numpy leaves the product to __rmatmul__

    def __init__(self, matrix, rounding):
        self.matrix, self.rounding = matrix, rounding

    def __rmatmul__(self, h):
        # The sum of n products in single precision has √n roundings of its own.
        own = F32_UNIT * np.sqrt(len(self.matrix))
        return self.rounding.applied(self.rounding.applied(h) @ self.matrix, own)


class RoundedModel(Model):
    """A model whose products round to `unit`; it shares the weights of `model`."""

    def __init__(self, model, unit, seed):
        self.config, self.weights, self.embedding = model.config, model.weights, model.embedding
        self.projections, self.unit = model.projections, unit
        self.random = np.random.default_rng(seed)
        self.head = Product(model.head, self)

    def projection(self, index, name):
        return Product(super().projection(index, name), self)

    def applied(self, values, more=0.0):
        return values * (1.0 + self.random.uniform(-1, 1, values.shape) * (self.unit + more))


class Watched:
    """Dense attention that keeps the probabilities of the last rows of each layer."""

    def __init__(self):
        self.layers = []

    def __call__(self, layer, q, k, v):
        first = max(0, q.shape[1] - LAST_ROWS)
        self.layers.append(probabilities(q[:, first:], k, first))
        return dense_attention(layer, q, k, v)


def probability_change(exact, rounded):
    """Largest relative change of a probability that is not negligible, over all layers."""
    worst = 0.0
    for p, other in zip(exact, rounded):
        counts = p.astype(bool).sum(axis=-1, keepdims=True)
        matters = p > NEGLIGIBLE / counts
        worst = max(worst, float(np.abs(other[matters] / p[matters] - 1).max()))
    return worst


def effect(model, tokens, unit):
    """What rounding to `unit` does to the dense run of `tokens`."""
    watched = Watched()
    exact = forward(model, tokens, watched)
    reference = log_softmax(exact)
    worst = Effect(0.0, 0.0, 0.0)
    for seed in range(DRAWS):
        seen = Watched()
        logits = forward(RoundedModel(model, unit, seed), tokens, seen)
        errors = np.abs(logits - exact).max(axis=1) / np.abs(exact).max(axis=1)
        kl = (np.exp(reference) * (reference - log_softmax(logits))).sum(axis=1)
        worst = Effect(max(worst.logits, float(errors.max())), max(worst.kl, float(kl.max())),
                       max(worst.score, probability_change(watched.layers, seen.layers)))
    return worst
