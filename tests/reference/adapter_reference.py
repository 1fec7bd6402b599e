"""Sparse adapters in float64, written from docs/adapters.md: what their layers compute, and the
losses that they are trained by.

Reads the folder of an adapter (adapter.json, adapter.safetensors) beside that of its model. Loops
over rows, heads and windows; each row is computed alone, so that equal rows give equal numbers.
Names of sizes as in llama.py.
"""

import json
import math
import pathlib
from dataclasses import dataclass

import numpy as np

from llama import (attention_block, log_softmax, logits_of, mlp_block, read_safetensors, rms_norm,
                   rope, rope_frequencies, rope_magnitude, softmax, split_heads, through_layers)

NORM_EPS = 1e-6  # of compressed keys and values
LAYER_NORM_EPS = 1e-5  # of the residual streams in the hidden difference
TEMPERATURE = 2.0


class Adapter:
    """The options of an adapter and its tensors."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.options = json.loads((folder / "adapter.json").read_text())["options"]
        self.tensors = read_safetensors(folder / "adapter.safetensors")

    def tensor(self, layer, name):
        """None where the layers do not have it."""
        return self.tensors.get(f"layers.{layer}.{name}")


# ---- The compressed branch ----


def window_starts(options, length):
    """First tokens of the windows that lie within the first `length` tokens."""
    return range(0, length - options["compress_block"] + 1, options["compress_stride"])


def visible_windows(options, row):
    """How many windows the row sees, always the first ones."""
    last_end = row if options["sees_own_window"] else row - 1
    return len(window_starts(options, last_end + 1))


def of_head(tensors, head):
    """The tensor of a KV head; one tensor alone belongs to all of them."""
    return tensors[0] if len(tensors) == 1 else tensors[head]


def network(adapter, layer, part, window, head):
    """One hidden layer over the window [l, D], place after place -> [D]."""

    def times(name, x):
        y = of_head(adapter.tensor(layer, f"{part}.{name}.weight"), head) @ x
        bias = adapter.tensor(layer, f"{part}.{name}.bias")
        return y if bias is None else y + of_head(bias, head)

    return times("out", np.maximum(times("hidden", window.reshape(-1)), 0.0))


def compressed(adapter, layer, part, x, head):
    """x [L, D]: keys or values of a KV head before rotation, `part` says which -> [windows, D]."""
    options = adapter.options
    compressor = options["key_compressor" if part == "keys" else "value_compressor"]
    positions = of_head(adapter.tensor(layer, f"{part}.positions"), head)
    norm = adapter.tensor(layer, f"{part}.norm")
    rows = []
    for start in window_starts(options, len(x)):
        window = x[start:start + options["compress_block"]] + positions
        if compressor == "max_pool":
            row = window.max(axis=0)
        elif compressor == "mean_pool":
            row = window.mean(axis=0)
        else:
            row = network(adapter, layer, part, window, head)
        rows.append(row if norm is None else rms_norm(row, norm, NORM_EPS))
    return np.array(rows).reshape(-1, x.shape[1])


def attend(q, keys, values):
    """One row of one head, q [D] -> its output [D] and the probabilities of the keys."""
    if len(keys) == 0:
        return np.zeros(values.shape[1]), np.zeros(0)
    p = softmax(np.array([key @ q for key in keys]) / math.sqrt(len(q)))
    return p @ values, p


# ---- The selected branch ----


def shared_strides(options, window, block):
    """How many strides of tokens a window and a selection block have in common."""
    stride = options["compress_stride"]
    per_window = options["compress_block"] // stride
    per_block = options["selection_block"] // stride
    first = max(window, block * per_block)
    end = min(window + per_window, (block + 1) * per_block)
    return max(0, end - first)


def importance(options, p, blocks):
    """p: probabilities of the windows that the row sees -> those of its first `blocks` blocks."""
    return np.array([sum(p[w] * shared_strides(options, w, block) for w in range(len(p)))
                     for block in range(blocks)])


def selected_blocks(options, row, weights):
    """The blocks that a row selects, in order; `weights`: the importance of each up to its own."""
    own = row // options["selection_block"]
    chosen = {block for block in range(own + 1)
              if block < options["first_blocks"] or block > own - options["local_blocks"]}
    others = sorted(set(range(own + 1)) - chosen, key=lambda block: (-weights[block], block))
    return sorted(chosen | set(others[:options["selected_blocks"] - len(chosen)]))


def tokens_of(options, blocks, row):
    """The tokens of the blocks up to the row."""
    size = options["selection_block"]
    return [t for block in blocks for t in range(block * size, (block + 1) * size) if t <= row]


# ---- A layer ----


def projected(weight, rows):
    return np.array([weight @ row for row in rows])


def queries_keys_values(model, adapter, layer, h):
    """h [L, W], the layer's normed input -> q [H, L, D], k and v [G, L, D], before rotation."""
    config = model.config
    names = ("q_proj", "k_proj", "v_proj")
    heads = (config.heads, config.kv_heads, config.kv_heads)
    own = adapter.tensor(layer, "projections.weight")
    if own is None:
        weights = [model.layer(layer, f"self_attn.{name}") for name in names]
    else:
        ends = np.cumsum([count * config.head_dim for count in heads])
        weights = np.split(own, ends[:2])
    q, k, v = (split_heads(projected(weight, h) + model.bias(layer, f"self_attn.{name}"), count)
               for name, weight, count in zip(names, weights, heads))
    if config.attention_multiplier is not None:
        q = q * config.attention_multiplier * math.sqrt(config.head_dim)  # attend divides
    return q, k, v


