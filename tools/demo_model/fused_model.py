"""The same model by hand: forward and backward in bf16 on a CPU with AVX-512, fused_kernels.cc.

About three times as fast as autograd. Activations are bf16; the residual stream, norms
and gradients f32.
"""

import ctypes
import os
import subprocess

import numpy as np
import torch

from .model import rope_table

BF16 = torch.bfloat16
QUERY_BLOCK = 256  # Query rows whose scores are computed together; a multiple of 16.
LOSS_SCALE = 8192.0  # Keeps small gradients of the logits out of bf16's denormals.
SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fused_kernels.cc")
BF16_COPIES = ("embedding", "qkv", "output", "gate_up", "down")


def processor_has_kernels():
    """True if this processor has the instructions that fused_kernels.cc uses."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return False
    return {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"} <= set(flags)


def check_shape(shape):
    """Raises ValueError for sizes that the kernels' vectors do not divide."""
    for name, multiple in (("width", 16), ("ffn", 16), ("vocabulary", 16), ("head_dim", 32)):
        size = getattr(shape, name)
        if size <= 0 or size % multiple:
            raise ValueError(f"{name} is {size}: the CPU kernels need a multiple of {multiple}")


class Kernels:
    """The C++ functions, built into `folder` when the source is newer; called with tensors.

    -ffast-math also makes the processor flush denormals, of which the tails of softmax are full.
    """

    def __init__(self, folder):
        library = os.path.join(folder, "fused_kernels.so")
        if not os.path.exists(library) or os.path.getmtime(library) < os.path.getmtime(SOURCE):
            subprocess.run(["g++", "-std=c++20", "-O3", "-march=native", "-ffast-math", "-fopenmp",
                            "-shared", "-fPIC", "-o", library, SOURCE], check=True)
        # numpy measures its types at first use, and complains if denormals are flushed by then.
        np.finfo(np.float64), np.finfo(np.float32)
        self.library = ctypes.CDLL(library)

    def __call__(self, name, *arguments):
        getattr(self.library, name)(*[self.convert(a) for a in arguments])

    @staticmethod
    def convert(value):
        if torch.is_tensor(value):
            return ctypes.c_void_p(value.data_ptr())
        if value is None:
            return ctypes.c_void_p(0)
        return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int64(value)


def empty(*size):
    return torch.empty(*size, dtype=BF16)


