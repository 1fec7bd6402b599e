"""A Llama forward pass in float64, written from the published architecture.

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
    rope_scaling: dict | None  # None, or the llama3 parameters
    tied: bool


def read_config(folder):
    """Config of a Hugging Face folder; older (rope_scaling) and newer (rope_parameters) files."""
    raw = json.loads((pathlib.Path(folder) / "config.json").read_text())
    for bias in ("attention_bias", "mlp_bias"):
        if raw.get(bias):
            raise ValueError(f"{bias} is not supported")
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
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
        rope_scaling=rope if kind == "llama3" else None,
        tied=bool(raw.get("tie_word_embeddings", False)),
    )


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


class Model:
    """config, weights, and the embedding and output matrices [V, W] (one of them when tied)."""

    def __init__(self, folder):
        self.config = read_config(folder)
        self.weights = read_weights(folder)
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
                            for name, weight in self.weights.items() if "_proj." in name}

    def over_cache(self, attention=None):
        """The attention over keys and values as the KV cache holds them; here exactly."""
        return attention or dense_attention

    def layer(self, index, name):
        return self.weights[f"model.layers.{index}.{name}.weight"]

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
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2.0 * math.pi)
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)  # 0: divided, 1: kept
    return (1.0 - blend) * frequencies / factor + blend * frequencies


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
    q = split_heads(h @ model.projection(index, "self_attn.q_proj"), config.heads)
    k = split_heads(h @ model.projection(index, "self_attn.k_proj"), config.kv_heads)
    v = split_heads(h @ model.projection(index, "self_attn.v_proj"), config.kv_heads)
    positions, frequencies = first + np.arange(x.shape[0]), rope_frequencies(config)
    o = attention(index, rope(q, positions, frequencies), rope(k, positions, frequencies), v)
    joined = o.transpose(1, 0, 2).reshape(x.shape[0], -1)
    return joined @ model.projection(index, "self_attn.o_proj")


def mlp_block(model, index, x):
    """SwiGLU: x [L, W] -> what the MLP of the layer adds, [L, W]."""
    h = rms_norm(x, model.layer(index, "post_attention_layernorm"), model.config.eps)
    gate = h @ model.projection(index, "mlp.gate_proj")
    up = h @ model.projection(index, "mlp.up_proj")
    with np.errstate(over="ignore"):
        activated = gate / (1.0 + np.exp(-gate)) * up
    return activated @ model.projection(index, "mlp.down_proj")


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
    return rms_norm(x, model.weights["model.norm.weight"], model.config.eps) @ model.head


def forward(model, tokens, attention=dense_attention, observe=None, first=0):
    """Logits [L, V] of tokens at the positions first, first + 1, …; see through_layers."""
    x = model.embedding[np.asarray(tokens)]
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
