"""The oracle of Kascade sparse attention, in float64 and in plain steps.

A sequence is cut into query groups. By the tile rule the present rows of a query tile share one
choice of keys; by the row rule each row has its own. A choice is made per KV head:

    scores -> budget -> select      which candidate keys win
    attend                          softmax over sinks, chosen keys and the own block

Selection and attention are separate functions, so that a choice made elsewhere can be fed to
`attend` and judged by `scores`. Sizes: L tokens, H query heads, G KV heads, R = H / G, D head dim,
T query tile.
"""

import json
import pathlib
from dataclasses import dataclass, field, replace

import numpy as np

from llama import dense_attention, probabilities, softmax, weighted_values


@dataclass(frozen=True)
class Rule:
    """How keys are chosen; the defaults are those of family `kascade`."""

    family: str = "kascade"  # or "tile": key tiles of query_tile keys instead of single keys
    query_tile: int = 32
    ratio: float = 0.10  # kascade: share of the keys before the tile
    min_keys: int = 128  # kascade: at least this many
    top_k: int = 12  # tile: key tiles, the own one not counted
    decode_own_tile: bool = True  # False: row rule without a forced own block (kascade only)
    sink_keys: int = 0  # first keys, always attended, never candidates
    pooling: str = "sum"  # kascade: over deciding rows and heads; or "max"
    all_heads: bool = False  # kascade: one choice for all KV heads, whose scores are pooled too


@dataclass(frozen=True)
class Layer:
    """One layer of a schedule. head_map[g] = KV head of the anchor whose keys head g attends to."""

    role: str  # dense | anchor | reuse
    anchor: int  # own index unless reuse
    head_map: tuple


@dataclass(frozen=True)
class Schedule:
    rule: Rule
    layers: tuple

    def used_heads(self, layer):
        """KV heads of `layer` whose choice some layer attends to."""
        heads = set()
        for index, other in enumerate(self.layers):
            if other.role == "reuse" and other.anchor == layer:
                heads.update(other.head_map)
            if index == layer and other.role == "anchor" and self.rule.family == "kascade":
                heads.update(other.head_map)
        return heads


def read_schedule(path):
    """A schedule file -> Schedule."""
    raw = json.loads(pathlib.Path(path).read_text())
    names = ("family", "query_tile", "ratio", "min_keys", "top_k", "decode_own_tile", "sink_keys",
             "all_heads")
    if raw["selection"]["family"] == "kascade":
        names += ("pooling",)
    rule = Rule(**{name: raw["selection"][name] for name in names if name in raw["selection"]})
    layers = (Layer(x["role"], x["anchor"], tuple(x["head_map"])) for x in raw["layers"])
    return Schedule(rule, tuple(layers))


@dataclass(frozen=True)
class Group:
    """Query rows [first, last) that share one choice."""

    first: int
    last: int
    row: bool  # decided by the row rule


def groups_of(rule, length, tile_rule_end):
    """Rows before tile_rule_end by tiles at absolute positions, the others one by one."""
    end = min(length, tile_rule_end)
    tile = rule.query_tile
    tiles = [Group(s, min(s + tile, end), False) for s in range(0, end, tile)]
    return tiles + [Group(t, t + 1, True) for t in range(end, length)]


def candidates(rule, group):
    """(begin, end) of the candidate keys; sinks lie before begin, the own block from end on."""
    end = group.first // rule.query_tile * rule.query_tile
    if group.row and not rule.decode_own_tile:
        if rule.family != "kascade":
            raise ValueError("decode_own_tile = false belongs to family kascade")
        end = group.first + 1
    begin = min(rule.sink_keys, end)
    if rule.family == "tile" and begin % rule.query_tile:
        raise ValueError("sinks of family tile must fill whole tiles")
    return begin, end


def unit_of(rule):
    """Keys in one unit of choice."""
    return rule.query_tile if rule.family == "tile" else 1


