"""The row rule of family kascade, a query tile of rows at a time.

The same as kascade.SparseAttention with tile_rule_end = 0, which takes the rows one by one and is
what the specification reads like; test_oracle.py compares both.
"""

import numpy as np

from kascade import Group, budget, candidates, pooled
from llama import probabilities, weighted_values


def kept_keys(rule, p, first, kv_heads):
    """Which keys each row of a tile attends to, [G, rows, keys]; p [H, rows, keys]."""
    row = Group(first, first + 1, True)  # candidates and budget are those of all rows of a tile
    begin, end = candidates(rule, row)
    kept = np.ones((kv_heads,) + p.shape[1:], dtype=bool)
    kept[:, :, begin:end] = False
    shape = kv_heads, len(p) // kv_heads, p.shape[1], end - begin
    scores = pooled(rule, p[:, :, begin:end].reshape(shape), axis=1)
    best = np.argsort(-scores, axis=-1, kind="stable")[:, :, :budget(rule, row)]
    np.put_along_axis(kept[:, :, begin:end], best, True, axis=-1)
    return kept


class RowRuleAttention:
    """The attention of a whole sequence under a schedule; pass it to llama.forward.

    kept: layer -> kept_keys of each tile, of layers that are not run again.
    """

    def __init__(self, schedule, kept=None):
        if schedule.rule.family != "kascade" or not schedule.rule.decode_own_tile:
            raise ValueError("the rows of a tile do not have the same candidates")
        self.schedule, self.kept = schedule, dict(kept or {})

    def __call__(self, layer, q, k, v):
        """q [H, L, D], k and v [G, L, D] -> [H, L, D]."""
        plan, tile = self.schedule.layers[layer], self.schedule.rule.query_tile
        out = np.empty(q.shape[:2] + v.shape[2:])
        if plan.role != "reuse":
            self.kept[layer] = []
        for number, first in enumerate(range(0, q.shape[1], tile)):
            rows = slice(first, min(first + tile, q.shape[1]))
            p = probabilities(q[:, rows], k, first)
            if plan.role != "reuse":
                self.kept[layer].append(kept_keys(self.schedule.rule, p, first, k.shape[0]))
            if plan.role != "dense":
                kept = self.kept[plan.anchor][number][list(plan.head_map)]
                p *= np.repeat(kept, q.shape[0] // k.shape[0], axis=0)
                p /= p.sum(axis=-1, keepdims=True)
            out[:, rows] = weighted_values(p, v)
        return out
