"""The forward pass of a Llama and of the families derived from it, in float64, written from the
published architectures.

Reads a Hugging Face folder (config.json and safetensors); weights keep their exact values. The
attention of a layer is a parameter of `forward`, so that sparse schedules run through the whole
model. Names of sizes: L tokens, H query heads, G key/value heads, R = H / G, D head dim, W width,
F MLP width, V vocabulary.
"""

import json
import math
import pathlib
from dataclasses import dataclass

import numpy as np

ROW_BLOCK = 256  # query rows computed at once


@dataclass(frozen=True)
class Config:
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    eps: float
    rope_theta: float
    rope_scaling: dict | None  # None, or the object of config.json
    tied: bool
    qkv_bias: bool = False
    output_bias: bool = False
    head_norms: bool = False  # of queries and keys, before rotation
    window: int | None = None  # keys of a row, its own included
    embedding_multiplier: float = 1.0
    attention_multiplier: float | None = None  # None: 1 / √D
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0


def read_config(folder):
    """Config of a Hugging Face folder; older (rope_scaling) and newer (rope_parameters) files."""
    raw = json.loads((pathlib.Path(folder) / "config.json").read_text())
    if raw.get("mlp_bias"):
        raise ValueError("mlp_bias is not supported")
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear", "llama3", "yarn"):
        raise ValueError(f"rope type {kind} is not supported")
    heads = raw["num_attention_heads"]
    return Config(
        layers=raw["num_hidden_layers"],
        width=raw["hidden_size"],
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        mlp=raw["intermediate_size"],
        vocab=raw["vocab_size"],
        eps=raw["rms_norm_eps"],
        rope_theta=rope.get("rope_theta") or raw.get("rope_theta") or 10000.0,
        rope_scaling=dict(rope, rope_type=kind) if kind != "default" else None,
        tied=bool(raw.get("tie_word_embeddings", False)),
        **features_of(raw),
    )


def features_of(raw):
    """What the layers of a family have besides those of a plain Llama."""
    kind = raw["model_type"]
    if kind == "qwen2":
        return {"qkv_bias": True}
    if kind == "qwen3":
        bias = bool(raw.get("attention_bias"))
        return {"head_norms": True, "qkv_bias": bias, "output_bias": bias}
    if kind in ("mistral", "phi3"):
        return {"window": raw["sliding_window"]}
    if kind == "granite":
        return {name: raw[name] for name in ("embedding_multiplier", "attention_multiplier",
                                             "residual_multiplier", "logits_scaling")}
    if kind != "llama":
        raise ValueError(f"model type {kind} is not supported")
    bias = bool(raw.get("attention_bias"))
    return {"qkv_bias": bias, "output_bias": bias}


def decode(data, dtype, shape):
    """Bytes of one safetensors tensor -> float64 array."""
    if dtype == "F32":
        values = np.frombuffer(data, "<f4")
    elif dtype == "F16":
        values = np.frombuffer(data, "<f2")
    elif dtype == "BF16":
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        raise ValueError(f"dtype {dtype} is not supported")
    return values.astype(np.float64).reshape(shape)


def read_safetensors(path):
    """One .safetensors file -> {name: float64 array}."""
    blob = pathlib.Path(path).read_bytes()
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        tensors[name] = decode(blob[begin:end], entry["dtype"], entry["shape"])
    return tensors


def read_weights(folder):
    """All tensors of a folder, sharded or not."""
    folder = pathlib.Path(folder)
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors(folder / "model.safetensors")
    tensors = {}
    for shard in sorted(set(json.loads(index.read_text())["weight_map"].values())):
        tensors.update(read_safetensors(folder / shard))
    return tensors


def separate(weights, config):
    """Divides the joined projections of Phi-3 into those of the other families."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    for index in range(config.layers):
        prefix = f"model.layers.{index}."
        joined = weights.pop(prefix + "self_attn.qkv_proj.weight", None)
        if joined is None:
            continue
        parts = np.split(joined, [queries, queries + keys])
        for name, part in zip(("q_proj", "k_proj", "v_proj"), parts):
            weights[f"{prefix}self_attn.{name}.weight"] = part
        gate, up = np.split(weights.pop(prefix + "mlp.gate_up_proj.weight"), 2)
        weights[prefix + "mlp.gate_proj.weight"] = gate
        weights[prefix + "mlp.up_proj.weight"] = up
    return weights


class Model:
    """config, weights, and the embedding and output matrices [V, W] (one of them when tied)."""

    def __init__(self, folder):
        self.config = read_config(folder)
        self.weights = separate(read_weights(folder), self.config)
        embedding = self.weights.get("model.embed_tokens.weight")
        output = self.weights.get("lm_head.weight")
        if embedding is None and self.config.tied:
            embedding = output
        if output is None and self.config.tied:
            output = embedding
        if embedding is None or output is None:
            raise ValueError("embedding or output matrix is missing")
        self.embedding, self.output = embedding, output
        # x @ matrix takes half the time where the matrix lies in memory as it is multiplied.
        self.head = np.ascontiguousarray(output.T)
        self.projections = {name: np.ascontiguousarray(weight.T)
                            for name, weight in self.weights.items()
                            if name.endswith("_proj.weight")}

    def over_cache(self, attention=None):
        """The attention over keys and values as the KV cache holds them; here exactly."""
        return attention or self.dense_attention

    def dense_attention(self, layer, q, k, v):
        """Attention to all causal keys that lie in the model's window, if it has one."""
        if self.config.window is None:
            return dense_attention(layer, q, k, v)
        return windowed_attention(q, k, v, self.config.window)

    def layer(self, index, name):
        return self.weights[f"model.layers.{index}.{name}.weight"]

    def bias(self, index, name):
        """The bias of a projection; 0 where the model has none."""
        return self.weights.get(f"model.layers.{index}.{name}.bias", 0.0)

    def projection(self, index, name):
        """The transpose of a layer's matrix: [inputs, outputs]."""
        return self.projections[f"model.layers.{index}.{name}.weight"]


