"""Muon for the matrices of the layers, AdamW for the embedding and the norms."""

from __future__ import annotations

import torch


def orthogonal(g: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrix, for a stack [n][rows][cols], rows <= cols."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(steps):
        s = x @ x.transpose(1, 2)
        x = a * x + (b * s + c * (s @ s)) @ x
    return x.float()


class Muon(torch.optim.Optimizer):
    """Momentum (Nesterov), orthogonalised; matrices of one shape are handled as one stack."""

    def __init__(self, params, lr: float, momentum: float = 0.95, decay: float = 0.02):
        super().__init__(params, dict(lr=lr, momentum=momentum, decay=decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes: dict[tuple, list] = {}
            for p in group["params"]:
                shapes.setdefault((min(p.shape), max(p.shape)), []).append(p)
            for parameters in shapes.values():
                updates = []
                for p in parameters:
                    state = self.state[p]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(p)
                    m = state["momentum"]
                    m.lerp_(p.grad, 1 - group["momentum"])
                    u = p.grad.lerp(m, group["momentum"])
                    updates.append(u if p.shape[0] <= p.shape[1] else u.T)
                stack = orthogonal(torch.stack(updates))
                for p, u in zip(parameters, stack):
                    u = u if p.shape[0] <= p.shape[1] else u.T
                    p.mul_(1 - group["lr"] * group["decay"])
                    p.add_(u, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


def build(model: torch.nn.Module, muon_lr: float, adam_lr: float):
    matrices, table, rest = [], [], []
    for name, p in model.named_parameters():
        (rest if p.dim() < 2 else table if "embed" in name else matrices).append(p)
    adam = torch.optim.AdamW(
        [dict(params=table, lr=adam_lr), dict(params=rest, lr=adam_lr)], betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0
    )
    return [Muon(matrices, lr=muon_lr), adam]
