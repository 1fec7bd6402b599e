"""The runs of the agreement test on random models: lengths, shapes, rules, schedules, chunks."""

from dataclasses import replace

import numpy as np

from kascade import Layer, Rule, Schedule
from nearby import Nearby
from probe import Run
from random_model import Spec

EDGES = (1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 159, 160, 161, 255, 256, 257)
LONGEST = 1313  # the tile at 1312 is the first one whose tenth exceeds 128 keys
KEYS = Rule(min_keys=12)
TILES = Rule(family="tile", query_tile=32, top_k=2)

WIDE = Spec(seed=1, layers=6, heads=8, kv_heads=4, head_dim=16, width=48)
SHAPES = {
    "R1 D32 bf16 file": Spec(seed=2, layers=6, heads=3, kv_heads=3, head_dim=32, dtype="BF16"),
    "R3 D64 sharded": Spec(seed=3, layers=6, heads=6, kv_heads=2, head_dim=64, sharded=True),
    "R4 D80 tied": Spec(seed=4, layers=6, heads=8, kv_heads=2, head_dim=80, tied=True),
    "R8 D128 one KV head": Spec(seed=5, layers=6, heads=8, kv_heads=1, head_dim=128, width=64),
}
INTEGERS = Spec(seed=8, layers=6, heads=8, kv_heads=4, head_dim=16, width=80)
TIES = Spec(seed=6, layers=6, heads=4, kv_heads=2, head_dim=16, theta=1e9,
            positions=False, zero_heads=(1,))


YARN = (("rope_type", "yarn"), ("factor", 4.0), ("original_max_position_embeddings", 64))
# Every family, every addition to a layer and every rope type.
FAMILIES = {
    "mistral": Spec(seed=21, layers=6, kv_heads=2, family="mistral"),
    "mistral, window 40": Spec(seed=22, layers=6, kv_heads=2, family="mistral", window=40),
    "qwen2 tied": Spec(seed=23, layers=6, heads=7, kv_heads=1, family="qwen2", tied=True),
    "qwen3": Spec(seed=24, layers=6, heads=4, kv_heads=2, head_dim=32, family="qwen3"),
    "qwen3 with biases": Spec(seed=25, layers=6, family="qwen3", bias=True),
    "llama with biases": Spec(seed=26, layers=6, bias=True),
    "granite": Spec(seed=27, layers=6, family="granite", tied=True),
    "phi3, window 33": Spec(seed=28, layers=6, heads=3, kv_heads=3, family="phi3", window=33),
    "rope linear": Spec(seed=29, layers=6, rope=(("type", "linear"), ("factor", 2.5))),
    "rope yarn": Spec(seed=30, layers=6, family="qwen2", rope=YARN),
    "rope yarn, all keys": Spec(
        seed=31, layers=6, head_dim=64,
        rope=YARN + (("beta_fast", 16.0), ("beta_slow", 2.0), ("truncate", False),
                     ("attention_factor", 0.9))),
    "rope yarn, mscale": Spec(seed=32, layers=6,
                              rope=YARN + (("mscale", 0.7), ("mscale_all_dim", 0.4))),
}