def gates(adapter, layer, h):
    """Weights of the branches, [L, H, 3]."""
    logits = projected(adapter.tensor(layer, "gate.weight"), h) + adapter.tensor(layer, "gate.bias")
    logits = logits.reshape(len(h), -1, 3)
    if adapter.options["gate"] == "softmax":
        return softmax(logits)
    return 1.0 / (1.0 + np.exp(-logits))


def group_branches(adapter, layer, head, queries, keys, values, memory):
    """The branches of the query heads of a KV head: [rows, heads of the group, 3, D].

    `queries` and `keys` are pairs, before and after rotation: of queries [R, L, D], of keys [L, D].
    `memory`: keys and values [2, slots, D].
    """
    options = adapter.options
    window_keys = compressed(adapter, layer, "keys", keys[0], head)
    window_values = compressed(adapter, layer, "values", values, head)
    group, length, dim = queries[0].shape
    out = np.zeros((length, group, 3, dim))
    for row in range(length):
        visible = visible_windows(options, row)
        p = np.zeros(visible)
        for r in range(group):
            out[row, r, 0], of_keys = attend(
                queries[0][r, row], np.concatenate([memory[0], window_keys[:visible]]),
                np.concatenate([memory[1], window_values[:visible]]))
            p += of_keys[len(memory[0]):]
        weights = importance(options, p, row // options["selection_block"] + 1)
        chosen = tokens_of(options, selected_blocks(options, row, weights), row)
        recent = range(max(0, row + 1 - options["window"]), row + 1)
        for branch, tokens in ((1, chosen), (2, recent)):
            for r in range(group):
                out[row, r, branch], _ = attend(queries[1][r, row], keys[1][tokens], values[tokens])
    return out


def branches(model, adapter, layer, h):
    """The three branches of all heads, [L, H, 3, D]."""
    config = model.config
    q, k, v = queries_keys_values(model, adapter, layer, h)
    frequencies, magnitude = rope_frequencies(config), rope_magnitude(config)
    rotated_q, rotated_k = (magnitude * rope(x, np.arange(len(h)), frequencies) for x in (q, k))
    memory = adapter.tensor(layer, "memory")
    if memory is None:
        memory = np.zeros((2, config.kv_heads, 0, config.head_dim))
    group = config.heads // config.kv_heads
    parts = []
    for head in range(config.kv_heads):
        heads = slice(head * group, (head + 1) * group)
        parts.append(group_branches(adapter, layer, head, (q[heads], rotated_q[heads]),
                                    (k[head], rotated_k[head]), v[head], memory[:, head]))
    return np.concatenate(parts, axis=1)


def adapter_block(model, adapter, layer, x):
    """Residual stream x [L, W] -> what the layer's adapter adds to it, [L, W]."""
    config = model.config
    h = rms_norm(x, model.layer(layer, "input_layernorm"), config.eps)
    weighted = gates(adapter, layer, h)[..., None] * branches(model, adapter, layer, h)
    joined = weighted.sum(axis=2).reshape(len(x), -1)
    output = adapter.tensor(layer, "output.weight")
    if output is None:
        output = model.layer(layer, "self_attn.o_proj")
    return config.residual_multiplier * projected(output, joined)


# ---- The model ----


def embedded(model, tokens):
    return model.embedding[np.asarray(tokens)] * model.config.embedding_multiplier


def dense_stream(model, tokens):
    """The residual stream of the model itself in front of each layer and behind the last,
    [layers + 1, L, W]."""
    stream = []
    last = through_layers(model, embedded(model, tokens), model.dense_attention,
                          observe=lambda layer, x, y: stream.append(x))
    return np.array([*stream, last])


def adapted_stream(model, adapter, tokens):
    """The same with the adapter in every layer."""
    stream = [embedded(model, tokens)]
    for layer in range(model.config.layers):
        y = stream[-1] + adapter_block(model, adapter, layer, stream[-1])
        stream.append(y + mlp_block(model, layer, y))
    return np.array(stream)


# ---- Losses ----


def layer_loss(model, adapter, layer, x):
    """The squared difference of what the adapter and dense attention add to x [L, W], relative to
    the square of the latter."""
    dense = attention_block(model, layer, x, 0, model.dense_attention)
    return ((adapter_block(model, adapter, layer, x) - dense) ** 2).sum() / (dense ** 2).sum()


@dataclass(frozen=True)
class Loss:
    """The weights of the parts of a loss, and what they are means of."""

    hidden: float = 0.0
    divergence: float = 0.0
    cross_entropy: float = 0.0
    last_layer_only: bool = False  # the hidden difference
    targets_only: bool = False  # the divergence: rows with a target


LOSSES = {
    "mse_hidden": Loss(hidden=1.0),
    "kl_logits": Loss(divergence=1.0),
    "kl_output_only": Loss(divergence=1.0, targets_only=True),
    "mixed": Loss(hidden=0.7 * 0.3, divergence=0.7 * 0.7, cross_entropy=0.3, last_layer_only=True),
    "ce": Loss(cross_entropy=1.0),
}


def layer_norm(x):
    """LayerNorm without weights."""
    centered = x - x.mean(axis=-1, keepdims=True)
    return centered / np.sqrt((centered ** 2).mean(axis=-1, keepdims=True) + LAYER_NORM_EPS)


def hidden_difference(dense, adapted, last_layer_only):
    """Mean over the layers 1 … L, or of the last one, of the squared difference of two streams."""
    first = len(dense) - 1 if last_layer_only else 1
    return np.mean([((layer_norm(a) - layer_norm(d)) ** 2).mean()
                    for d, a in zip(dense[first:], adapted[first:])])


def divergence(dense, adapted):
    """KL(dense ‖ adapted) of each row's next token, at TEMPERATURE and times its square, [L]."""
    p, q = (log_softmax(logits / TEMPERATURE) for logits in (dense, adapted))
    return TEMPERATURE ** 2 * (np.exp(p) * (p - q)).sum(axis=-1)


def text_losses(model, adapter, tokens, targets, loss):
    """The parts of a loss and their weighted sum; targets: each row's next token, −1 for none."""
    dense, adapted = dense_stream(model, tokens), adapted_stream(model, adapter, tokens)
    dense_logits, adapted_logits = logits_of(model, dense[-1]), logits_of(model, adapted[-1])
    rows = [row for row, target in enumerate(targets) if target >= 0]
    of_rows = divergence(dense_logits, adapted_logits)
    logarithms = log_softmax(adapted_logits)
    parts = {
        "hidden": hidden_difference(dense, adapted, loss.last_layer_only),
        "divergence": np.mean(of_rows[rows] if loss.targets_only else of_rows),
        "cross_entropy": -np.mean([logarithms[row, targets[row]] for row in rows]),
    }
    return {"loss": sum(getattr(loss, name) * value for name, value in parts.items()), **parts}
