"""How a schedule is made, in float64: similarity, head maps, importance, and the two makers.

A window of tokens runs densely; at sampled query tiles each layer gives, per KV head, its chosen
units, the mass of every candidate unit and the mass of its own tile. Arrays of one window:
choices[layer][tile] = units [G, count]; masses[layer][tile] = [G, units]; own[layer][tile] = [G].
"""

from dataclasses import dataclass, field

import numpy as np

from kascade import Group, budget, candidates, select, scores, takes_all, unit_of
from llama import dense_attention, probabilities, through_layers


def sampled_tiles(rule, length, limit=64):
    """Full tiles with more candidates than budget; at most `limit`, evenly spaced, with the last."""
    tile = rule.query_tile
    full = [Group(s, s + tile, False) for s in range(0, length - tile + 1, tile)]
    useful = [group for group in full if not takes_all(rule, group)]
    if len(useful) <= limit:
        return useful
    return [useful[i * (len(useful) - 1) // (limit - 1)] for i in range(limit)]


def unit_masses(rule, q, k, group):
    """(mass of each candidate unit [G, units], mass of what is always attended [G]: own tile and
    sinks) of the deciding rows.

    kascade: all rows of the tile and the R heads, summed. tile: its last row, summed over the key
    tile and the R heads. q [H, T, D] of the tile, k [G, L, D].
    """
    begin, end = candidates(rule, group)
    if rule.family == "tile":
        p = probabilities(q[:, -1:], k, group.last - 1)
    else:
        p = probabilities(q, k, group.first)
    by_head = p.reshape(k.shape[0], -1, p.shape[-1]).sum(axis=1)
    if rule.all_heads:
        by_head = np.broadcast_to(by_head.sum(axis=0, keepdims=True), by_head.shape)
    units = by_head[:, begin:end].reshape(k.shape[0], -1, unit_of(rule)).sum(axis=2)
    return units, by_head[:, end:].sum(axis=1) + by_head[:, :begin].sum(axis=1)


@dataclass
class Window:
    """What one window of tokens gives at its sampled tiles."""

    choices: list = field(default_factory=list)
    masses: list = field(default_factory=list)
    own: list = field(default_factory=list)
    importance: list = field(default_factory=list)  # per layer, mean over the window's tokens

    def add_layer(self, rule, tiles, q, k):
        choices, masses, own = [], [], []
        for group in tiles:
            rows = q[:, group.first:group.last]
            choices.append(select(scores(rule, rows, k, group), budget(rule, group)))
            mass, local = unit_masses(rule, rows, k, group)
            masses.append(mass)
            own.append(local)
        self.choices.append(choices)
        self.masses.append(masses)
        self.own.append(own)


@dataclass
class DenseRun:
    """What a dense forward pass over a window leaves, whatever the rule of choice."""

    queries: list = field(default_factory=list)  # per layer [H, L, D]
    keys: list = field(default_factory=list)  # per layer [G, L, D]
    importance: list = field(default_factory=list)

    def attention(self, layer, q, k, v):
        self.queries.append(q)
        self.keys.append(k)
        return dense_attention(layer, q, k, v)

    def window(self, rule, limit=64):
        result = Window(importance=self.importance)
        tiles = sampled_tiles(rule, self.queries[0].shape[1], limit)
        for q, k in zip(self.queries, self.keys):
            result.add_layer(rule, tiles, q, k)
        return result


def importance(x, y):
    """Mean over tokens of 1 − cos(x, y); x and y [L, W], the residual stream around attention."""
    dots = (x * y).sum(axis=1)
    norms = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return float(np.mean(1.0 - dots / norms))


def run_densely(model, tokens):
    """Dense forward over one window -> DenseRun."""
    run = DenseRun()
    through_layers(model, model.embedding[np.asarray(tokens)], run.attention,
                   lambda _, x, y: run.importance.append(importance(x, y)))
    return run


def collect(model, tokens, rule, limit=64):
    """Dense forward over one window -> Window."""
    return run_densely(model, tokens).window(rule, limit)


def recalled(masses, own, units):
    """Mass on `units` plus own-tile mass, of one head in one tile."""
    return masses[units].sum() + own


def recalled_mass(window, a, b, slip=False):
    """Minimum over tiles of the mass of layer b that the choices of layer a recall, [G_b, G_a].

    slip: adds the own-tile mass of head g_a where that of the target head g_b is meant, as the
    published code does.
    """
    heads = window.own[b][0].shape[0] if window.own[b] else 0
    result = np.ones((heads, heads))
    for tile, masses in enumerate(window.masses[b]):
        for target in range(heads):
            for source in range(heads):
                own = window.own[b][tile][source if slip else target]
                got = recalled(masses[target], own, window.choices[a][tile][source])
                best = recalled(masses[target], own, window.choices[b][tile][target])
                ratio = got / best if best > 0 else 1.0
                result[target, source] = min(result[target, source], ratio)
    return result


def jaccard(window, a, b):
    """Mean over tiles of |A ∩ B| / |A ∪ B|, [G_b, G_a]."""
    tiles = list(zip(window.choices[a], window.choices[b]))
    heads = tiles[0][0].shape[0]
    result = np.zeros((heads, heads))
    for chosen_a, chosen_b in tiles:
        for target in range(heads):
            for source in range(heads):
                left, right = set(chosen_a[source].tolist()), set(chosen_b[target].tolist())
                union = left | right
                result[target, source] += len(left & right) / len(union) if union else 1.0
    return result / len(tiles)


def recall(window, a, b):
    """Mean over tiles of the share of layer b's mass that the choices of layer a hold, own tile and
    sinks included, [G_b, G_a].
    """
    heads = window.own[b][0].shape[0]
    result = np.zeros((heads, heads))
    for tile, masses in enumerate(window.masses[b]):
        for target in range(heads):
            own = window.own[b][tile][target]
            for source in range(heads):
                held = recalled(masses[target], own, window.choices[a][tile][source])
                result[target, source] += held / (masses[target].sum() + own)
    return result / len(window.masses[b])


def pair_similarity(windows, measure, a, b):
    """Mean over windows of measure(window, a, b), [G_b, G_a]."""
    return np.mean([measure(window, a, b) for window in windows], axis=0)


def head_map(pair):
    """[G_b, G_a] -> the best source head of each target head, ties -> lowest."""
    return [int(np.argmax(row)) for row in pair]


def layer_similarities(windows, measure):
    """(similarity [N, N] with [a, b] set for a ≤ b, {(a, b): head map})."""
    count = len(windows[0].choices)
    similarity, maps = np.zeros((count, count)), {}
    for a in range(count):
        for b in range(a, count):
            pair = pair_similarity(windows, measure, a, b)
            similarity[a, b] = pair.max(axis=1).mean()
            maps[a, b] = head_map(pair)
    return similarity, maps


def best_anchors(similarity, weights):
    """{anchor count: (total, anchors)} for every count, by dynamic programming.

    Maximises the sum over layers b of weights[b] · similarity[a, b], a the latest anchor ≤ b; layer
    0 is always one. Ties -> smallest last anchor, then the smallest before it, and so on.
    """
    count = len(weights)
    value = np.asarray(similarity) * np.asarray(weights)[None, :]
    best = {(0, 0): (0.0, ())}  # (anchors, layers covered) -> (total, anchors)
    for anchors in range(1, count + 1):
        for covered in range(anchors, count + 1):
            for last in range(anchors - 1, covered):
                if (anchors - 1, last) not in best:
                    continue
                total, earlier = best[anchors - 1, last]
                total = total + value[last, last:covered].sum()
                if (anchors, covered) not in best or total > best[anchors, covered][0]:
                    best[anchors, covered] = (total, earlier + (last,))
    return {anchors: best[anchors, count] for anchors in range(1, count + 1)}


def total_of(similarity, weights, anchors):
    """What best_anchors maximises, for a given set."""
    return sum(
        weights[b] * similarity[max(a for a in anchors if a <= b)][b] for b in range(len(weights)))


@dataclass(frozen=True)
class Step:
    """What the greedy maker decided about one layer."""

    role: str
    anchor: int
    reason: str


def greedy_schedule(similarity, max_reuse_dist=4, threshold=0.65):
    """Steps of the greedy maker; similarity [a, b] of layer pairs."""
    steps, anchors = [Step("dense", 0, "first layer")], []
    for b in range(1, len(similarity)):
        reach = [a for a in anchors if b - a <= max_reuse_dist - 1]
        best = max(reach, key=lambda a: (similarity[a][b], a), default=None)
        if best is not None and similarity[best][b] >= threshold:
            steps.append(Step("reuse", best, "similar"))
            continue
        reason = "low similarity" if reach else "distance"
        steps.append(Step("anchor", b, "first sparse layer" if b == 1 else reason))
        anchors.append(b)
    return steps