def streams():
    """name -> tokens [LONGEST]."""
    rng = np.random.default_rng(7)
    few = np.array([65, 66, 67, 68])[rng.integers(0, 4, LONGEST)]
    return {
        "random": rng.integers(0, 257, LONGEST),
        "phrase": np.tile(rng.integers(0, 257, 37), LONGEST // 37 + 1)[:LONGEST],
        "few": few,
        "same": np.full(LONGEST, 65),
    }


def spread(rule, kv_heads):
    """Two anchors, an extra dense layer that serves, permuted and many-to-one head maps."""
    same = tuple(range(kv_heads))
    turned, reverse = same[1:] + same[:1], same[::-1]
    return Schedule(rule, (
        Layer("dense", 0, same), Layer("reuse", 0, turned), Layer("anchor", 2, same),
        Layer("reuse", 2, tuple([kv_heads - 1] * kv_heads)), Layer("dense", 4, same),
        Layer("reuse", 4, reverse)))


def adjacent(rule, kv_heads):
    """Neighbouring anchors, reuse of others than the latest anchor, an anchor at the end."""
    same = tuple(range(kv_heads))
    turned, reverse = same[1:] + same[:1], same[::-1]
    return Schedule(rule, (
        Layer("dense", 0, same), Layer("anchor", 1, same), Layer("anchor", 2, same),
        Layer("reuse", 1, reverse), Layer("reuse", 0, turned), Layer("anchor", 5, same)))


def length_runs():
    """Every length of the list, both families, both deciding rules, plain defaults."""
    runs = [Run("random", LONGEST), Run("random", 257, chunk=100), Run("phrase", 640)]
    for length in EDGES + (640, LONGEST):
        for rule in (KEYS, TILES):
            plan = spread if length % 2 else adjacent
            drops = length > 3 * rule.query_tile
            runs.append(Run("random", length, plan(rule, 4), drops=drops, note=plan.__name__))
    for length in (1, 33, 65, 129, 161, 257, 640):
        for rule in (KEYS, TILES):
            for end in {0, length // 2, length - 1}:
                runs.append(Run("random", length, adjacent(rule, 4), end, drops=length > 128))
    for length in (159, 160, 161, 257, 1290, 1312, LONGEST):
        runs.append(Run("random", length, spread(Rule(), 4), length - length // 9,
                        drops=length > 161, note="defaults"))
    return runs


def rule_runs():
    """Chunks, ratios, sinks, the paper's decode, other tiles."""
    runs = []
    for chunk in (32, 96, 100, 255):
        for rule in (KEYS, TILES):
            runs.append(Run("random", 257, spread(rule, 4), 257 - 60, chunk=chunk, drops=True))
            runs.append(Run("phrase", 640, adjacent(rule, 4), chunk=chunk, drops=True))
    for ratio in (0.01, 0.3, 0.5, 0.99, 1.0):
        runs.append(Run("random", 257, spread(KEYS, 4), 200, ratio=ratio, drops=ratio < 0.9))
    variants = {
        "one key": replace(KEYS, min_keys=1, ratio=1e-6),
        "all but few": replace(KEYS, ratio=0.97),
        "sinks": replace(KEYS, sink_keys=5),
        "many sinks": replace(KEYS, sink_keys=70),
        "paper decode": replace(KEYS, decode_own_tile=False),
        "paper decode, sinks": replace(KEYS, decode_own_tile=False, sink_keys=3),
        "largest": replace(KEYS, pooling="max"),
        "all heads": replace(KEYS, all_heads=True),
        "all heads, largest, sinks": replace(KEYS, all_heads=True, pooling="max", sink_keys=3),
        "all heads, paper decode": replace(KEYS, all_heads=True, decode_own_tile=False),
        "tile 16": replace(TILES, query_tile=16, top_k=3),
        "tile 64": replace(TILES, query_tile=64, top_k=1),
        "all tiles": replace(TILES, top_k=12),
    }
    for note, rule in variants.items():
        for length, end in ((161, 161), (257, 200), (257, 0), (640, 600)):
            run = Run("random", length, spread(rule, 4), end, note=note)
            close = note == "all but few" or (note == "all tiles" and length < 640)
            runs.append(replace(run, drops=not close))
    return runs


def nearby_runs():
    """Windows and chunks of one key, around the sizes of blocks and tiles, and of the whole text."""
    runs = []
    for kind in ("window", "chunk"):
        for size in (1, 15, 16, 17, 33, 64, 257, 300):
            for length, end, chunk in ((257, 257, 0), (257, 200, 100), (65, 0, 0)):
                runs.append(Run("random", length, None, end, chunk=chunk, drops=size < length,
                                nearby=Nearby(kind, size)))
        runs.append(Run("phrase", 640, None, chunk=96, drops=True, nearby=Nearby(kind, 100, (0, 4))))
    return runs


def starts():
    """Short streams: name -> tokens [20]."""
    rng = np.random.default_rng(9)
    return {f"start {i}": rng.integers(0, 257, 20) for i in range(12)}


def integer_runs():
    """Many texts for their first rows, and longer ones with both families."""
    runs = [Run(name, 20) for name in starts()] + [Run("random", 257)]
    for rule in (KEYS, TILES):
        runs.append(Run("random", 257, spread(rule, 4), 200, drops=True))
        runs.append(Run("phrase", 257, adjacent(rule, 4), drops=True, chunk=96))
    return runs


def shape_runs(spec):
    """What every model shape runs."""
    runs = [Run("random", 640)]
    for rule in (KEYS, TILES):
        for plan in (spread, adjacent):
            schedule = plan(rule, spec.kv_heads)
            runs.append(Run("random", 65, schedule, 40, note=plan.__name__))
            runs.append(Run("random", 257, schedule, drops=True, chunk=96, note=plan.__name__))
            runs.append(Run("random", 300, schedule, 257, drops=True, note=plan.__name__))
    runs.append(Run("random", 640, spread(KEYS, spec.kv_heads), 609, drops=True))
    return runs


def family_runs(spec):
    """Dense rows in one step and in chunks; sparse rows where no window forbids them."""
    runs = [Run("random", 130), Run("random", 97, chunk=33)]
    if not spec.window:
        runs.append(Run("random", 161, spread(KEYS, spec.kv_heads), 140, drops=True))
    return runs


def tie_runs():
    """Equal keys: all of them (zero queries), or clusters of equal tokens without positions."""
    runs = []
    for stream in ("random", "few", "same", "phrase"):
        for rule in (KEYS, TILES, replace(KEYS, decode_own_tile=False, sink_keys=2)):
            for plan in (spread, adjacent):
                runs.append(Run(stream, 257, plan(rule, 2), 200, note=plan.__name__))
    return runs
