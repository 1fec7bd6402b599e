"""Muon for the matrices of the layers, Adam for the embedding and the norms."""

import torch

from .model import MATRICES, with_layers

MUON_MOMENTUM, MUON_DECAY = 0.95, 0.05
ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON = 0.9, 0.95, 1e-10
CLIP = 1.0  # Largest norm of all gradients together.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # One step of X -> a X + (b A + c A²) X, A = X Xᵀ.
NEWTON_SCHULZ_STEPS = 5


def orthogonalised(matrices):
    """Nearly orthogonal matrices of the same row and column spaces, for [L, rows, columns]."""
    x = matrices.to(torch.bfloat16)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(1, 2).contiguous()
    x = x / (x.float().flatten(1).norm(dim=1)[:, None, None] + 1e-7).to(x.dtype)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = torch.bmm(x, x.transpose(1, 2))
        x = a * x + torch.bmm(b * square + c * torch.bmm(square, square), x)
    return (x.transpose(1, 2) if tall else x).float()


class Optimiser:
    """Keeps the moments of a model's parameters and changes the parameters by their gradients."""

    def __init__(self, model):
        self.model, self.steps = model, 0
        self.first = {k: torch.zeros_like(v, requires_grad=False)
                      for k, v in model.parameters.items()}
        self.second = {k: torch.zeros_like(v) for k, v in self.first.items() if k not in MATRICES}

    def state(self):
        return {"first": self.first, "second": self.second, "steps": self.steps}

    def load(self, state):
        self.steps = state["steps"]
        for own, saved in ((self.first, state["first"]), (self.second, state["second"])):
            for name, tensor in own.items():
                tensor.copy_(saved[name])

    def repeat_layers(self, order):
        """The state of an optimiser for a model whose layers stand in this order."""
        return {"first": with_layers(self.first, order),
                "second": with_layers(self.second, order), "steps": self.steps}

    @torch.no_grad()
    def step(self, muon_rate, adam_rate):
        """One step at these learning rates; returns the norm of the gradients before clipping."""
        self.steps += 1
        gradients = self.model.gradients
        norm = sum(float((g * g).sum()) for g in gradients.values()) ** 0.5
        scale = min(1.0, CLIP / (norm + 1e-6))
        for name, parameter in self.model.parameters.items():
            if name in MATRICES:
                self.muon(name, parameter, gradients[name] * scale, muon_rate)
            else:
                self.adam(name, parameter, gradients[name] * scale, adam_rate)
        self.model.refresh()
        return norm

    def muon(self, name, parameter, gradient, rate):
        """Nesterov momentum, orthogonalised for each of the matrices that stand in one tensor."""
        shape, momentum = self.model.shape, self.first[name]
        momentum.mul_(MUON_MOMENTUM).add_(gradient, alpha=1 - MUON_MOMENTUM)
        update = gradient * (1 - MUON_MOMENTUM) + momentum * MUON_MOMENTUM
        parts = {"qkv": shape.qkv_parts, "gate_up": 2 * [shape.ffn]}.get(name, parameter.shape[1])
        parameter.mul_(1 - rate * MUON_DECAY)
        for part, change in zip(parameter.split(parts, 1), update.split(parts, 1)):
            stretch = max(1.0, part.shape[1] / part.shape[2]) ** 0.5
            part.add_(orthogonalised(change), alpha=-rate * stretch)

    def adam(self, name, parameter, gradient, rate):
        first, second = self.first[name], self.second[name]
        first.lerp_(gradient, 1 - ADAM_BETA1)
        second.lerp_(gradient * gradient, 1 - ADAM_BETA2)
        bias1, bias2 = 1 - ADAM_BETA1**self.steps, 1 - ADAM_BETA2**self.steps
        parameter.addcdiv_(first, (second / bias2).sqrt_().add_(ADAM_EPSILON), value=-rate / bias1)