class FusedModel:
    """Has the interface of model.PlainModel. Kernels are built into `folder`."""

    def __init__(self, shape, parameters, folder):
        check_shape(shape)
        self.shape, self.parameters, self.call = shape, parameters, Kernels(folder)
        self.gradients = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.cosine, self.sine = rope_table(shape)
        self.refresh()

    def refresh(self):
        """To be called when the parameters have changed."""
        self.bf16 = {name: self.parameters[name].to(BF16) for name in BF16_COPIES}

    def run(self, ids, weights=None, positions=None, train=False):
        """As PlainModel.run; any length, which is padded here to a multiple of 16."""
        ids = torch.as_tensor(ids)
        batch, length = ids.shape[0], ids.shape[1] - 1
        padding = -length % 16
        weight = torch.ones(batch, length) if weights is None else torch.as_tensor(weights[:, 1:])
        if positions is None:
            positions = torch.arange(length).repeat(batch, 1)
        pad = torch.nn.functional.pad
        ids, weight = pad(ids, (0, padding)), pad(weight, (0, padding))
        positions = pad(torch.as_tensor(positions), (0, padding))
        weight = (weight / weight.sum()).flatten()
        with torch.no_grad():
            nll, hits = self.compute(ids, weight, positions.flatten(), train)
        loss = float((nll.flatten() * weight).sum())
        return loss, nll[:, :length], hits[:, :length].bool()

    def compute(self, ids, weight, positions, train):
        shape, rows = self.shape, ids.shape[0] * (ids.shape[1] - 1)
        self.batch, self.length, self.train = ids.shape[0], ids.shape[1] - 1, train
        self.angles = self.cosine[positions], self.sine[positions]
        inputs = ids[:, :-1].flatten()
        x, h, kept = self.parameters["embedding"][inputs], None, []
        for layer in range(shape.layers):
            x, h = self.layer_forward(layer, x, h, kept)
        x, normed, inverse_rms = self.add_norm(x, h, self.parameters["final_norm"])
        logits = normed @ self.bf16["embedding"].t()
        nll, hits = torch.empty(rows), torch.empty(rows, dtype=torch.uint8)
        targets = ids[:, 1:].flatten().to(torch.int32)
        scaled = weight * LOSS_SCALE if train else weight
        self.call("cross_entropy", rows, shape.vocabulary, logits, targets, scaled, nll, hits)
        if train:
            self.backward(inputs, logits, (x, normed, inverse_rms), kept)
        return nll.view(ids.shape[0], -1), hits.view(ids.shape[0], -1)

    # ---- Forward -----------------------------------------------------------------------------

    def add_norm(self, x, h, weight):
        rows, width = x.shape
        total, normed, inverse_rms = torch.empty(rows, width), empty(rows, width), torch.empty(rows)
        self.call("add_norm_forward", rows, width, x, h, weight, total, normed, inverse_rms)
        return total, normed, inverse_rms

    def blocks(self):
        """Ranges of query rows, each with the keys before its end."""
        step = min(self.length, QUERY_BLOCK)
        return [(a, min(a + step, self.length)) for a in range(0, self.length, step)]

    def split_heads(self):
        """Empty q, k and v; the query heads of a group stand side by side, so GQA is one bmm."""
        shape, rows = self.shape, self.batch * self.shape.kv_heads
        return (empty(rows, self.length * shape.group, shape.head_dim),
                empty(rows, self.length, shape.head_dim), empty(rows, self.length, shape.head_dim))

    def rotate_and_split(self, qkv, q, k, v, back):
        shape = self.shape
        self.call("rotate_and_split", self.batch, self.length, shape.kv_heads, shape.group,
                  shape.head_dim, qkv, q, k, v, *self.angles, int(back))

    def attend(self, q, k, v):
        """Attention [B T, H D], and the probabilities of each block if training."""
        shape, attended, kept = self.shape, torch.empty_like(q), []
        group, scale = shape.group, shape.head_dim**-0.5
        for a, e in self.blocks():
            scores = torch.bmm(q[:, a * group : e * group], k[:, :e].transpose(1, 2))
            self.call("causal_softmax_forward", len(q), e - a, group, e, a, scale, scores)
            attended[:, a * group : e * group] = torch.bmm(scores, v[:, :e])
            kept.append(scores if self.train else None)
        heads = attended.view(self.batch, shape.kv_heads, self.length, group, shape.head_dim)
        return heads.permute(0, 2, 1, 3, 4).reshape(self.batch * self.length, -1), kept

    def layer_forward(self, layer, x, h, kept):
        p, w, rows, ffn = self.parameters, self.bf16, len(x), self.shape.ffn
        x1, normed1, rms1 = self.add_norm(x, h, p["attention_norm"][layer])
        q, k, v = self.split_heads()
        self.rotate_and_split(normed1 @ w["qkv"][layer].t(), q, k, v, back=False)
        attended, probabilities = self.attend(q, k, v)
        h = attended @ w["output"][layer].t()
        x2, normed2, rms2 = self.add_norm(x1, h, p["ffn_norm"][layer])
        gate_up, inner = normed2 @ w["gate_up"][layer].t(), empty(rows, ffn)
        self.call("swiglu_forward", rows, ffn, gate_up, inner)
        if self.train:
            kept.append(((x1, normed1, rms1), (q, k, v, probabilities, attended),
                         (x2, normed2, rms2), (gate_up, inner)))
        return x2, inner @ w["down"][layer].t()

    # ---- Backward ----------------------------------------------------------------------------

    def norm_backward(self, kept, name, layer, grad_y, grad_x, grad_h):
        x, _, inverse_rms = kept
        weight, grad = self.parameters[name], self.gradients[name]
        if layer is not None:
            weight, grad = weight[layer], grad[layer]
        self.call("add_norm_backward", *x.shape, x, weight, inverse_rms, grad_y, grad_x, grad_h,
                  grad)

    def backward(self, inputs, grad_logits, final, kept):
        """Fills the gradients, from those of the logits on; `kept` is emptied on the way."""
        for grad in self.gradients.values():
            grad.zero_()
        grad_y = grad_logits @ self.bf16["embedding"]
        self.gradients["embedding"] += (grad_logits.t() @ final[1]).float()
        grad_x, grad_h = torch.zeros_like(final[0]), torch.empty_like(grad_y)
        self.norm_backward(final, "final_norm", None, grad_y, grad_x, grad_h)
        for layer in reversed(range(self.shape.layers)):
            self.layer_backward(layer, kept.pop(), grad_x, grad_h)
        self.call("embedding_backward", *grad_x.shape, inputs.to(torch.int32), grad_x,
                  self.gradients["embedding"])
        for grad in self.gradients.values():
            grad /= LOSS_SCALE

    def layer_backward(self, layer, kept, grad_x, grad_h):
        """grad_x, and grad_h in bf16: the residual stream's gradient, before and after."""
        norm1, (q, k, v, probabilities, attended), norm2, (gate_up, inner) = kept
        w, grads, rows = self.bf16, self.gradients, len(grad_x)
        grads["down"][layer] = (grad_h.t() @ inner).float()
        grad_inner, grad_gate_up = grad_h @ w["down"][layer], torch.empty_like(gate_up)
        self.call("swiglu_backward", rows, self.shape.ffn, gate_up, grad_inner, grad_gate_up)
        grads["gate_up"][layer] = (grad_gate_up.t() @ norm2[1]).float()
        self.norm_backward(norm2, "ffn_norm", layer, grad_gate_up @ w["gate_up"][layer], grad_x,
                           grad_h)
        grads["output"][layer] = (grad_h.t() @ attended).float()
        grad_qkv = self.attend_backward(grad_h @ w["output"][layer], q, k, v, probabilities)
        grads["qkv"][layer] = (grad_qkv.t() @ norm1[1]).float()
        self.norm_backward(norm1, "attention_norm", layer, grad_qkv @ w["qkv"][layer], grad_x,
                           grad_h)

    def attend_backward(self, grad_attended, q, k, v, probabilities):
        shape, group, scale = self.shape, self.shape.group, self.shape.head_dim**-0.5
        heads = grad_attended.view(self.batch, self.length, shape.kv_heads, group, shape.head_dim)
        grad_out = heads.permute(0, 2, 1, 3, 4).reshape(q.shape)
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros(k.shape), torch.zeros(v.shape)
        for (a, e), kept in zip(self.blocks(), probabilities):
            rows = slice(a * group, e * group)
            grad_v[:, :e] += torch.bmm(kept.transpose(1, 2), grad_out[:, rows])
            grad_scores = torch.bmm(grad_out[:, rows], v[:, :e].transpose(1, 2))
            self.call("causal_softmax_backward", len(q), e - a, group, e, a, scale, kept,
                      grad_scores)
            grad_q[:, rows] = torch.bmm(grad_scores, k[:, :e])
            grad_k[:, :e] += torch.bmm(grad_scores.transpose(1, 2), q[:, rows])
        grad_qkv = empty(self.batch * self.length, sum(shape.qkv_parts))
        self.rotate_and_split(grad_qkv, grad_q, grad_k.to(BF16), grad_v.to(BF16), back=True)
        return grad_qkv