def budget(rule, group):
    """Units to choose, at most the candidate units."""
    begin, end = candidates(rule, group)
    if rule.family == "tile":
        wanted = rule.top_k
    else:
        wanted = max(rule.min_keys, int(rule.ratio * float(end)))
    return min(wanted, (end - begin) // unit_of(rule))


def takes_all(rule, group):
    begin, end = candidates(rule, group)
    return budget(rule, group) * unit_of(rule) == end - begin


def pooled(rule, p, axis):
    """Family kascade: scores from the probabilities along `axis` of each KV head, which is axis 0."""
    one = np.max if rule.pooling == "max" else np.sum
    values = one(p, axis=axis)
    if rule.all_heads:
        values = np.broadcast_to(one(values, axis=0, keepdims=True), values.shape)
    return values


def scores(rule, q, k, group):
    """Score of each candidate unit, [G, units].

    q [H, rows of the group, D], k [G, keys, D]; keys from group.last on are never read.
    """
    begin, end = candidates(rule, group)
    heads, kv_heads = q.shape[0], k.shape[0]
    if rule.family == "tile":  # the last row decides
        p = probabilities(q[:, -1:], k, group.last - 1)[:, 0, begin:end]
        p = p.reshape(kv_heads, heads // kv_heads, -1, rule.query_tile)
        return p.max(axis=(1, 3))
    p = probabilities(q, k, group.first)[:, :, begin:end]
    return pooled(rule, p.reshape(kv_heads, -1, end - begin), axis=1)


def select(values, count):
    """The `count` best units of each head, ascending; equal scores -> lower index.

    values [G, units] -> [G, count].
    """
    order = np.argsort(-values, axis=-1, kind="stable")
    return np.sort(order[:, :count], axis=-1)


def keys_of(rule, group, units):
    """Key indices of chosen units [G, count] -> [G, count · unit]."""
    begin, _ = candidates(rule, group)
    unit = unit_of(rule)
    keys = begin + units[:, :, None] * unit + np.arange(unit)
    return keys.reshape(units.shape[0], -1)


def attended_keys(rule, group, chosen):
    """Sinks, one head's chosen keys and the own block, ascending."""
    begin, end = candidates(rule, group)
    own = np.arange(end, group.last)
    return np.concatenate([np.arange(begin), np.asarray(chosen, dtype=np.int64), own])


def attend(rule, q, k, v, group, sets):
    """Softmax over the attended keys only.

    q [H, rows of the group, D], k and v [G, keys, D], sets[g] = chosen keys -> [H, rows, D].
    """
    kv_heads, (heads, rows, dim) = k.shape[0], q.shape
    shared = heads // kv_heads
    positions = group.first + np.arange(rows)
    out = np.empty((heads, rows, v.shape[2]))
    for g in range(kv_heads):
        keys = attended_keys(rule, group, sets[g])
        mine = slice(g * shared, (g + 1) * shared)
        logits = np.matmul(q[mine].reshape(-1, dim), k[g, keys].T) / np.sqrt(dim)
        logits = logits.reshape(shared, rows, -1)
        logits[:, keys[None, :] > positions[:, None]] = -np.inf
        p = softmax(logits)
        out[mine] = np.matmul(p.reshape(shared * rows, -1), v[g, keys]).reshape(shared, rows, -1)
    return out


def attend_by_mask(rule, q, k, v, group, sets):
    """The same by another route: full softmax, other keys set to 0, rows divided by the rest."""
    p = probabilities(q, k, group.first)
    shared = q.shape[0] // k.shape[0]
    for g in range(k.shape[0]):
        kept = np.zeros(group.last, dtype=bool)
        kept[attended_keys(rule, group, sets[g])] = True
        p[g * shared:(g + 1) * shared, :, ~kept] = 0.0
    p /= p.sum(axis=-1, keepdims=True)
    return weighted_values(p, v)


def choose(rule, q, k, group):
    """Chosen keys [G, keys] of one group and, where a choice was needed, the unit scores."""
    begin, end = candidates(rule, group)
    if takes_all(rule, group):
        return np.tile(np.arange(begin, end), (k.shape[0], 1)), None
    values = scores(rule, q, k, group)
    return keys_of(rule, group, select(values, budget(rule, group))), values


@dataclass
class SparseAttention:
    """The attention of a whole sequence under a schedule; pass it to llama.forward.

    given(layer, group) -> sets[g], if set, replaces the choice of a selecting layer, whose scores
    are then those of hidden states that follow from the given choices. on_choice(layer, group,
    values, sets) sees each choice that was needed (fewer units than candidates), values [G, units].
    """

    schedule: Schedule
    tile_rule_end: int
    given: object = None
    on_choice: object = None
    choices: dict = field(default_factory=dict)  # layer -> sets of each group

    def __call__(self, layer, q, k, v):
        """q [H, L, D], k and v [G, L, D] -> [H, L, D]."""
        plan = self.schedule.layers[layer]
        groups = groups_of(self.schedule.rule, q.shape[1], self.tile_rule_end)
        if plan.role != "reuse" and self.schedule.used_heads(layer):
            self.choices[layer] = [self.choice(layer, q, k, group) for group in groups]
        if plan.role == "dense" or (plan.role == "anchor" and self.schedule.rule.family == "tile"):
            return dense_attention(layer, q, k, v)
        return self.sparse(plan, groups, q, k, v)

    def choice(self, layer, q, k, group):
        """Sets [G][keys] of one group."""
        rule = self.schedule.rule
        if takes_all(rule, group):
            return choose(rule, q, k, group)[0]
        rows = q[:, group.first:group.last]
        if self.given is None:
            sets, values = choose(rule, rows, k, group)
        else:
            sets = self.given(layer, group)
            values = scores(rule, rows, k, group) if self.on_choice is not None else None
        if self.on_choice is not None:
            self.on_choice(layer, group, values, sets)
        return sets

    def sparse(self, plan, groups, q, k, v):
        """Output of a layer that attends to the chosen keys of `plan.anchor` by its head map."""
        out = np.empty(q.shape[:2] + v.shape[2:])
        for group, sets in zip(groups, self.choices[plan.anchor]):
            mapped = [sets[head] for head in plan.head_map]
            rows = slice(group.first, group.last)
            out[:, rows] = attend(self.schedule.rule, q[:, rows], k, v, group, mapped)
        return out


def attended_count(rule, group, position, sparse):
    """Keys that the row at `position` of a group attends to, per KV head."""
    if not sparse:
        return position + 1
    begin, end = candidates(rule, group)
    return begin + budget(rule, group) * unit_of(rule) + position + 1 - end


def deciding_rows(rule, group):
    return [group.last - 1] if rule.family == "tile" else list(range(group.first, group.last))


def layer_counts(schedule, index, group, position):
    """(attended, scored, K and V rows read) of one row in one layer, per KV head."""
    rule, plan = schedule.rule, schedule.layers[index]
    causal = position + 1
    own_sparse = plan.role == "anchor" and rule.family == "kascade"
    sparse = plan.role == "reuse" or own_sparse
    attended = attended_count(rule, group, position, sparse)
    selects = plan.role != "reuse" and schedule.used_heads(index) and not takes_all(rule, group)
    scored = causal if selects and position in deciding_rows(rule, group) else 0
    read = causal + attended if own_sparse and selects else 2 * attended
    return attended, scored, read


def counts(schedule, kv_heads, length, tile_rule_end, row_bytes=None):
    """Sums over layers, KV heads and the positions 0 … length − 1.

    row_bytes: bytes of one K or V row of one head; the bytes are counted as if each row ran alone,
    so pass tile_rule_end = 0 for them to mean the row rule.
    """
    total = dict(causal=0, attended=0, scored=0, rows_read=0, dense_rows_read=0)
    for group in groups_of(schedule.rule, length, tile_rule_end):
        for position in range(group.first, group.last):
            for index in range(len(schedule.layers)):
                attended, scored, read = layer_counts(schedule, index, group, position)
                total["causal"] += (position + 1) * kv_heads
                total["attended"] += attended * kv_heads
                total["scored"] += scored * kv_heads
                total["rows_read"] += read * kv_heads
                total["dense_rows_read"] += 2 * (position + 1) * kv_heads
    if row_bytes is not None:
        total["kv_bytes_read"] = total["rows_read"] * row_bytes
        total["dense_kv_bytes_read"] = total["dense_rows_read"] * row_bytes
    return total


def with_ratio(schedule, ratio):
    """The schedule with another ratio (None: unchanged)."""
    if ratio is None:
        return schedule
    return replace(schedule, rule=replace(schedule.rule, ratio=ratio))