def rms_norm(x, weight, eps):
    """x [L, W] -> x / sqrt(mean(x²) + eps) · weight."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rope_frequencies(config):
    """Angle per position of each pair of components, [D / 2]."""
    half = config.head_dim // 2
    frequencies = config.rope_theta ** (-2.0 * np.arange(half) / config.head_dim)
    if config.rope_scaling is None:
        return frequencies
    scaling = config.rope_scaling
    factor = scaling["factor"]
    if scaling["rope_type"] == "linear":
        return frequencies / factor
    if scaling["rope_type"] == "yarn":
        kept = yarn_kept(config, scaling)
        return (1.0 - kept) * frequencies / factor + kept * frequencies
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2.0 * math.pi)
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)  # 0: divided, 1: kept
    return (1.0 - blend) * frequencies / factor + blend * frequencies


def yarn_kept(config, scaling):
    """The share of each pair's frequency that YaRN leaves as it is, [D / 2]."""
    dim, base = config.head_dim, config.rope_theta

    def pair_with(turns):  # turns that the pair makes within the original context
        context = scaling["original_max_position_embeddings"]
        return dim * math.log(context / (2.0 * math.pi * turns)) / (2.0 * math.log(base))

    first, last = pair_with(scaling.get("beta_fast", 32)), pair_with(scaling.get("beta_slow", 1))
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    if first == last:
        last += 0.001
    return 1.0 - np.clip((np.arange(dim // 2) - first) / (last - first), 0.0, 1.0)


def rope_magnitude(config):
    """The factor of the cosines and sines."""
    scaling = config.rope_scaling or {}
    if scaling.get("rope_type") != "yarn":
        return 1.0
    if scaling.get("attention_factor") is not None:
        return scaling["attention_factor"]

    def recommended(strength):
        return 0.1 * strength * math.log(scaling["factor"]) + 1.0 if scaling["factor"] > 1 else 1.0

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return recommended(scaling["mscale"]) / recommended(scaling["mscale_all_dim"])
    return recommended(1.0)


def rope(x, positions, frequencies):
    """x [heads, L, D]: rotates the pairs (p, p + D/2)."""
    angles = positions[:, None] * frequencies[None, :]
    cos, sin = np.cos(angles), np.sin(angles)
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def softmax(logits):
    """Over the last axis, in place; -inf stands for a masked key. Returns its argument."""
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    return logits


def probabilities(q, k, first):
    """Causal attention probabilities of the rows at positions first, first + 1, …

    q [H, rows, D], k [G, keys ≥ first + rows, D] -> [H, rows, first + rows]; keys from
    first + rows on are never read.
    """
    heads, rows, dim = q.shape
    groups, end = k.shape[0], first + rows
    grouped = q.reshape(groups, -1, dim)
    logits = np.matmul(grouped, k[:, :end].transpose(0, 2, 1)) / math.sqrt(dim)
    logits = logits.reshape(heads, rows, end)
    future = np.arange(end)[None, :] > first + np.arange(rows)[:, None]
    logits[:, future] = -np.inf
    return softmax(logits)


def weighted_values(p, v):
    """p [H, rows, keys], v [G, keys or more, D] -> [H, rows, D]."""
    heads, rows, keys = p.shape
    groups = v.shape[0]
    out = np.matmul(p.reshape(groups, -1, keys), v[:, :keys])
    return out.reshape(heads, rows, -1)


def dense_attention(layer, q, k, v):
    """Full causal attention of a whole sequence; q [H, L, D], k and v [G, L, D] -> [H, L, D]."""
    length = q.shape[1]
    out = np.empty(q.shape[:2] + v.shape[2:])
    for first in range(0, length, ROW_BLOCK):
        last = min(first + ROW_BLOCK, length)
        out[:, first:last] = weighted_values(probabilities(q[:, first:last], k, first), v)
    return out


def windowed_attention(q, k, v, window):
    """As dense_attention, but each row attends to its last `window` keys, its own included."""
    length = q.shape[1]
    out = np.empty(q.shape[:2] + v.shape[2:])
    for row in range(length):
        begin = max(0, row + 1 - window)
        keys, values = k[:, begin:row + 1], v[:, begin:row + 1]
        p = probabilities(q[:, row:row + 1], keys, row - begin)
        out[:, row:row + 1] = weighted_values(p, values)
    return out


def split_heads(x, heads):
    """[L, heads · D] -> [heads, L, D]."""
    return np.ascontiguousarray(x.reshape(x.shape[0], heads, -1).transpose(1, 0, 2))


class CachedAttention:
    """Dense attention that keeps keys and values from call to call, for one token at a time."""

    def __init__(self):
        self.cache = {}  # layer -> (k, v) so far

    def __call__(self, layer, q, k, v):
        if layer in self.cache:
            k = np.concatenate([self.cache[layer][0], k], axis=1)
            v = np.concatenate([self.cache[layer][1], v], axis=1)
        self.cache[layer] = k, v
        return weighted_values(probabilities(q, k, k.shape[1] - q.shape[1]), v)


def attention_block(model, index, x, first, attention):
    """Residual stream x [L, W] -> what the attention of the layer adds to it, [L, W]."""
    config = model.config
    h = rms_norm(x, model.layer(index, "input_layernorm"), config.eps)

    def heads_of(name, heads):
        projected = h @ model.projection(index, f"self_attn.{name}")
        return split_heads(projected + model.bias(index, f"self_attn.{name}"), heads)

    q, k = heads_of("q_proj", config.heads), heads_of("k_proj", config.kv_heads)
    if config.head_norms:
        q = rms_norm(q, model.layer(index, "self_attn.q_norm"), config.eps)
        k = rms_norm(k, model.layer(index, "self_attn.k_norm"), config.eps)
    positions, frequencies = first + np.arange(x.shape[0]), rope_frequencies(config)
    magnitude = rope_magnitude(config)
    q, k = (magnitude * rope(z, positions, frequencies) for z in (q, k))
    if config.attention_multiplier is not None:
        q = q * config.attention_multiplier * math.sqrt(config.head_dim)  # probabilities divide
    o = attention(index, q, k, heads_of("v_proj", config.kv_heads))
    joined = o.transpose(1, 0, 2).reshape(x.shape[0], -1)
    added = joined @ model.projection(index, "self_attn.o_proj")
    return config.residual_multiplier * (added + model.bias(index, "self_attn.o_proj"))


def mlp_block(model, index, x):
    """SwiGLU: x [L, W] -> what the MLP of the layer adds, [L, W]."""
    h = rms_norm(x, model.layer(index, "post_attention_layernorm"), model.config.eps)
    gate = h @ model.projection(index, "mlp.gate_proj")
    up = h @ model.projection(index, "mlp.up_proj")
    with np.errstate(over="ignore"):
        activated = gate / (1.0 + np.exp(-gate)) * up
    return model.config.residual_multiplier * (activated @ model.projection(index, "mlp.down_proj"))


def through_layers(model, x, attention=dense_attention, observe=None, first=0, begin=0):
    """The residual stream x [L, W] at the entrance of layer `begin` -> after the last layer.

    attention(layer, q, k, v) -> o as dense_attention does; observe(layer, x, y), if given, sees
    the residual stream [L, W] before and after the attention of each layer.
    """
    for index in range(begin, model.config.layers):
        y = x + attention_block(model, index, x, first, attention)
        if observe is not None:
            observe(index, x, y)
        x = y + mlp_block(model, index, y)
    return x


def logits_of(model, x):
    """The residual stream x [L, W] after the last layer -> logits [L, V]."""
    last = rms_norm(x, model.weights["model.norm.weight"], model.config.eps)
    return last @ model.head / model.config.logits_scaling


def forward(model, tokens, attention=dense_attention, observe=None, first=0):
    """Logits [L, V] of tokens at the positions first, first + 1, …; see through_layers."""
    x = model.embedding[np.asarray(tokens)] * model.config.embedding_multiplier
    return logits_of(model, through_layers(model, x, attention, observe, first))


def log_softmax(logits):
    """Natural log of the softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def continued(model, tokens, count, choose=np.argmax):
    """The tokens and `count` more by dense attention; choose(logits [V]) -> token.

    By default greedily, ties -> lowest id.
    """
    tokens, attention, fed = list(tokens), CachedAttention(), 0
    for _ in range(count):
        logits = forward(model, tokens[fed:], attention, first=fed)
        fed = len(tokens)
        tokens.append(int(choose(logits[-1])))
    return tokens
