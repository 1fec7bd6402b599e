"""Schedules and baselines that the cases run with, written by hand: no calibration decides them."""

# Rules of selection, as in a schedule's JSON. Prompts here have some hundred tokens, so the budgets
# are small: keys must be dropped.
KEYS = {"family": "kascade", "query_tile": 32, "unit": 1, "ratio": 0.1, "top_k": 12,
        "min_keys": 24, "pooling": "sum", "decode_own_tile": True, "sink_keys": 0}
# The same family with every other setting different.
KEYS_OTHERWISE = {**KEYS, "query_tile": 16, "ratio": 0.2, "min_keys": 8, "pooling": "max",
                  "decode_own_tile": False, "sink_keys": 4, "all_heads": True}
TILES = {"family": "tile", "query_tile": 16, "unit": 16, "ratio": 0.1, "top_k": 3, "min_keys": 128,
         "pooling": "max", "decode_own_tile": True, "sink_keys": 0}
TILES_OTHERWISE = {**TILES, "query_tile": 32, "unit": 32, "top_k": 1}
RULES = {"keys": KEYS, "other keys": KEYS_OTHERWISE, "tiles": TILES,
         "other tiles": TILES_OTHERWISE}

# With their defaults, and with every setting different. The defaults attend to 128 keys at least.
BASELINES = {
    "oracle": {"kind": "oracle"},
    "other oracle": {"kind": "oracle", "ratio": 0.15, "min_keys": 16, "sink_keys": 3,
                     "dense_layers": []},
    "streaming": {"kind": "streaming"},
    "other streaming": {"kind": "streaming", "ratio": 0.25, "min_keys": 20, "sink_keys": 2,
                        "dense_layers": [1]},
    "quest": {"kind": "quest"},
    "other quest": {"kind": "quest", "ratio": 0.2, "min_keys": 12, "page_size": 8,
                    "dense_layers": [0, 3]},
}


def layer_plans(layers, kv_heads):
    """Layer 0 is dense, some layers select, the rest reuse with every kind of head map."""
    selecting = [0, 2, 5, 8] if layers > 8 else [0, 2]
    own, swapped = list(range(kv_heads)), list(reversed(range(kv_heads)))
    maps = [swapped, [0] * kv_heads, own]
    plans = []
    for layer in range(layers):
        anchor = max(a for a in selecting if a <= layer)
        role = "reuse" if layer != anchor else "anchor" if layer else "dense"
        plans.append({"role": role, "anchor": anchor,
                      "head_map": maps[layer % 3] if role == "reuse" else own,
                      "similarity": 1.0, "importance": 0.5, "reason": "by hand"})
    return plans


def schedule(rule, layers, kv_heads, model=None):
    """A schedule as JSON value. `model` has the digests; without, no server accepts it."""
    empty = ("name", "weights_digest", "config_digest", "tokenizer_digest")
    zero = ("dense_perplexity", "sparse_perplexity", "degradation_percent", "mean_kl", "same_top1",
            "keys_attended_ratio", "keys_scored_ratio")
    return {
        "format_version": 1,
        "schedule_id": "",
        "model": model or {name: "" for name in empty},
        "created_at": "2026-01-01T00:00:00Z",
        "calibration": {"maker": "dp", "data_digest": "", "held_out_digest": "", "windows": 0,
                        "window_tokens": 0, "tokens": 0, "duration_seconds": 0.0,
                        "threshold": 0.0, "max_reuse_dist": 0},
        "selection": rule,
        "layers": layer_plans(layers, kv_heads),
        "quality": {"phase": "row", "protocol": "", "tokens": 0, **{name: 0.0 for name in zero},
                    "max_degradation_percent": 1.0, "suspect": False, "passed": True},
    }
