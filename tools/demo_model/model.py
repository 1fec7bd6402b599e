"""The shape of a Llama model, its parameters, and its computation in plain PyTorch.

Parameters of one kind are stacked over the layers: {name: tensor}, f32 master weights.
    embedding [V, d]        also the output matrix
    qkv       [L, (H + 2 G) D, d]    queries, keys, values
    output    [L, d, H D]
    gate_up   [L, 2 F, d]   gates, ups
    down      [L, d, F]
    attention_norm, ffn_norm [L, d], final_norm [d]
"""

import contextlib
import dataclasses
import math

import torch
import torch.nn.functional as F

MATRICES = ("qkv", "output", "gate_up", "down")
UNSTACKED = ("embedding", "final_norm")
NORM_EPSILON = 1e-5
QUERY_BLOCK = 512  # Rows of attention computed at a time where PyTorch has no fused attention.


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a model; `group` is the number of query heads per key-value head."""

    layers: int
    width: int
    kv_heads: int
    group: int
    head_dim: int
    ffn: int
    vocabulary: int
    theta: float = 2e5
    context: int = 4096

    @property
    def heads(self):
        return self.kv_heads * self.group

    @property
    def qkv_parts(self):
        """Rows of qkv that belong to queries, keys and values."""
        return [self.heads * self.head_dim] + 2 * [self.kv_heads * self.head_dim]


def initial_parameters(shape, seed):
    """Normally distributed matrices; those that write to the residual stream start small."""
    generator = torch.Generator().manual_seed(seed)

    def random(*size):
        return torch.randn(*size, generator=generator)

    d, layers, inner = shape.width, shape.layers, shape.heads * shape.head_dim
    small = 0.3 / math.sqrt(2 * layers)
    return {
        "embedding": random(shape.vocabulary, d) * 0.05,
        "qkv": random(layers, sum(shape.qkv_parts), d) * d**-0.5,
        "output": random(layers, d, inner) * inner**-0.5 * small,
        "gate_up": random(layers, 2 * shape.ffn, d) * d**-0.5,
        "down": random(layers, d, shape.ffn) * shape.ffn**-0.5 * small,
        "attention_norm": torch.ones(layers, d),
        "ffn_norm": torch.ones(layers, d),
        "final_norm": torch.ones(d),
    }


def with_layers(tensors, order):
    """{name: tensor} with the stacked layers in another order; each may stand in many places."""
    return {name: tensor if name in UNSTACKED else tensor[order].clone()
            for name, tensor in tensors.items()}


def repeat_layers(parameters, order):
    """Parameters of a deeper model that computes nearly the same: depth up-scaling.

    What a layer adds to the residual stream is shared out among its copies. (SOLAR,
    arXiv:2312.15166, repeats layers too, but at full size.)
    """
    grown = with_layers(parameters, order)
    for place, layer in enumerate(order):
        for name in ("output", "down"):
            grown[name][place] /= order.count(layer)
    return grown


def rope_table(shape, device="cpu"):
    """Cosines and sines [2 * context, head_dim / 2] of the rotary positions."""
    steps = torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim
    angles = torch.outer(torch.arange(2 * shape.context, dtype=torch.float64), shape.theta**-steps)
    return angles.cos().float().to(device), angles.sin().float().to(device)


def rms_norm(x, weight):
    return x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + NORM_EPSILON) * weight


def rotate(x, cosine, sine):
    """Rotates the halves of the last dimension against each other (Hugging Face's layout)."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)
    return turned.to(x.dtype)


def attend(q, k, v):
    """Causal attention of [B, H, T, D]; fused where this PyTorch can."""
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    rows = []
    for first in range(0, q.shape[2], QUERY_BLOCK):
        last = min(first + QUERY_BLOCK, q.shape[2])
        rows.append(causal_probabilities(q, k, first, last).to(v.dtype) @ v[:, :, :last])
    return torch.cat(rows, 2)


def causal_probabilities(q, k, first, last):
    """Attention of query rows first .. last over keys 0 .. last, as probabilities."""
    scores = q[:, :, first:last] @ k[:, :, :last].transpose(2, 3) * q.shape[-1] ** -0.5
    keys, rows = (torch.arange(n, device=q.device) for n in (last, last - first))
    return scores.masked_fill(keys[None] > rows[:, None] + first, -1e30).float().softmax(-1)


class PlainModel:
    """Forward and backward by PyTorch's autograd: on a GPU in bf16, on any CPU in f32."""

    def __init__(self, shape, parameters, device="cpu"):
        self.shape, self.device = shape, device
        self.parameters = {k: v.to(device).requires_grad_() for k, v in parameters.items()}
        self.cosine, self.sine = rope_table(shape, device)

    @property
    def gradients(self):
        return {name: tensor.grad for name, tensor in self.parameters.items()}

    def refresh(self):
        """To be called when the parameters have changed."""
        for tensor in self.parameters.values():
            tensor.grad = None

    def precision(self):
        if self.device == "cpu":
            return contextlib.nullcontext()
        return torch.autocast(self.device, dtype=torch.bfloat16)

    def layer_inputs(self, x, layer, positions):
        """Rotated queries, keys and values [B, H, T, D] of a layer, keys repeated per group."""
        shape, p = self.shape, self.parameters
        projected = F.linear(rms_norm(x, p["attention_norm"][layer]), p["qkv"][layer])
        parts = [part.unflatten(-1, (-1, shape.head_dim)).transpose(1, 2)
                 for part in projected.split(shape.qkv_parts, -1)]
        cosine, sine = self.cosine[positions][:, None], self.sine[positions][:, None]
        q, k = rotate(parts[0], cosine, sine), rotate(parts[1], cosine, sine)
        return q, k.repeat_interleave(shape.group, 1), parts[2].repeat_interleave(shape.group, 1)

    def finish_layer(self, x, attended, layer):
        """The residual stream after a layer, given its attention [B, H, T, D]."""
        p = self.parameters
        x = x + F.linear(attended.transpose(1, 2).flatten(2), p["output"][layer])
        gate, up = F.linear(rms_norm(x, p["ffn_norm"][layer]), p["gate_up"][layer]).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, p["down"][layer])

    def logits(self, ids, positions):
        """[B, T, V] in f32 of ids and positions [B, T]."""
        x = F.embedding(ids, self.parameters["embedding"])
        for layer in range(self.shape.layers):
            x = self.finish_layer(x, attend(*self.layer_inputs(x, layer, positions)), layer)
        normed = rms_norm(x, self.parameters["final_norm"])
        return F.linear(normed, self.parameters["embedding"]).float()

    def run(self, ids, weights=None, positions=None, train=False):
        """ids and weights [B, T + 1] (numpy) → loss, NLL [B, T] and hits [B, T] of the targets.

        The loss is the mean NLL weighted by weights[:, 1:]; train fills `gradients` with its own.
        """
        ids = torch.as_tensor(ids, device=self.device)
        batch, length = ids.shape[0], ids.shape[1] - 1
        if positions is None:
            positions = torch.arange(length).repeat(batch, 1)
        positions = torch.as_tensor(positions, device=self.device)
        weight = torch.ones(batch, length, device=self.device)
        if weights is not None:
            weight = torch.as_tensor(weights[:, 1:], device=self.device)
        with torch.set_grad_enabled(train), self.precision():
            logits = self.logits(ids[:, :-1], positions)
            targets = ids[:, 1:]
            nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            nll = nll.view(batch, length)
            loss = (nll * weight).sum() / weight.sum()
        if train:
            loss.backward()
        hits = (logits.argmax(-1) == targets).cpu()
        return float(loss), nll.detach().float().cpu(), hits
